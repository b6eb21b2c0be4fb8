"""A trained network as a file for other programs, each format a module."""
