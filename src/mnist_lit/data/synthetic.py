"""Synthetic digits, in forms that people use and MNIST's writers hardly did.

``synthetic.npz`` has 250 images of each digit, which ``research/strokes.py`` has drawn: ones with a
foot, crossed sevens, open fours and others, laid out as MNIST's digits are.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mnist_lit.data.batches import Images

FILE = Path(__file__).with_suffix(".npz")
EACH = 250  # images of each digit


@dataclass(frozen=True)
class Exchange:
    """Replaces a random share of the training images by synthetic digits of the same class.

    Attributes:
        labels: Of the training images, ``int64 [N]``; the positions of the synthetic digits, in the
            order of :func:`bank`, are N and up.
        share: From 0 to 1.
    """

    labels: Int64[Tensor, " n"]
    share: float

    def __call__(
        self, order: Int64[Tensor, " n"], generator: torch.Generator
    ) -> Int64[Tensor, " n"]:
        """Return the positions of an epoch, some of them replaced."""
        exchanged = torch.rand(len(order), generator=generator) < self.share
        which = torch.randint(EACH, (len(order),), generator=generator)
        synthetic = len(self.labels) + EACH * self.labels[order] + which
        return torch.where(exchanged, synthetic, order)


@cache
def bank() -> Images:
    """Return the synthetic digits, 250 of each class in the order of the classes."""
    with np.load(FILE) as file:
        images = torch.from_numpy(file["images"])
    return Images(images.unsqueeze(1), torch.arange(10).repeat_interleave(EACH))
