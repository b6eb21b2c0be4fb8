"""Compact MNIST classifiers, trained with PyTorch Lightning and configured with Hydra."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_lit.network import CompactCNN
    from mnist_lit.prediction import Prediction

__all__ = ["load_pretrained", "predict"]


def load_pretrained(name: str) -> "CompactCNN":
    """See :func:`mnist_lit.pretrained.load_pretrained`; torch is loaded when this is called."""
    from mnist_lit import pretrained

    return pretrained.load_pretrained(name)


def predict(images: Any, model: str = "final", device: str = "auto") -> "list[Prediction]":
    """See :func:`mnist_lit.prediction.predict`; torch is loaded when this is called."""
    from mnist_lit import prediction

    return prediction.predict(images, model, device)
