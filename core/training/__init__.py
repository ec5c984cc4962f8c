"""Training runs: the loop, its data, checkpoints, logs, and what a run will cost."""
