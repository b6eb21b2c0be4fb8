"""MNIST, as Lightning takes it."""

from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import DataLoader

from mnist_lit.data.idx import IdxDataModule
from mnist_lit.data.memory import Batch, Images, ShuffledBatches
from mnist_lit.data.sets import TRAIN, Folds, MnistSet
from mnist_lit.data.synthetic import Exchange
from mnist_lit.validation import Name, Positive, Seed, Share


class MNISTDataModule(MnistSet, IdxDataModule):
    """The images of :class:`.MnistSet`, and how batches are made of them.

    Args, besides those of :class:`.MnistSet`:
        batch_size: Images per training step and process.
        eval_batch_size: Images per step where no gradients are kept.
        train_size: Train on only this many images, equally many of each digit.
        seed: Decides, with the epoch, the order of the training images.
        drawn: The share of them, from 0 to 1, that are exchanged for digits of the same kind in
            forms that MNIST hardly has; see :mod:`~mnist_lit.data.synthetic`.
    """

    def __init__(
        self,
        root: Name | Path | None = None,
        validation: Literal["test", "holdout"] = "test",
        batch_size: Positive = 128,
        eval_batch_size: Positive = 1000,
        train_size: Positive | None = None,
        split_seed: Seed = 0,
        folds: Folds | None = None,
        fold: Seed | None = None,
        seed: Seed = 0,
        drawn: Share = 0.0,
    ) -> None:
        IdxDataModule.__init__(
            self,
            *(root or "", validation, batch_size, eval_batch_size, train_size, split_seed),
            folds=folds,
            fold=fold,
            seed=seed,
        )
        self.drawn = drawn

    def check(self, images: int | None = TRAIN) -> None:
        """See :meth:`IdxDataModule.check`; nothing is read for it."""
        super().check(images)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled full batches; the order depends on seed and epoch alone."""
        if not self.drawn:
            return super().train_dataloader()
        rank, world, device = self._place
        size = len(self.train)
        exchange = Exchange(self.train.labels, self.drawn)
        batches = ShuffledBatches(size, self.batch_size, self.seed, rank, world, device, exchange)
        images = Images(
            torch.cat([self.train.images, exchange.synthetic.images]),
            torch.cat([self.train.labels, exchange.synthetic.labels]),
        )
        return images.loader(batches, device)

    def prepare_data(self) -> None:
        """Find the files, or download them, in one process."""
        assert self._folder
