"""Images in memory, and the batches made of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mnist_lit.errors import ConfigError

Batch = tuple[Tensor, Tensor]
Exchange = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(eq=False, repr=False)
class Images(Dataset[Batch]):
    """Images and labels as two tensors, fetched a batch at a time.

    Attributes:
        images: ``uint8 [N, 1, H, W]``, 0 for background.
        labels: ``int64 [N]``.
    """

    images: UInt8[Tensor, "n 1 h w"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, positions: Int64[Tensor, " b"]) -> Batch:
        """Return the batch of the images at these positions."""
        return self.images.index_select(0, positions), self.labels.index_select(0, positions)

    def subset(self, indices: Tensor) -> "Images":
        """Return the images at these positions, or where a mask is true."""
        return Images(self.images[indices], self.labels[indices])

    def loader(self, batches: Iterable[Tensor], device: torch.device) -> DataLoader[Batch]:
        """Return a ``DataLoader`` of batches, each given by positions of images.

        All images are moved to the device first, so that no batch waits for a transfer.
        """
        # A DataLoader draws a random number when its iteration starts. With its own generator it
        # does not change the state of the global one, which augmentation and dropout use.
        return DataLoader(
            Images(self.images.to(device), self.labels.to(device)),
            batch_size=None,
            sampler=batches,
            collate_fn=lambda batch: batch,
            generator=torch.Generator(),
        )


def collect(loader: Iterable[Any]) -> Images:
    """Return all images of a loader."""
    images, labels = zip(*loader, strict=True)
    return Images(torch.cat(images).cpu(), torch.cat(labels).cpu())


@dataclass(eq=False, repr=False)
class ShuffledBatches(Sampler[Tensor]):
    """The positions of each batch's images; only seed and epoch decide their order.

    So a resumed run gets the same batches as an uninterrupted one. All batches are full.

    Attributes:
        size: Number of images.
        batch_size: Number of images in a batch.
        seed: Decides the order, together with the epoch.
        rank: Rank of this process.
        world: Number of processes; each gets equally many batches.
        device: Device of the positions.
        exchange: Function of the shuffled positions of the epoch and of a generator; it returns the
            positions to use instead.
        epoch: Epoch of the next batches, from 0.
    """

    size: int
    batch_size: int
    seed: int
    rank: int
    world: int
    device: torch.device
    exchange: Exchange | None = None
    epoch: int = field(default=0, init=False)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        # A generator function starts at the first batch: Lightning makes the iterator of a resumed
        # run before it sets the epoch.
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator)
        if self.exchange is not None:
            order = self.exchange(order, generator)
        order = order[self.rank :: self.world]
        yield from torch.split(order.to(self.device), self.batch_size)[: len(self)]


def stratified(labels: Int64[Tensor, " n"], size: int, seed: int) -> Int64[Tensor, " size"]:
    """Draw positions at random, equally many of each class as far as its images suffice.

    Raises:
        ConfigError: There are fewer than ``size`` images.
    """
    if size > len(labels):
        raise ConfigError(f"{size} images are wanted, there are {len(labels)}")
    members = _shuffled_classes(labels, seed)
    # Take one of each class in turn, until it has none left.
    turns = torch.cat([torch.arange(len(those)) for those in members])
    return torch.cat(members)[turns.argsort(stable=True)[:size]].sort().values


def folds(labels: Int64[Tensor, " n"], number: int, seed: int) -> Int64[Tensor, " n"]:
    """Return the part, from 0 to ``number - 1``, of each image; drawn at random.

    The sizes of the parts differ by at most one image, in total and within each class.
    """
    parts = torch.empty_like(labels)
    # Assign the images to the parts in turn, one class after the other.
    parts[torch.cat(_shuffled_classes(labels, seed))] = torch.arange(len(labels)) % number
    return parts


def _shuffled_classes(labels: Tensor, seed: int) -> list[Tensor]:
    """Return the positions of each class's images, shuffled by the seed."""
    generator = torch.Generator().manual_seed(seed)
    members = ((labels == label).nonzero().flatten() for label in torch.unique(labels))
    return [those[torch.randperm(len(those), generator=generator)] for those in members]
