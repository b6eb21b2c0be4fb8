"""Boxes on a picture, as arrays ``[..., 2, 2]``: the rows and the columns, each from start to stop.

``window`` returns the slices of one box.
"""

import numpy as np
from jaxtyping import Int, Integer
from numpy import ndarray
from scipy import ndimage

Box = Int[ndarray, "... 2 2"]  # one, or several


def boxes_of(labels: Integer[ndarray, "h w"]) -> Box:
    """Return the smallest box around each label, from 1; none of them may be missing."""
    found = ndimage.find_objects(labels)
    return np.array([[(s.start, s.stop) for s in one] for one in found], int).reshape(-1, 2, 2)


def bounds(mask: ndarray) -> Box:
    """Return the smallest box around the set pixels; at least one must be set."""
    return boxes_of(mask.astype(np.uint8))[0]


def union(boxes: Box) -> Box:
    """Return the smallest box around several."""
    return np.stack([boxes[..., 0].min(axis=0), boxes[..., 1].max(axis=0)], axis=-1)


def size(boxes: Box) -> Int[ndarray, "... 2"]:
    """Return the height and the width of each."""
    return boxes[..., 1] - boxes[..., 0]


def shared(boxes: Box, box: Box) -> Int[ndarray, "... 2"]:
    """Return the numbers of rows and columns that each shares with a box; if negative, the gap."""
    return np.minimum(boxes[..., 1], box[:, 1]) - np.maximum(boxes[..., 0], box[:, 0])


def grown(box: Box, by: float, shape: tuple[int, ...], scale: float = 1) -> Box:
    """Return a box enlarged on each side, on a larger picture, and cut to that picture.

    Args:
        box: A box on the smaller picture.
        by: Pixels to add on each side, on the smaller picture.
        shape: Height and width of the larger picture.
        scale: Side of the larger picture, divided by that of the smaller one.
    """
    start = ((box[:, 0] - by) * scale).astype(int)
    stop = np.rint((box[:, 1] + by) * scale).astype(int)
    return np.stack([np.maximum(start, 0), np.minimum(stop, shape)], axis=-1)


def window(box: Box) -> tuple[slice, slice]:
    """Return the slices of a box."""
    return slice(*box[0]), slice(*box[1])
