"""Data sets on disk: their files, facts and splits. Needs no Lightning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool
from pydantic import Strict
from torch import Tensor

from mnist_lit.data.archives import DIGESTS, PREFIXES, REMEDY, find_mnist, folder_of, read
from mnist_lit.data.batches import Images, folds, stratified
from mnist_lit.errors import ConfigError, DataError
from mnist_lit.facts import MNIST, Facts
from mnist_lit.validation import Name, Positive, Seed

Split = Literal["train", "holdout", "test"]
IDX = "mnist_lit.data.idx.IdxDataModule"  # its name in facts; the class itself needs Lightning
# Arguments in the facts: they decide which images are held out. `train_size` does not.
KEPT = ("validation", "split_seed", "folds", "fold")


@dataclass(kw_only=True, eq=False, repr=False)
class ImageSet:
    """Four files in MNIST's layout, which are read when they are first needed.

    Attributes:
        root: Folder of the files, or the folder above it. None finds MNIST in the checkout or in
            the user's cache.
        validation: ``test`` validates on the test images. ``holdout`` validates on a twelfth of the
            training images, 5,000 of MNIST's 60,000, and does not train on them.
        split_seed: Decides which images are held out, and which ``train_size`` keeps.
        folds: Number of parts into which the training images are divided; one of them validates,
            and ``validation`` has no effect. None for no parts.
        fold: The part that validates, from 0.
        train_size: Number of images to train on, equally many of each class; None for all.
    """

    digests: ClassVar[Mapping[str, str]] = {}  # SHA-256 by file
    remedy: ClassVar[str] = f"name a folder that has it {REMEDY}"
    root: Name | Path | None = field(default=None, kw_only=False)
    validation: Literal["test", "holdout"] = "test"
    split_seed: Seed = 0
    folds: Annotated[int, Strict(), Ge(2), Le(1000)] | None = None
    fold: Seed | None = None
    train_size: Positive | None = None

    @cached_property
    def facts(self) -> Facts:
        """The facts of the data set; their ``protocol`` names the validation images.

        Raises:
            DataError: A file is missing or damaged or does not fit the others, or the images have
                only one class or one value.
        """
        facts, (train, test) = self._described(), self.sizes
        how, images = "", f"the {test:,} test images, so optimistic"
        if self.folds is not None:
            how, images = "_folds", f"part {self.fold} of {self.folds} of the training images"
        elif self.validation == "holdout":
            how, images = "_holdout", f"{train // 12:,} training images held out"
        split = {key: getattr(self, key) for key in KEPT if getattr(self, key) is not None}
        protocol = f"{facts.name}{how}: best epoch, picked on {images}; last epoch, not picked"
        return replace(facts, protocol=protocol, source={**facts.source, **split})

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of training and of test images."""
        return len(self.images("train")), len(self.images("test"))

    @property
    def notes(self) -> Sequence[str]:
        """Warnings about the images, one line each."""
        labels, classes = self.images("train").labels, len(self.facts.classes)
        absent = [str(label) for label in range(classes) if label not in labels]
        words = (
            f"data: of {classes} classes, label {', '.join(absent)} has no training image and is "
            "not learnt; labels count from 0, without gaps"
        )
        return [words] if absent else []

    @cached_property
    def folder(self) -> Path:
        """The folder of the four files."""
        return folder_of(Path(self.root)) if self.root else find_mnist()

    @cached_property
    def _memory(self) -> dict[str, Images]:
        return {}

    def images(self, split: Split) -> Images:
        """Return the images and labels of a split.

        They are ``.images``, ``uint8 [N, 1, side, side]``, and ``.labels``, ``int64 [N]``.

        Args:
            split: ``train`` (all training images, the held-out ones too), ``holdout`` or ``test``.

        Raises:
            DataError: A file is missing, damaged, or does not fit the others.
        """
        if split == "holdout":
            train = self.images("train")
            return train.subset(self._held_out(train.labels))
        if split not in self._memory:
            self._memory[split] = self._read(split)
        return self._memory[split]

    def divided(self) -> tuple[Images, Images]:
        """Return the images of the training and of the validation."""
        train, val = self.images("train"), self.images("test")
        if self.folds is not None or self.validation == "holdout":
            held_out = self._held_out(train.labels)
            train, val = train.subset(~held_out), train.subset(held_out)
        if self.train_size is not None:
            train = train.subset(stratified(train.labels, self.train_size, self.split_seed))
        return train, val

    def trained_on(self) -> int:
        """Return the number of images of the training.

        Raises:
            ConfigError: There is no such fold, or ``train_size`` is too large.
        """
        images, place = self.sizes[0], f"data.folds={self.folds} data.fold={self.fold}"
        if self.folds is None and self.fold is None:
            left = images - (images // 12 if self.validation == "holdout" else 0)
        elif self.folds is None or self.fold is None:
            words = "both are needed, as data.folds=5 data.fold=0,1,2,3,4 in -m"
            raise ConfigError(f"{place}: {words}")
        elif not 0 <= self.fold < self.folds:
            raise ConfigError(f"{place}: the fold is counted from 0 to {self.folds - 1}")
        else:
            left = images - -(-images // self.folds)
        if (self.train_size or 0) > left:
            raise ConfigError(f"data.train_size={self.train_size}: at most {left}")
        return self.train_size or left

    def _held_out(self, labels: Tensor) -> Bool[Tensor, " n"]:
        """Return a mask of the held-out training images: the fold, or a twelfth of all."""
        if self.folds is not None:
            return torch.eq(folds(labels, self.folds, self.split_seed), self.fold or 0)
        mask = torch.zeros(len(labels), dtype=torch.bool)
        mask[stratified(labels, len(labels) // 12, self.split_seed)] = True
        return mask

    def _described(self) -> Facts:
        raise NotImplementedError  # subclasses return their facts

    def _read(self, split: Split) -> Images:
        folder, prefix = self.folder, PREFIXES[split]
        names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        try:
            images, labels = (read(folder, name, self.digests.get(name)) for name in names)
        except DataError as error:
            raise DataError(f"{error}; {self.remedy}") from None
        if images.ndim != 3 or images.shape[1] != images.shape[2] or 0 in images.shape:
            raise DataError(f"{folder / names[0]}: {list(images.shape)}, not square images")
        if labels.shape != images.shape[:1]:
            raise DataError(f"{folder / names[1]}: {len(labels)} labels for {len(images)} images")
        return Images(images.unsqueeze(1), labels.long())


@dataclass(eq=False, repr=False)
class IdxSet(ImageSet):
    """A folder of images in MNIST's layout, of any square size and in any number of classes.

    The four files have the names of MNIST's, plain or gzipped, as in Fashion-MNIST and KMNIST.

    Attributes:
        classes: Names of the classes in the order of the labels; None for 0, 1, 2 …
        name: Name of the data set; None for the folder's name.
        centred: Whether the images are laid out as MNIST's are; see ``Facts``.
    """

    root: Name | Path
    classes: Sequence[str] | None = None
    name: Name | None = None
    centred: bool = False

    def _described(self) -> Facts:
        train, test = self.images("train"), self.images("test")
        found = int(train.labels.max()) + 1
        classes = tuple(map(str, self.classes or range(found)))
        highest = max(found - 1, int(test.labels.max()))
        if highest >= len(classes):
            words = f"labels go up to {highest}, and there are {len(classes)} classes"
            raise DataError(f"{self.folder}: {words}")
        pixels = train.images.float() / 255
        std = round(pixels.std().item(), 4)
        if len(classes) < 2 or not std > 0:
            what = "one class" if len(classes) < 2 else "training pixels of one value"
            raise DataError(f"{self.folder}: {what}, nothing to learn; name another {REMEDY}")
        return Facts(
            self.name or next(p for p in reversed(self.folder.parts) if p != "raw"),
            classes,
            train.images.shape[-1],
            mean=round(pixels.mean().item(), 4),
            std=std,
            centred=self.centred,
            source={"_target_": IDX, "classes": list(classes), "centred": self.centred},
        )


@dataclass(eq=False, repr=False)
class MnistSet(ImageSet):
    """MNIST's images, verified by checksums, and downloaded if ``root`` is None and none are found.

    Its facts and sizes are constants, so they need no file.
    """

    digests = DIGESTS
    remedy = (
        "restore it, or leave out the root to find or download MNIST (data of your own in its "
        "layout needs data=idx)"
    )
    sizes = 60_000, 10_000
    notes = ()

    def _described(self) -> Facts:
        return MNIST
