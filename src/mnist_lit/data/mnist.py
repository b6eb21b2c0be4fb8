"""MNIST, as Lightning takes it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader

from mnist_lit.data.batches import Batch, collect
from mnist_lit.data.datasets import MnistSet, Splits
from mnist_lit.data.idx import ImagesDataModule
from mnist_lit.data.synthetic import bank, exchange
from mnist_lit.validation import Name, Share


@dataclass(eq=False, repr=False)
class MNISTDataModule(ImagesDataModule):
    """The images of a :class:`.MnistSet`.

    Attributes, besides those of :class:`.ImagesDataModule`:
        root: The folder of the files, or the one above it; None for this checkout's or the user's
            cache.
        drawn: The share of the training images, from 0 to 1, that are exchanged for digits of the
            same kind in forms that MNIST hardly has; see :mod:`~mnist_lit.data.synthetic`.
    """

    root: Name | Path | None = None
    drawn: Share = 0.0

    def opened(self, splits: Splits) -> MnistSet:
        """Return the data set; nothing is read yet."""
        return MnistSet(self.root or "", splits)

    def prepare_data(self) -> None:
        """Find the files, or download them, in one process."""
        assert self.dataset.folder

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled full batches; the order depends on seed and epoch alone."""
        if not self.drawn:
            return super().train_dataloader()
        both = collect((one.images, one.labels) for one in (self.train, bank()))
        chosen = partial(exchange, labels=self.train.labels, share=self.drawn)
        return self._shuffled(both, chosen)
