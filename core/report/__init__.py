"""The report of a run or of shards: everything that their manifests say, as a card that can be checked."""
