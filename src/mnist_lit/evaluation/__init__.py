"""Evaluation of networks: counts, requirements, figures and reports."""
