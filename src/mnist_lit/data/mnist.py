"""MNIST as a LightningDataModule; synthetic digits can replace a share of its training images.

``synthetic.npz`` has 250 images of each digit, in forms that people use but MNIST hardly has: ones
with a foot, crossed sevens, open fours and others, laid out as MNIST's digits are.
``research/strokes.py`` draws them.
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader

from mnist_lit.data.batches import Batch, Images, collect
from mnist_lit.data.datasets import MnistSet
from mnist_lit.data.idx import ImagesDataModule
from mnist_lit.validation import Share

SYNTHETIC = Path(__file__).with_name("synthetic.npz")
EACH = 250  # images of each digit


@dataclass(eq=False, repr=False)
class MNISTDataModule(ImagesDataModule, MnistSet):
    """MNIST as a LightningDataModule, verified by checksums.

    Without ``root`` it reads MNIST of this checkout or of the user's cache, and downloads it if
    neither has it. It has the attributes of ``ImagesDataModule`` and ``ImageSet`` too.

    Attributes:
        drawn: Share of the training images, from 0 to 1, that synthetic digits of the same class
            replace; others in each epoch.
    """

    drawn: Share = 0.0

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled full batches; the order depends on seed and epoch alone."""
        if not self.drawn:
            return super().train_dataloader()
        both = collect((one.images, one.labels) for one in (self.train, bank()))
        chosen = partial(exchange, labels=self.train.labels, share=self.drawn)
        return self._shuffled(both, chosen)


def exchange(
    order: Int64[Tensor, " n"],
    generator: torch.Generator,
    labels: Int64[Tensor, " n"],
    share: float,
) -> Int64[Tensor, " n"]:
    """Replace a random share of the training images by synthetic digits of the same class.

    Args:
        order: The positions of an epoch.
        generator: Source of the random numbers.
        labels: Labels of the training images. Positions from N on are those of the synthetic
            digits, in the order of ``bank``.
        share: The share, from 0 to 1.
    """
    exchanged = torch.rand(len(order), generator=generator) < share
    which = torch.randint(EACH, (len(order),), generator=generator)
    return torch.where(exchanged, len(labels) + EACH * labels[order] + which, order)


@cache
def bank() -> Images:
    """Return the synthetic digits, 250 of each class in the order of the classes."""
    with np.load(SYNTHETIC) as file:
        images = torch.from_numpy(file["images"])
    return Images(images.unsqueeze(1), torch.arange(10).repeat_interleave(EACH))
