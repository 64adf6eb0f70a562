"""Volumes as stacks of slices: how they are prepared, kept on disk, and drawn for training."""
