"""A folder of one's own in MNIST's layout, as Lightning takes it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mnist_lit.config.schema import IDX
from mnist_lit.data.archives import IMAGES, LABELS, REMEDY, folder_of, read
from mnist_lit.data.memory import Batch, Images, ShuffledBatches, folds, stratified
from mnist_lit.errors import ConfigError, DataError
from mnist_lit.facts import Facts

Split = Literal["train", "holdout", "test"]


class IdxDataModule(pl.LightningDataModule):
    """Images of any square size in any number of classes, and how batches are made of them.

    The four files are named as MNIST's, plain or gzipped, as those of Fashion-MNIST and KMNIST are.
    Batches are ``uint8``; :class:`~mnist_lit.training.classifier.LitClassifier` augments (in
    training) and normalises them on the device.

    Args:
        root: The folder of the files, or the one above it.
        validation: ``test`` validates on the test images, ``holdout`` on a twelfth of the training
            images, which is kept out of training.
        batch_size: Images per training step and process.
        eval_batch_size: Images per step where no gradients are kept.
        train_size: Train on only this many images, equally many of each class.
        split_seed: Which images are held out, or kept by ``train_size``.
        folds: Cut the training images into so many parts, of which one validates; ``validation``
            does not count then.
        fold: Which of the parts, from 0.
        classes: The names of the classes in the order of the labels; None for 0, 1, 2 …
        name: What the data set is called; None for the folder's name.
        centred: Whether the images are laid out as MNIST's, and pictures to be prepared so.
        seed: Decides, with the epoch, the order of the training images.
    """

    def __init__(
        self,
        root: str | Path,
        validation: Literal["test", "holdout"] = "test",
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        train_size: int | None = None,
        split_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
        classes: Sequence[str] | None = None,
        name: str | None = None,
        centred: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = root
        self.validation = validation
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.train_size = train_size
        self.split_seed = split_seed
        self.folds = folds
        self.fold = fold
        self.classes = classes
        self.name = name
        self.centred = centred
        self.seed = seed
        self._memory: dict[str, Images] = {}

    @cached_property
    def facts(self) -> Facts:
        """The facts of the data set; its training files are read for them.

        Raises:
            DataError: A file is missing, damaged, or does not fit the others.
        """
        train, test = self._read("train"), self._read("test")
        found = int(train.labels.max()) + 1
        classes = tuple(map(str, self.classes or range(found)))
        highest = max(found - 1, int(test.labels.max()))
        if highest >= len(classes):
            raise DataError(
                f"{self._folder}: labels go up to {highest}, and there are {len(classes)} classes "
                f"({'data.classes' if self.classes else 'of the training images'})"
            )
        pixels = train.images.float() / 255
        return self._of_this_run(
            Facts(
                self.name or next(p for p in reversed(self._folder.parts) if p != "raw"),
                classes,
                train.images.shape[-1],
                mean=round(pixels.mean().item(), 4),
                std=round(pixels.std().item(), 4),
                centred=self.centred,
                source={"_target_": IDX, "classes": list(classes), "centred": self.centred},
            ),
            train=len(train),
            test=len(test),
        )

    def _of_this_run(self, facts: Facts, train: int, test: int) -> Facts:
        """Add what is validated on; ``train`` and ``test`` are numbers of images."""
        if self.folds is not None:
            protocol = (
                f"{facts.name}_folds: part {self.fold} of {self.folds} of the training images "
                f"picked the best epoch; the {test:,} test images read once, at the end"
            )
        elif self.validation == "test":
            protocol = (
                f"{facts.name}: validated on the {test:,} test images, which also picked the best "
                "epoch, so the best accuracy is optimistic; the last one is not"
            )
        else:
            protocol = (
                f"{facts.name}_holdout: {holdout_size(train):,} training images held out to pick "
                f"the best epoch; the {test:,} test images read once, at the end"
            )
        split: dict[str, Any] = {"validation": self.validation, "split_seed": self.split_seed}
        if self.folds is not None:
            split |= {"folds": self.folds, "fold": self.fold}
        return replace(facts, protocol=protocol, source={**facts.source, **split})

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
                raise ConfigError(
                    f"data.folds={self.folds} data.fold={self.fold}: both are needed, as "
                    "data.folds=5 data.fold=0,1,2,3,4 in a sweep (-m)"
                )
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

    def images(self, split: Split) -> Images:
        """Return the training images (those held out among them), the held-out or the test images.

        Raises:
            DataError: A file is missing, damaged, or does not fit the others.
        """
        if split != "holdout":
            return self._read(split)
        train = self._read("train")
        return train.subset(self._held_out(train))

    def _held_out(self, train: Images) -> Tensor:
        if self.folds is not None:
            parts = folds(train.labels, self.folds, self.split_seed)
            return torch.eq(parts, self.fold or 0).nonzero().flatten()
        try:
            return stratified(train.labels, holdout_size(len(train)), self.split_seed)
        except ValueError as error:
            raise DataError(f"{self.root}: cannot hold out a twelfth: {error}") from None

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

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the test images in order."""
        return self._in_order(self.test)

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

    @cached_property
    def _folder(self) -> Path:
        return folder_of(Path(self.root))

    def _content(self, name: str) -> Tensor:
        try:
            return read(self._folder, name)
        except DataError as error:
            words = f"{error}; name a folder that has it {REMEDY}"
            raise DataError(f"data.root={self.root}: {words}") from None

    def _read(self, split: Literal["train", "test"]) -> Images:
        if split not in self._memory:
            images, labels = self._content(IMAGES[split]), self._content(LABELS[split])
            if images.ndim != 3 or images.shape[1] != images.shape[2] or 0 in images.shape:
                shape = "×".join(map(str, images.shape))
                raise DataError(f"{self._folder / IMAGES[split]}: {shape}, not square images")
            if labels.shape != images.shape[:1]:
                raise DataError(
                    f"{self._folder / LABELS[split]}: {labels.numel()} labels for {len(images)} "
                    "images"
                )
            self._memory[split] = Images(images.unsqueeze(1), labels.long())
        return self._memory[split]


def holdout_size(images: int) -> int:
    """Return how many of the training images are held out: of MNIST's 60,000 these are 5,000."""
    return images // 12
