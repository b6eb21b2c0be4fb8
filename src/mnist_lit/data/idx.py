"""A folder of one's own in MNIST's layout, as Lightning takes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mnist_lit.data.memory import Batch, Images, ShuffledBatches, stratified
from mnist_lit.data.sets import Folds, IdxSet, holdout_size
from mnist_lit.errors import ConfigError, DataError
from mnist_lit.validation import Name, Positive, Seed


class IdxDataModule(IdxSet, pl.LightningDataModule):
    """The images of an :class:`.IdxSet`, and how batches are made of them.

    Batches are ``uint8``; :class:`~mnist_lit.training.classifier.LitClassifier` augments (in
    training) and normalises them on the device.

    Args, besides those of :class:`.IdxSet`:
        batch_size: Images per training step and process.
        eval_batch_size: Images per step where no gradients are kept.
        train_size: Train on only this many images, equally many of each class.
        seed: Decides, with the epoch, the order of the training images.
    """

    def __init__(
        self,
        root: Name | Path,
        validation: Literal["test", "holdout"] = "test",
        batch_size: Positive = 128,
        eval_batch_size: Positive = 1000,
        train_size: Positive | None = None,
        split_seed: Seed = 0,
        folds: Folds | None = None,
        fold: Seed | None = None,
        classes: Sequence[str] | None = None,
        name: Name | None = None,
        centred: bool = False,
        seed: Seed = 0,
    ) -> None:
        pl.LightningDataModule.__init__(self)
        IdxSet.__init__(self, root, validation, split_seed, folds, fold, classes, name, centred)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.train_size = train_size
        self.seed = seed

    def check(self, images: int | None = None) -> None:
        """Refuse to train on more images than there are, before Lightning asks for them.

        Args:
            images: How many training images there are, if that is known without reading them.

        Raises:
            ConfigError: ``train_size`` or ``batch_size`` is too large, or there is no such fold.
            DataError: The folder is not there.
        """
        if self.root and not self._folder.is_dir():
            raise DataError(f"data.root={self.root}: there is no such folder")
        available = len(self._read("train")) if images is None else images
        if self.folds is not None or self.fold is not None:
            last = (self.folds or 1) - 1
            if self.folds is None or self.fold is None or not 0 <= self.fold <= last:
                words = f"the fold is counted from 0 to {last}"
                if self.folds is None or self.fold is None:
                    words = "both are needed, as data.folds=5 data.fold=0,1,2,3,4 in a sweep (-m)"
                raise ConfigError(f"data.folds={self.folds} data.fold={self.fold}: {words}")
            available -= -(-available // self.folds)
        elif self.validation == "holdout":
            available -= holdout_size(available)
        if self.train_size is not None:
            if self.train_size > available:
                raise ConfigError(f"data.train_size={self.train_size}: at most {available}")
            available = self.train_size
        if self.batch_size > available:
            raise ConfigError(
                f"data.batch_size={self.batch_size}: at most {available}, the number of training "
                "images"
            )
        self.steps = available // self.batch_size

    def setup(self, stage: str) -> None:
        """Read the splits into memory."""
        train, self.test = self._read("train"), self._read("test")
        if self.validation == "holdout" or self.folds is not None:
            held_out = self._held_out(train)
            self.val = train.subset(held_out)
            kept = torch.ones(len(train), dtype=torch.bool)
            kept[held_out] = False
            train = train.subset(kept.nonzero().flatten())
        else:
            self.val = self.test
        if self.train_size is not None:
            try:
                kept = stratified(train.labels, self.train_size, self.split_seed)
            except ValueError as error:
                raise ConfigError(f"data.train_size={self.train_size}: {error}") from None
            train = train.subset(kept)
        self.train = train

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled full batches; the order depends on seed and epoch alone."""
        rank, world, device = self._place
        batches = ShuffledBatches(len(self.train), self.batch_size, self.seed, rank, world, device)
        return self.train.loader(batches, device)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation images in order."""
        return self._in_order(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test images in order."""
        return self._in_order(self.test)

    predict_dataloader = test_dataloader

    def _in_order(self, images: Images) -> DataLoader[Batch]:
        # Every process takes its share, and nobody an image twice, so that sums over processes are
        # exact.
        rank, world, device = self._place
        share = torch.arange(rank, len(images), world, device=device)
        return images.loader(torch.split(share, self.eval_batch_size), device)

    @property
    def _place(self) -> tuple[int, int, torch.device]:
        if self.trainer is None:
            return 0, 1, torch.device("cpu")
        device = self.trainer.strategy.root_device
        return self.trainer.global_rank, self.trainer.world_size, device
