"""Records and what holds them: JSONL, shards, streams, sample order; no torch."""
