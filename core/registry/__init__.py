"""Which model is meant by a name, where its files are, and whether its terms allow its use."""
