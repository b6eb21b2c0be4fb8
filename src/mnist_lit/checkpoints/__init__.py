"""Trained networks as files: read safely, and those that come with the package."""
