"""The card's `index.html`: one file that opens from disk, with charts, a sample of the works, and no request to anybody."""
