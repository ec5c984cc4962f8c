"""Feature shards: cached text states and latents beside the image shards."""
