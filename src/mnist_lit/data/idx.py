"""The images of a data set in memory, as Lightning takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mnist_lit.data.batches import Batch, Exchange, Images, ShuffledBatches
from mnist_lit.data.datasets import Folds, IdxSet, Split, Splits, Validation
from mnist_lit.errors import ConfigError, DataError
from mnist_lit.facts import Facts
from mnist_lit.validation import Name, Positive, Seed


@dataclass(kw_only=True, eq=False, repr=False)
class ImagesDataModule(pl.LightningDataModule):
    """The images of a data set in memory, and how batches are made of them.

    Batches are ``uint8``; :class:`~mnist_lit.training.classifier.LitClassifier` augments (in
    training) and normalises them on the device.

    Attributes:
        validation: Which images validate; for this, ``train_size``, ``split_seed``, ``folds`` and
            ``fold`` see :class:`.Splits`.
        batch_size: Images per training step and process.
        eval_batch_size: Images per step where no gradients are kept.
        seed: Decides, with the epoch, the order of the training images.
        dataset: Where the images come from.
        steps: How many batches an epoch has in one process; set by :meth:`check`.
        train: The images that are trained on; these three are set by :meth:`setup`.
        val: The images that validate.
        test: The test images.
    """

    validation: Validation = "test"
    batch_size: Positive = 128
    eval_batch_size: Positive = 1000
    train_size: Positive | None = None
    split_seed: Seed = 0
    folds: Folds | None = None
    fold: Seed | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__init__()
        splits = (self.validation, self.split_seed, self.folds, self.fold, self.train_size)
        self.dataset = self.opened(Splits(*splits))

    def opened(self, splits: Splits) -> IdxSet:
        """Return the data set; nothing is read yet."""
        raise NotImplementedError

    @property
    def facts(self) -> Facts:
        """See :attr:`.IdxSet.facts`."""
        return self.dataset.facts

    def images(self, split: Split) -> Images:
        """See :meth:`.IdxSet.images`."""
        return self.dataset.images(split)

    def check(self) -> None:
        """Refuse to train on more images than there are, before Lightning asks for them.

        Raises:
            ConfigError: ``train_size`` or ``batch_size`` is too large, or there is no such fold.
            DataError: The folder is not there.
        """
        root = self.dataset.root
        if root and not self.dataset.folder.is_dir():
            raise DataError(f"data.root={root}: there is no such folder")
        available = self.dataset.splits.trained_on(self.dataset.sizes[0])
        if self.batch_size > available:
            words = f"at most {available}, the number of training images"
            raise ConfigError(f"data.batch_size={self.batch_size}: {words}")
        self.steps = available // self.batch_size

    def setup(self, stage: str) -> None:
        """Read the splits into memory."""
        self.train, self.val = self.dataset.divided()
        self.test = self.dataset.images("test")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled full batches; the order depends on seed and epoch alone."""
        return self._shuffled(self.train)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation images in order."""
        return self._in_order(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test images in order."""
        return self._in_order(self.test)

    predict_dataloader = test_dataloader

    def _shuffled(self, images: Images, exchange: Exchange | None = None) -> DataLoader[Batch]:
        size, place = len(self.train), self._place
        batches = ShuffledBatches(size, self.batch_size, self.seed, *place, exchange)
        return images.loader(batches, batches.device)

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


@dataclass(eq=False, repr=False)
class IdxDataModule(ImagesDataModule):
    """A folder of one's own in MNIST's layout.

    Attributes: those of :class:`.ImagesDataModule`, and as :class:`.IdxSet` has them:
        root: The folder of the files, or the one above it.
        classes: The names of the classes.
        name: What the data set is called.
        centred: Whether the images are laid out as MNIST's.
    """

    root: Name | Path
    classes: Sequence[str] | None = None
    name: Name | None = None
    centred: bool = False

    def opened(self, splits: Splits) -> IdxSet:
        """Return the data set; nothing is read yet."""
        return IdxSet(self.root, splits, self.classes, self.name, self.centred)
