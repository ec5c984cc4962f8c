"""The embedded default: scenes, their grammar and reader, and the six nano models trained on them."""
