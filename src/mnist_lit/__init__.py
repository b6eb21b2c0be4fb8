"""Compact image classifiers, trained with PyTorch Lightning and configured with Hydra."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_lit.busy import crowded

if TYPE_CHECKING:
    from mnist_lit.checkpoints.pretrained import load_pretrained as load_pretrained
    from mnist_lit.data.idx import IdxDataModule as IdxDataModule
    from mnist_lit.data.mnist import MNISTDataModule as MNISTDataModule
    from mnist_lit.facts import MNIST as MNIST
    from mnist_lit.facts import Facts as Facts
    from mnist_lit.inference.files import pages as pages
    from mnist_lit.inference.predict import predict as predict
    from mnist_lit.network.compact import CompactCNN as CompactCNN
    from mnist_lit.training.classifier import LitClassifier as LitClassifier
    from mnist_lit.training.hydra import compose as compose
    from mnist_lit.training.train import train as train

# OpenMP reads this when torch is imported: a waiting thread spins this often before it sleeps and
# frees its core for other programs (docs/speed.md).
if "OMP_WAIT_POLICY" not in os.environ and crowded():
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# Each is imported on first use: `import mnist_lit` loads no torch.
_HOMES = {
    "load_pretrained": "checkpoints.pretrained",
    "IdxDataModule": "data.idx",
    "MNISTDataModule": "data.mnist",
    "MNIST": "facts",
    "Facts": "facts",
    "pages": "inference.files",
    "predict": "inference.predict",
    "CompactCNN": "network.compact",
    "LitClassifier": "training.classifier",
    "compose": "training.hydra",
    "train": "training.train",
}
__all__ = list(_HOMES)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mnist_lit' has no attribute {name!r}")
    return getattr(import_module(f"mnist_lit.{_HOMES[name]}"), name)
