"""Images from prompts: requests, pipelines, sessions that stay open, and export to diffusers."""
