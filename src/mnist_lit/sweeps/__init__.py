"""Sweeps and searches: many trainings, and their results."""
