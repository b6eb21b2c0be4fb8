"""The networks: what they are made of, how they compute, what they cost."""
