"""Data sets on disk: their facts, their images, and which are held out. Needs no Lightning."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mnist_lit.data.archives import DIGESTS, IMAGES, LABELS, REMEDY, find_mnist, folder_of, read
from mnist_lit.data.memory import Images, folds, stratified
from mnist_lit.errors import DataError
from mnist_lit.facts import MNIST, Facts

Split = Literal["train", "holdout", "test"]
# The data modules by the names that facts keep; the modules themselves need Lightning.
IDX = "mnist_lit.data.idx.IdxDataModule"
MNIST_MODULE = "mnist_lit.data.mnist.MNISTDataModule"
Folds = Annotated[int, Ge(2), Le(1000)]
TRAIN, TEST = 60_000, 10_000  # images of MNIST


class IdxSet:
    """A folder of images in MNIST's layout, of any square size and in any number of classes.

    The four files are named as MNIST's, plain or gzipped, as those of Fashion-MNIST and KMNIST are.

    Args:
        root: The folder of the files, or the one above it.
        validation: ``test`` validates on the test images, ``holdout`` on a twelfth of the training
            images, which is kept out of training.
        split_seed: Which images are held out, or kept by a data module's ``train_size``.
        folds: Cut the training images into so many parts, of which one validates; ``validation``
            does not count then.
        fold: Which of the parts, from 0.
        classes: The names of the classes in the order of the labels; None for 0, 1, 2 …
        name: What the data set is called; None for the folder's name.
        centred: Whether the images are laid out as MNIST's, and pictures to be prepared so.
    """

    def __init__(
        self,
        root: str | Path,
        validation: Literal["test", "holdout"] = "test",
        split_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
        classes: Sequence[str] | None = None,
        name: str | None = None,
        centred: bool = False,
    ) -> None:
        self.root = root
        self.validation = validation
        self.split_seed = split_seed
        self.folds = folds
        self.fold = fold
        self.classes = classes
        self.name = name
        self.centred = centred
        self.notes: list[str] = []
        self._memory: dict[str, Images] = {}

    @cached_property
    def facts(self) -> Facts:
        """The facts of the data set; its training files are read for them.

        Raises:
            DataError: A file is missing, damaged, does not fit the others, or has nothing to learn.
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
        std = round(pixels.std().item(), 4)
        if len(classes) < 2 or not std > 0:
            what = "one class" if len(classes) < 2 else "training pixels of one value"
            raise DataError(f"{self._folder}: {what}, nothing to learn; name another {REMEDY}")
        if absent := {*range(len(classes))} - {*train.labels.tolist()}:
            self.notes = [
                f"data: of {len(classes)} classes, label {', '.join(map(str, sorted(absent)))} has "
                "no training image and is not learnt; labels count from 0, without gaps"
            ]
        return self._of_this_run(
            Facts(
                self.name or next(p for p in reversed(self._folder.parts) if p != "raw"),
                classes,
                train.images.shape[-1],
                mean=round(pixels.mean().item(), 4),
                std=std,
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
                f"picked the best epoch; the {test:,} test images have no say"
            )
        elif self.validation == "test":
            protocol = (
                f"{facts.name}: validated on the {test:,} test images, which also picked the best "
                "epoch, so the best accuracy is optimistic; the last one is not"
            )
        else:
            protocol = (
                f"{facts.name}_holdout: {holdout_size(train):,} training images held out to pick "
                f"the best epoch; the {test:,} test images have no say"
            )
        split: dict[str, Any] = {"validation": self.validation, "split_seed": self.split_seed}
        if self.folds is not None:
            split |= {"folds": self.folds, "fold": self.fold}
        return replace(facts, protocol=protocol, source={**facts.source, **split})

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


class MnistSet(IdxSet):
    """MNIST's images, verified; downloaded only where they are not at hand.

    Args:
        root: The folder of the files, or the one above it; None for this checkout's or the user's
            cache.
        validation: ``test`` validates on the 10,000 test images, ``holdout`` on 5,000 that are
            kept out of training.
        split_seed: Which images are held out, or kept by a data module's ``train_size``.
        folds: Cut the 60,000 into so many parts, of which one validates; ``validation`` does not
            count then.
        fold: Which of the parts, from 0.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        validation: Literal["test", "holdout"] = "test",
        split_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__(root or "", validation, split_seed, folds, fold)

    @cached_property
    def facts(self) -> Facts:
        """MNIST's facts; nothing is read for them."""
        return self._of_this_run(MNIST, TRAIN, TEST)

    @cached_property
    def _folder(self) -> Path:
        return folder_of(Path(self.root)).resolve() if self.root else find_mnist()

    def _content(self, name: str) -> Tensor:
        folder = self._folder
        try:
            return read(folder, name, DIGESTS[name])
        except DataError as error:
            raise DataError(
                f"{error}; restore it, or leave the root out: MNIST itself is then found or "
                "downloaded (data of your own in its layout is data=idx)"
            ) from None


def holdout_size(images: int) -> int:
    """Return how many of the training images are held out: of MNIST's 60,000 these are 5,000."""
    return images // 12
