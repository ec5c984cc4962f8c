"""Images over http(s): one client for many transfers, its limits, and the opt-out signals it honours."""
