"""Data sets on disk: their files, their facts, and which images validate. Needs no Lightning."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool
from pydantic import Strict
from torch import Tensor

from mnist_lit.data.archives import DIGESTS, IMAGES, LABELS, REMEDY, find_mnist, folder_of, read
from mnist_lit.data.batches import Images, folds, stratified
from mnist_lit.errors import ConfigError, DataError
from mnist_lit.facts import MNIST, Facts
from mnist_lit.validation import Seed

Split = Literal["train", "holdout", "test"]
Validation = Literal["test", "holdout"]
Folds = Annotated[int, Strict(), Ge(2), Le(1000)]
IDX = "mnist_lit.data.idx.IdxDataModule"  # as facts name it: the class itself needs Lightning


@dataclass(frozen=True)
class Splits:
    """Which images validate, and so which are left to train on.

    Attributes:
        validation: ``test`` validates on the test images, ``holdout`` on a twelfth of the training
            images, which is kept out of training: of MNIST's 60,000 these are 5,000.
        split_seed: Which images are held out, or kept by a data module's ``train_size``.
        folds: Cut the training images into so many parts, of which one validates; ``validation``
            does not count then.
        fold: Which of the parts, from 0.
    """

    validation: Validation = "test"
    split_seed: Seed = 0
    folds: Folds | None = None
    fold: Seed | None = None

    def left(self, images: int) -> int:
        """Return how many of so many training images are trained on.

        Raises:
            ConfigError: There is no such fold.
        """
        if self.folds is None and self.fold is None:
            return images - (images // 12 if self.validation == "holdout" else 0)
        place = f"data.folds={self.folds} data.fold={self.fold}"
        if self.folds is None or self.fold is None:
            words = "both are needed, as data.folds=5 data.fold=0,1,2,3,4 in a sweep (-m)"
            raise ConfigError(f"{place}: {words}")
        if not 0 <= self.fold < self.folds:
            raise ConfigError(f"{place}: the fold is counted from 0 to {self.folds - 1}")
        return images - -(-images // self.folds)

    def held_out(self, labels: Tensor) -> Bool[Tensor, " n"]:
        """Return which training images are held out: those of the fold, or a twelfth of all."""
        if self.folds is not None:
            return torch.eq(folds(labels, self.folds, self.split_seed), self.fold or 0)
        mask = torch.zeros(len(labels), dtype=torch.bool)
        mask[stratified(labels, len(labels) // 12, self.split_seed)] = True
        return mask

    def protocol(self, name: str, train: int, test: int) -> str:
        """Say what the data set of this name, with so many images, is validated on."""
        if self.folds is None and self.validation == "test":
            return (
                f"{name}: validated on the {test:,} test images, which also picked the best "
                "epoch, so the best accuracy is optimistic; the last one is not"
            )
        if self.folds is not None:
            how, images = "folds", f"part {self.fold} of {self.folds} of the training images picked"
        else:
            how, images = "holdout", f"{train // 12:,} training images held out to pick"
        return f"{name}_{how}: {images} the best epoch; the {test:,} test images have no say"


@dataclass(eq=False)
class IdxSet:
    """A folder of images in MNIST's layout, of any square size and in any number of classes.

    The four files are named as MNIST's, plain or gzipped, as those of Fashion-MNIST and KMNIST are.
    They are read when they are first asked for.

    Attributes:
        root: The folder of the files, or the one above it.
        splits: Which images validate.
        classes: The names of the classes in the order of the labels; None for 0, 1, 2 …
        name: What the data set is called; None for the folder's name.
        centred: Whether the images are laid out as MNIST's, and pictures to be prepared so.
    """

    digests: ClassVar[Mapping[str, str]] = {}  # SHA-256 by file
    remedy: ClassVar[str] = f"name a folder that has it {REMEDY}"
    root: str | Path
    splits: Splits = Splits()
    classes: Sequence[str] | None = None
    name: str | None = None
    centred: bool = False
    _memory: dict[str, Images] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def facts(self) -> Facts:
        """The facts of the data set, with what is validated on.

        Raises:
            DataError: A file is missing, damaged, does not fit the others, or has nothing to learn.
        """
        facts = self._described()
        split = {key: value for key, value in asdict(self.splits).items() if value is not None}
        protocol = self.splits.protocol(facts.name, *self.sizes)
        return replace(facts, protocol=protocol, source={**facts.source, **split})

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of training and of test images."""
        return len(self.images("train")), len(self.images("test"))

    @property
    def notes(self) -> Sequence[str]:
        """What is odd about the images, a line each."""
        labels = self.images("train").labels.tolist()
        absent = sorted({*range(len(self.facts.classes))} - {*labels})
        if not absent:
            return []
        return [
            f"data: of {len(self.facts.classes)} classes, label {', '.join(map(str, absent))} has "
            "no training image and is not learnt; labels count from 0, without gaps"
        ]

    def images(self, split: Split) -> Images:
        """Return the training images (those held out among them), the held-out or the test images.

        Raises:
            DataError: A file is missing, damaged, or does not fit the others.
        """
        if split == "holdout":
            train = self.images("train")
            return train.subset(self.splits.held_out(train.labels))
        if split not in self._memory:
            self._memory[split] = self._read(split)
        return self._memory[split]

    def divided(self) -> tuple[Images, Images]:
        """Return the images to train on and those to validate on."""
        train = self.images("train")
        if self.splits.folds is None and self.splits.validation == "test":
            return train, self.images("test")
        held_out = self.splits.held_out(train.labels)
        return train.subset(~held_out), train.subset(held_out)

    @cached_property
    def folder(self) -> Path:
        """The folder of the four files."""
        return folder_of(Path(self.root))

    def _described(self) -> Facts:
        train, test = self.images("train"), self.images("test")
        found = int(train.labels.max()) + 1
        classes = tuple(map(str, self.classes or range(found)))
        highest = max(found - 1, int(test.labels.max()))
        if highest >= len(classes):
            raise DataError(
                f"{self.folder}: labels go up to {highest}, and there are {len(classes)} classes "
                f"({'data.classes' if self.classes else 'of the training images'})"
            )
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

    def _content(self, name: str) -> Tensor:
        folder = self.folder
        try:
            return read(folder, name, self.digests.get(name))
        except DataError as error:
            raise DataError(f"{error}; {self.remedy}") from None

    def _read(self, split: Split) -> Images:
        images, labels = self._content(IMAGES[split]), self._content(LABELS[split])
        if images.ndim != 3 or images.shape[1] != images.shape[2] or 0 in images.shape:
            shape = "×".join(map(str, images.shape))
            raise DataError(f"{self.folder / IMAGES[split]}: {shape}, not square images")
        if labels.shape != images.shape[:1]:
            words = f"{labels.numel()} labels for {len(images)} images"
            raise DataError(f"{self.folder / LABELS[split]}: {words}")
        return Images(images.unsqueeze(1), labels.long())


class MnistSet(IdxSet):
    """MNIST's images, verified; without a root, downloaded where they are not at hand.

    Nothing is read for its facts.
    """

    digests = DIGESTS
    remedy = (
        "restore it, or leave the root out: MNIST itself is then found or downloaded (data of your "
        "own in its layout is data=idx)"
    )
    sizes = 60_000, 10_000
    notes = ()

    @cached_property
    def folder(self) -> Path:
        """The folder of the four files, this checkout's or the user's cache if no root is given."""
        return folder_of(Path(self.root)) if self.root else find_mnist()

    def _described(self) -> Facts:
        return MNIST
