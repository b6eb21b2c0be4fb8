"""Compact MNIST classifiers, trained with PyTorch Lightning and configured with Hydra."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_lit.network import CompactCNN

__all__ = ["load_pretrained"]


def load_pretrained(name: str) -> "CompactCNN":
    """See :func:`mnist_lit.pretrained.load_pretrained`; torch is loaded when this is called."""
    from mnist_lit import pretrained

    return pretrained.load_pretrained(name)
