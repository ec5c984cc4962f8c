"""Was a record trained on? The index that finds it, the runs that had it, and how it is taken out."""
