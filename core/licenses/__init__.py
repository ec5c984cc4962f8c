"""What a source said about rights -> one licence -> whether a policy allows it; no torch, no network."""
