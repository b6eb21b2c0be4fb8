"""The config of a run: its keys, their check, and one-line messages for mistakes."""
