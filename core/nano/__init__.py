"""The embedded default: scenes, their grammar and reader, and the eight nano models trained on them."""
