"""A trained network reads people's pictures."""
