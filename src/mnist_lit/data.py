"""MNIST in memory: verified files in, augmented and normalised batches out."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import MNIST

from mnist_lit import archives
from mnist_lit.config import HOLDOUT_SIZE

MEAN, STD = 0.1307, 0.3081

Augmentation = Callable[[Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
Split = Literal["train", "holdout", "test"]
SPLITS: tuple[Split, ...] = ("train", "holdout", "test")


class Digits(Dataset[Batch]):
    """Images and labels as two tensors, fetched a batch at a time.

    Attributes:
        images: ``uint8 [N, 1, 28, 28]``, 0 for background.
        labels: ``int64 [N]``.
    """

    def __init__(self, images: UInt8[Tensor, "n 1 28 28"], labels: Int64[Tensor, " n"]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, positions: Int64[Tensor, " b"]) -> Batch:
        """Return the batch of the digits at these positions."""
        return self.images.index_select(0, positions), self.labels.index_select(0, positions)

    def to(self, device: torch.device) -> "Digits":
        """Return the digits in the memory of this device."""
        return Digits(self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor) -> "Digits":
        """Return the digits at these positions."""
        return Digits(self.images[indices], self.labels[indices])


class ShuffledBatches(Sampler[Tensor]):
    """The positions of each batch of an epoch, in an order that seed and epoch alone decide.

    A resumed run therefore sees what an uninterrupted one does. Only full batches are made.

    Args:
        size: How many images there are.
        batch_size: How many of them make a batch.
        seed: Decides the order, with the epoch.
        rank: Which of the processes that share an epoch this is.
        world: How many processes these are; each makes equally many batches.
        device: Where the positions are put.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, rank: int, world: int, device: torch.device
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.device = device
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        # A generator, which begins at the first batch: Lightning asks for the iterator of a
        # resumed run before it sets the epoch.
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator)[self.rank :: self.world]
        yield from torch.split(order.to(self.device), self.batch_size)[: len(self)]


def normalize(images: UInt8[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 1 28 28"]:
    """Turn pixels from 0–255 into floats with the training set's mean 0 and deviation 1."""
    return (images.float() / 255 - MEAN) / STD


def load_digits(root: str | Path | None, split: Split, split_seed: int = 0) -> Digits:
    """Read one split of MNIST.

    Args:
        root: The folder above ``MNIST/raw``; None for :func:`mnist_lit.archives.default_root`.
        split: ``test``, or ``train`` (all 60,000), or ``holdout`` (the 5,000 of the training images
            which ``data=mnist_holdout`` picks the best epoch on).
        split_seed: Which 5,000 these are.

    Raises:
        DataError: The files are missing or damaged and cannot be restored.
    """
    digits = _read(_prepare(root), train=split != "test")
    if split == "holdout":
        return digits.subset(stratified(digits.labels, HOLDOUT_SIZE, split_seed))
    return digits


def _prepare(root: str | Path | None) -> Path:
    return archives.prepare(Path(root) if root else archives.default_root())


def _read(ready: Path, train: bool) -> Digits:
    source = MNIST(str(ready), train=train)
    return Digits(source.data.unsqueeze(1), source.targets)


def stratified(labels: Int64[Tensor, " n"], size: int, seed: int) -> Int64[Tensor, " m"]:
    """Draw positions at random, as many of each digit as ``size`` allows (remainders from 0 up).

    Raises:
        ValueError: There are fewer of some digit than that.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for digit in range(10):
        count = size // 10 + (digit < size % 10)
        members = (labels == digit).nonzero().flatten()
        if count > len(members):
            raise ValueError(f"{count} images of digit {digit} wanted, {len(members)} there")
        drawn.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(drawn).sort().values


class MNISTDataModule(pl.LightningDataModule):
    """The images of a run and how batches are made of them.

    Batches leave the loaders as ``uint8`` and are augmented (in training) and normalised on the
    device.

    Args:
        root: The folder above ``MNIST/raw``; None for this checkout's or the user's cache.
        validation: ``test`` validates on the 10,000 test images, ``holdout`` on 5,000 that are
            kept out of training.
        batch_size: Images per training step and process.
        eval_batch_size: Images per step where no gradients are kept.
        train_size: Train on only this many images, equally many of each digit.
        split_seed: Which images are held out, or kept by ``train_size``.
        augmentation: Applied to float images ``[B, 1, 28, 28]`` in 0–1.
        seed: Decides, with the epoch, the order of the training images.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        validation: Literal["test", "holdout"] = "test",
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        train_size: int | None = None,
        split_seed: int = 0,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = root
        self.validation = validation
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.train_size = train_size
        self.split_seed = split_seed
        self.augmentation = augmentation
        self.seed = seed

    @property
    def protocol(self) -> str:
        """What was trained, validated and tested on, and what that makes the numbers worth."""
        return {
            "test": (
                "mnist: validated on the 10,000 test images, which also picked the best epoch, so "
                "the best accuracy is optimistic; the last epoch was picked by nothing"
            ),
            "holdout": (
                "mnist_holdout: 5,000 training images held out to pick the best epoch; "
                "the 10,000 test images read once, at the end"
            ),
        }[self.validation]

    def prepare_data(self) -> None:
        """Verify and unpack, in one process."""
        _prepare(self.root)

    def setup(self, stage: str) -> None:
        """Read the splits into memory."""
        ready = _prepare(self.root)
        train, self.test = _read(ready, train=True), _read(ready, train=False)
        if self.validation == "holdout":
            held_out = stratified(train.labels, HOLDOUT_SIZE, self.split_seed)
            self.val = train.subset(held_out)
            kept = torch.ones(len(train), dtype=torch.bool)
            kept[held_out] = False
            train = train.subset(kept.nonzero().flatten())
        else:
            self.val = self.test
        if self.train_size is not None:
            train = train.subset(stratified(train.labels, self.train_size, self.split_seed))
        self.train = train

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled full batches; the order depends on seed and epoch alone."""
        rank, world, device = self._place
        batches = ShuffledBatches(len(self.train), self.batch_size, self.seed, rank, world, device)
        return self._loader(self.train, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation images in order."""
        return self._eval_loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test images in order."""
        return self._eval_loader(self.test)

    def _eval_loader(self, digits: Digits) -> DataLoader[Batch]:
        # Every process takes its share, and nobody an image twice, so that sums over processes are
        # exact.
        rank, world, device = self._place
        share = torch.arange(rank, len(digits), world, device=device)
        return self._loader(digits, torch.split(share, self.eval_batch_size))

    def _loader(self, digits: Digits, batches: Iterable[Tensor]) -> DataLoader[Batch]:
        # The images lie where they are needed, so that nothing waits for a transfer. A loader draws
        # a number when its iteration starts: with a generator of its own it leaves the global one,
        # which augmentation and dropout draw from, where the epoch put it.
        return DataLoader(
            digits.to(self._place[2]),
            batch_size=None,
            sampler=batches,
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )

    @property
    def _place(self) -> tuple[int, int, torch.device]:
        if self.trainer is None:
            return 0, 1, torch.device("cpu")
        device = self.trainer.strategy.root_device
        return self.trainer.global_rank, self.trainer.world_size, device

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (in training) and normalise on the device."""
        images, labels = batch
        if self.augmentation is not None and self.trainer and self.trainer.training:
            return (self.augmentation(images.float() / 255) - MEAN) / STD, labels
        return normalize(images), labels


def _as_it_is(batch: Any) -> Any:
    return batch
