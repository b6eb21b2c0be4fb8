"""Gray pictures and masks: connected pieces, and widths of strokes."""

import numpy as np
from jaxtyping import Bool, Float32, Int
from numpy import ndarray
from scipy import ndimage

AROUND = np.ones((3, 3), dtype=bool)  # a pixel's eight neighbours

Gray = Float32[ndarray, "_ _"]  # of any size
Mask = Bool[ndarray, "_ _"]


def labelled(mask: ndarray) -> Int[ndarray, "_ _"]:
    """Return the number of each pixel's connected piece, from 1; corners connect too."""
    return ndimage.label(mask, AROUND)[0]


def widest(mask: Mask) -> int:
    """Return the width of the widest part, in pixels."""
    return 2 * int(ndimage.distance_transform_cdt(mask, "chessboard").max()) - 1


def stroke(mask: Mask) -> int:
    """Return the width of a stroke, in pixels."""
    depths = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")
    return max(1, round(2 * float(np.quantile(depths[depths > 0], 0.9)) - 1))


def disc(diameter: int) -> Mask:
    """Return a footprint in the shape of a disc, ``diameter + 1`` pixels wide."""
    y, x = np.mgrid[: diameter + 1, : diameter + 1] - diameter / 2
    return np.hypot(x, y) <= diameter / 2 + 0.21  # diameter 1: the corners are 0.71 away
