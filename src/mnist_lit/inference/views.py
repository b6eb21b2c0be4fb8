"""Views of a picture: on more paper, without what surrounds the paper, in even light, by colour.

A picture whose own reading is not sure is read in further views too, and the best reading counts.
"""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image, ImageChops, ImageOps
from scipy import ndimage

from mnist_lit.inference.masks import AROUND, Gray, Mask, labelled

LIGHT = 0.3  # share of the shorter side; shadows are wider
MARGIN = 0.25  # share of the longer side
ALONG = 0.85  # share of an edge; a frame covers more of it, a digit less
MOST_FRAME = 0.35  # of the picture; more is a digit that fills it, or a desk
STAGES = 3
DOTTED = 1.7  # strokes' widths between the dots of a digit, at most
VIVID = 64  # of 255; difference of a pixel's largest and least channel, beyond the paper's
SEEN = 200  # pixels a side, enough to find frames


class View(NamedTuple):
    """A picture as it is, or changed.

    Attributes:
        gray: The picture, from 0 (black) to 1 (white).
        margin: Pixels that were added on each side.
        joined: Pieces less than this apart are one part; as a multiple of a stroke's width.
        left: Whether something that may be a digit was painted over.
    """

    gray: Gray
    margin: int = 0
    joined: float = 1
    left: bool = False


def views(gray: Gray, colours: Gray | None, stage: int) -> Iterator[View]:
    """Yield the views of a stage: 1 for those of the picture, 2 in even light, 3 by its colours.

    Args:
        gray: The picture.
        colours: The picture by its colours; None if it has none.
        stage: From 1 to ``STAGES``.
    """
    base: Gray | None = gray
    if stage == 2:
        reach = max(3, round(LIGHT * min(gray.shape)))
        light = ndimage.grey_closing(gray, size=(reach, reach))
        base = np.clip(gray / light.clip(min=0.05), 0, 1)
    elif stage == 3:
        base = colours
    if base is not None:
        if stage > 1:
            yield View(base)
        yield from _bare(base)


def _bare(gray: Gray) -> Iterator[View]:
    paper, frame, around, left = surroundings(gray)
    margin = max(4, round(MARGIN * max(gray.shape)))
    if frame.mean() > MOST_FRAME:
        frame = np.zeros_like(frame)
    inside = np.where(frame, paper, gray)
    border = np.concatenate((inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    yield View(np.pad(inside, margin, constant_values=np.median(border)), margin)
    bare = np.pad(np.where(around, paper, gray), margin, constant_values=paper)
    for joined in (1, 0, DOTTED):
        yield View(bare, margin, joined, left)


def surroundings(gray: Gray) -> tuple[float, Mask, Mask, bool]:
    """Find the frame, desk or lid around the paper, which are not of the paper's tone.

    Returns:
        The tone of the paper; a mask of what lies along the whole of an edge; the same with what
        touches several edges; and whether that may have a digit, because it reaches the middle, or
        is not along an edge.
    """
    small = np.asarray(Image.fromarray(gray).reduce(-(-max(gray.shape) // SEEN)))
    paper = float(np.median(_inner(small, 4)))
    away = np.abs(small - paper)
    far = away > max(0.1, 0.4 * float(np.quantile(away, 0.98)))
    frame = np.zeros_like(far)
    for turn in range(4):
        lines = np.rot90(far, turn).mean(axis=1) >= ALONG
        np.rot90(frame, turn)[: int(np.argmin(lines))] = True
    labels = labelled(far)
    edges = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    many = int(labels.max()) + 1
    shares = np.stack([np.bincount(edge, minlength=many) / len(edge) for edge in edges])
    shares[:, 0] = 0  # the paper
    along, several = (shares >= ALONG).any(axis=0), (shares > 0).sum(axis=0) > 1
    frame |= np.isin(labels, np.flatnonzero(along))
    others = np.isin(labels, np.flatnonzero(several & ~along))
    around = frame | others
    left = bool(_inner(around, 4).any() or _inner(others, 10).any())

    def large(mask: Mask) -> Mask:
        mask = ndimage.binary_dilation(mask, AROUND, iterations=2)
        return np.asarray(Image.fromarray(mask).resize(gray.shape[::-1]))

    return paper, large(frame), large(around), left


def _inner(values: ndarray, part: int) -> ndarray:
    """Return an image without a part of its length on each side."""
    rows, columns = (length // part for length in values.shape)
    return values[rows : values.shape[0] - rows, columns : values.shape[1] - columns]


def colourful(image: Image.Image) -> bool:
    """Return whether a picture has several colours, of which gray may hide some."""
    if not _has_colours(image):
        return False
    few = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST).convert("RGB")).astype(int)
    colour = np.ptp(few, axis=2)
    return bool((colour > np.median(colour) + VIVID).mean() > 0.01)


def clearest(image: Image.Image) -> Gray | None:
    """Return a colour picture as gray: the darker, the further from the paper's colour.

    Ink and paper of different colours can be equally light, and a pale ink beside a dark one is
    lost. None for a picture without colours.
    """
    if not _has_colours(image):
        return None
    rgb = ImageOps.exif_transpose(image).convert("RGB")
    few = np.asarray(rgb.resize((64, 64), Image.Resampling.BOX)).reshape(-1, 3)
    paper = Image.new("RGB", rgb.size, tuple(np.median(few, axis=0).astype(int).tolist()))
    away = np.asarray(reduce(ImageChops.lighter, ImageChops.difference(rgb, paper).split()))
    return 1 - np.divide(away, max(1, away.max()), dtype=np.float32)


def _has_colours(image: Image.Image) -> bool:
    modes = "RGB", "P", "CMYK", "YCbCr", "HSV"
    return not image.has_transparency_data and image.mode in modes
