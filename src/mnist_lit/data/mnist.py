"""MNIST, as Lightning takes it."""

from pathlib import Path

from torch.utils.data import DataLoader

from mnist_lit.data.batches import Batch, collect
from mnist_lit.data.datasets import Folds, MnistSet, Splits, Validation
from mnist_lit.data.idx import ImagesDataModule
from mnist_lit.data.synthetic import Exchange, bank
from mnist_lit.validation import Name, Positive, Seed, Share


class MNISTDataModule(ImagesDataModule):
    """The images of a :class:`.MnistSet`.

    Args, besides those of :class:`.Splits` and :class:`.ImagesDataModule`:
        root: The folder of the files, or the one above it; None for this checkout's or the user's
            cache.
        drawn: The share of the training images, from 0 to 1, that are exchanged for digits of the
            same kind in forms that MNIST hardly has; see :mod:`~mnist_lit.data.synthetic`.
    """

    def __init__(
        self,
        root: Name | Path | None = None,
        validation: Validation = "test",
        batch_size: Positive = 128,
        eval_batch_size: Positive = 1000,
        train_size: Positive | None = None,
        split_seed: Seed = 0,
        folds: Folds | None = None,
        fold: Seed | None = None,
        seed: Seed = 0,
        drawn: Share = 0.0,
    ) -> None:
        splits = Splits(validation, split_seed, folds, fold, train_size)
        super().__init__(MnistSet(root or "", splits), batch_size, eval_batch_size, seed)
        self.drawn = drawn

    def prepare_data(self) -> None:
        """Find the files, or download them, in one process."""
        assert self.dataset.folder

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled full batches; the order depends on seed and epoch alone."""
        if not self.drawn:
            return super().train_dataloader()
        both = collect((one.images, one.labels) for one in (self.train, bank()))
        return self._shuffled(both, Exchange(self.train.labels, self.drawn))
