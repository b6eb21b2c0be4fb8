"""Images in memory, and the batches that are made of them."""

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
        """Return a loader of batches, each given by its positions.

        The images lie where they are needed, so that nothing waits for a transfer.
        """
        # A loader draws a number when its iteration starts: with a generator of its own it leaves
        # the global one, which augmentation and dropout draw from, where the epoch put it.
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
    """The positions of each batch of an epoch, in an order that seed and epoch alone decide.

    A resumed run therefore sees what an uninterrupted one does. Only full batches are made.

    Attributes:
        size: How many images there are.
        batch_size: How many of them make a batch.
        seed: Decides the order, with the epoch.
        rank: Which of the processes that share an epoch this is.
        world: How many processes these are; each makes equally many batches.
        device: Where the positions are put.
        exchange: Takes the positions of the epoch, in order, and a source of random numbers, and
            returns what to take in their place.
        epoch: Which epoch the next batches are of, from 0.
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
        """Choose the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        # A generator, which begins at the first batch: Lightning asks for the iterator of a
        # resumed run before it sets the epoch.
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator)
        if self.exchange is not None:
            order = self.exchange(order, generator)
        order = order[self.rank :: self.world]
        yield from torch.split(order.to(self.device), self.batch_size)[: len(self)]


def stratified(labels: Int64[Tensor, " n"], size: int, seed: int) -> Int64[Tensor, " size"]:
    """Draw positions at random, as many of each class as there are (remainders from 0 up).

    Raises:
        ConfigError: There are fewer than that in all.
    """
    if size > len(labels):
        raise ConfigError(f"{size} images wanted, {len(labels)} there")
    members = _shuffled_classes(labels, seed)
    # One of each class in turn, as long as it has any.
    turns = torch.cat([torch.arange(len(those)) for those in members])
    return torch.cat(members)[turns.argsort(stable=True)[:size]].sort().values


def folds(labels: Int64[Tensor, " n"], number: int, seed: int) -> Int64[Tensor, " n"]:
    """Return which of ``number`` parts each image belongs to, drawn at random.

    The parts differ by at most one image, and so do their numbers of images of each class.
    """
    parts = torch.empty_like(labels)
    # Dealt out like cards, one class after the other.
    parts[torch.cat(_shuffled_classes(labels, seed))] = torch.arange(len(labels)) % number
    return parts


def _shuffled_classes(labels: Tensor, seed: int) -> list[Tensor]:
    """Return the positions of the images of each class, in an order that the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    members = ((labels == label).nonzero().flatten() for label in torch.unique(labels))
    return [those[torch.randperm(len(those), generator=generator)] for those in members]
