"""Shards: tars in WebDataset naming, with an index and a manifest beside each."""
