"""Data sets in memory as LightningDataModules."""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mnist_lit.data.batches import Batch, Exchange, Images, ShuffledBatches
from mnist_lit.data.datasets import IdxSet, ImageSet
from mnist_lit.errors import ConfigError, DataError
from mnist_lit.validation import Positive, Seed


@dataclass(kw_only=True, eq=False, repr=False)
class ImagesDataModule(ImageSet, pl.LightningDataModule):
    """The images of a data set in memory, and the batches made of them.

    Batches are ``uint8 [B, 1, side, side]`` and ``int64 [B]``. ``LitClassifier`` augments (in
    training) and normalises them on the device. ``setup`` sets ``train``, ``val`` and ``test``, the
    images of each; ``check`` sets ``steps``, the batches of an epoch in one process. The attributes
    of ``ImageSet`` are here too.

    Attributes:
        batch_size: Images per training step and process.
        eval_batch_size: Images per step of validation and test.
        seed: Decides, with the epoch, the order of the training images.
    """

    batch_size: Positive = 128
    eval_batch_size: Positive = 1000
    seed: Seed = 0

    def __post_init__(self) -> None:
        pl.LightningDataModule.__init__(self)

    def check(self) -> None:
        """Check, before Lightning asks for batches, that there are enough images for one.

        Raises:
            ConfigError: ``train_size`` or ``batch_size`` is too large, or there is no such fold.
            DataError: The folder does not exist.
        """
        if self.root and not self.folder.is_dir():
            raise DataError(f"data.root={self.root}: there is no such folder")
        available = self.trained_on()
        if self.batch_size > available:
            raise ConfigError(f"data.batch_size={self.batch_size}: at most {available} images")
        self.steps = available // self.batch_size

    def setup(self, stage: str) -> None:
        """Read the splits into memory."""
        self.train, self.val = self.divided()
        self.test = self.images("test")

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
        # Each process takes its own share, without repeated images, so that sums over processes are
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
class IdxDataModule(ImagesDataModule, IdxSet):
    """Any folder in MNIST's layout as a LightningDataModule.

    It has the attributes of ``IdxSet``, ``ImagesDataModule`` and ``ImageSet``.
    """
