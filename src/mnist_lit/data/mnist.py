"""MNIST as a LightningDataModule; synthetic digits can replace a share of its training images.

``synthetic.npz`` has 400 images of each digit, in forms that MNIST hardly has: ones with a foot,
crossed sevens, open fours, digits of displays and others, laid out as MNIST's digits are.
``research/strokes.py`` draws them.
"""

from dataclasses import dataclass
from functools import cache
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
EACH = 400  # images of each digit


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
        return self._shuffled(both, self.exchange)

    def exchange(self, order: Int64[Tensor, " n"], random: torch.Generator) -> Int64[Tensor, " n"]:
        """Replace a random share of the training images by synthetic digits of the same class.

        Args:
            order: The positions of an epoch. In the result, positions from N on are those of the
                synthetic digits, in the order of ``bank``.
            random: Source of the random numbers.
        """
        exchanged = torch.rand(len(order), generator=random) < self.drawn
        which = torch.randint(EACH, (len(order),), generator=random)
        labels = self.train.labels
        return torch.where(exchanged, len(labels) + EACH * labels[order] + which, order)


@cache
def bank() -> Images:
    """Return the synthetic digits, 400 of each class in the order of the classes."""
    with np.load(SYNTHETIC) as file:
        images = torch.from_numpy(file["images"])
    return Images(images.unsqueeze(1), torch.arange(10).repeat_interleave(EACH))
