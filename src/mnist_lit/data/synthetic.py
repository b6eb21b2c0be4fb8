"""Synthetic digits, in forms that people use and MNIST's writers hardly did.

``synthetic.npz`` has 250 images of each digit, which ``research/strokes.py`` has drawn: ones with a
foot, crossed sevens, open fours and others, laid out as MNIST's digits are.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mnist_lit.data.batches import Images

FILE = Path(__file__).with_suffix(".npz")
EACH = 250  # images of each digit


def exchange(
    order: Int64[Tensor, " n"],
    generator: torch.Generator,
    labels: Int64[Tensor, " n"],
    share: float,
) -> Int64[Tensor, " n"]:
    """Replace a random share of the training images by synthetic digits of the same class.

    Args:
        order: The positions of an epoch.
        generator: What is drawn from.
        labels: Of the training images; the positions of the synthetic digits, in the order of
            :func:`bank`, are N and up.
        share: From 0 to 1.
    """
    exchanged = torch.rand(len(order), generator=generator) < share
    which = torch.randint(EACH, (len(order),), generator=generator)
    return torch.where(exchanged, len(labels) + EACH * labels[order] + which, order)


@cache
def bank() -> Images:
    """Return the synthetic digits, 250 of each class in the order of the classes."""
    with np.load(FILE) as file:
        images = torch.from_numpy(file["images"])
    return Images(images.unsqueeze(1), torch.arange(10).repeat_interleave(EACH))
