"""Compact MNIST classifiers, trained with PyTorch Lightning and configured with Hydra."""
