"""Sweeps and searches: many trainings, and what they came to."""
