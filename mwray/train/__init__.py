"""Training: the one loop, its checkpoints, what it measures and who is told."""
