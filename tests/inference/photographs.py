"""Test digits rendered as people's photographs of ink on paper."""

import io

import numpy as np
from numpy.random import Generator
from PIL import Image


def photograph(digit: np.ndarray, rng: Generator) -> bytes:
    """Return a JPEG of a digit ``uint8 [28, 28]`` as dark ink somewhere on gray, uneven paper.

    Scaled up 5 to 20 times, turned by up to 10°, off centre, on paper with a gradient and noise.
    """
    side = round(28 * rng.uniform(5, 20))
    ink = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    ink = ink.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
    height, width = (round(side * rng.uniform(1, 2)) for _ in range(2))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    covered = np.zeros((height, width))
    covered[top : top + side, left : left + side] = np.asarray(ink) / 255
    return on_paper(covered, rng)


def on_paper(covered: np.ndarray, rng: Generator) -> bytes:
    """Return a JPEG of ink, ``[h, w]`` from 0 to 1, on paper with a gradient and noise."""
    height, width = covered.shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slope = rng.uniform(-0.3, 0.3, 2)
    paper = rng.uniform(0.55, 0.8) + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    seen = paper * (1 - covered * rng.uniform(0.5, 0.9))
    seen = seen + rng.normal(0, rng.uniform(0.01, 0.05), seen.shape)
    if rng.random() < 0.5:
        seen = 1 - seen  # chalk on a board
    stored = io.BytesIO()
    Image.fromarray((255 * np.clip(seen, 0, 1)).astype(np.uint8)).save(
        stored, "JPEG", quality=int(rng.integers(50, 95))
    )
    return stored.getvalue()
