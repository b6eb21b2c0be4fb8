"""Checkpoints: reading, writing, and the trained networks of the package."""
