"""The ink of a digit on a person's picture, apart from paper, shadows, ruled lines and noise."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from numpy import ndarray
from PIL import Image
from scipy import ndimage

from mnist_lit.errors import PictureError

WORKING_SIDE = 140  # pixels; more show no more of a digit that ends in a box of 20
SEARCHING_SIDE = 200  # where nothing is seen on so few: a digit is small or faint
TINY = 20  # pixels; the digit fills a picture of so few
TWO_TONED = 0.75  # of the variance is between its two tones, where a picture has no more
# In shares of the working picture's side:
BACKGROUND = 0.35  # wider than any stroke, narrower than a shadow
RULE = 0.04  # ruled lines are thinner than this
LONG = 0.6  # and longer than this in a frame
ACROSS = 0.95  # and than this elsewhere
EDGE = 0.05  # a digit that comes so near to every edge fills the picture
SMALL = 0.3  # a digit that is smaller is read from a part of the picture
# In shares of the digit's longer side:
REACH = 0.25  # how far from its largest part the others lie
TOUCH = 0.25  # what touches an edge by more than this comes in from beyond it
# Ink must stand out from paper by this share of black to white, and from its noise by this factor.
MIN_CONTRAST = 0.06
MIN_SIGNAL = 5.0
DASHES = 4  # pieces of one digit; without a dashed stroke it has three at most
SPECK = 0.03  # of the ink's area
BLANK = "no digit to be seen, the page is blank or too faint"
NOTHING = "no digit to be seen, only lines or specks"
AROUND = np.ones((3, 3), dtype=bool)  # a pixel's neighbours, those at its corners too

Gray = Float32[ndarray, "h w"]
Mask = Bool[ndarray, "h w"]


class Box(NamedTuple):
    """A part of a picture."""

    rows: slice
    columns: slice

    @property
    def longer(self) -> int:
        """Its longer side."""
        return max(side.stop - side.start for side in self)

    def grown(self, by: float, scale: float, shape: tuple[int, ...]) -> "Box":
        """Return it, larger by so many pixels on each side, in a picture enlarged by a scale."""
        rows, columns = (
            slice(
                max(0, int((side.start - by) * scale)), min(most, round((side.stop + by) * scale))
            )
            for side, most in zip(self, shape, strict=False)
        )
        return Box(rows, columns)


def bounds(mask: Mask) -> Box:
    """Return the smallest box around what is set, which is something."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return Box(*(slice(int(side[0]), int(side[-1]) + 1) for side in (rows, columns)))


def find_ink(gray: Gray) -> Float32[ndarray, "i j"]:
    """Return how much ink of the digit there is, ``[I, J]`` from 0 to 1, and none of the rest.

    A digit that is small on a large picture is looked for on a reduced one, and read from the part
    of the picture around it.

    Args:
        gray: From 0 (black) to 1 (white).

    Raises:
        PictureError: There is nothing to be seen.
    """
    small = _shrunk(gray)
    try:
        ink = _ink(small)
    except PictureError:
        if max(gray.shape) <= WORKING_SIDE:
            raise
        small = _shrunk(gray, SEARCHING_SIDE)
        ink = _ink(small)
    box = bounds(ink > 0)
    scale = max(gray.shape) / max(small.shape)
    if scale > 1 and box.longer < SMALL * max(small.shape):
        part = _shrunk(gray[box.grown(0.5 * box.longer + 2, scale, gray.shape)])
        try:
            return _ink(part)
        except PictureError:  # what made it stand out lies further away
            return ink
    return ink


def _shrunk(gray: Gray, side: int = WORKING_SIDE) -> Float32[ndarray, "i j"]:
    """Return a picture of at most so many pixels a side."""
    height, width = gray.shape
    scale = side / max(height, width)
    if scale >= 1:
        return gray
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BOX))


def _ink(gray: Gray) -> Float32[ndarray, "i j"]:
    side = max(gray.shape)
    threshold, share = _otsu(gray)
    light_paper = _paper_is_light(gray, threshold)
    is_paper = (gray > threshold) == light_paper
    paper_tone = float(np.median(gray[is_paper]))
    # A hard shadow parts a picture in two tones as well, but is wider than a stroke.
    two_toned = share > TWO_TONED and (side <= TINY or _widest(~is_paper) < BACKGROUND * side)
    if two_toned and side <= TINY:
        gray = np.pad(gray, round(side / 4), constant_values=paper_tone)
    gray = ndimage.gaussian_filter(gray, min(1, side / WORKING_SIDE))
    dark = 1.0 if (light_paper if two_toned else not _light_on_dark(gray)) else -1.0
    depth = _depth(dark * gray, dark * paper_tone if two_toned else None)
    mask = depth > _otsu(depth)[0]
    if mask.all() or not mask.any():
        raise PictureError(BLANK)
    rules = _rules(mask)
    if rules.any():
        # They may be darker than the digit, and would part the values in another place.
        rules = ndimage.binary_dilation(rules, AROUND)
        mask = _mended(~rules & (depth > _otsu(depth[~rules])[0]), rules)
    if not mask.any():
        raise PictureError(NOTHING)
    paper = depth[~mask]
    bare = np.median(paper)
    contrast = float(np.median(depth[mask]) - bare)
    noise = 1.4826 * float(np.median(np.abs(paper - bare)))
    if contrast < max(MIN_CONTRAST, MIN_SIGNAL * noise):
        raise PictureError(BLANK)
    mask = _one_digit(mask)
    full = np.quantile(depth[mask], 0.8)
    soft = np.clip((depth - bare) / (full - bare), 0, 1)
    pieces = ndimage.sum_labels(mask, *_labelled(mask))
    if (pieces > SPECK * mask.sum()).sum() >= DASHES:
        closed = disc(2 * _stroke(mask))
        wide = len(closed)  # beyond the edges there is no ink
        mask = ndimage.binary_closing(np.pad(mask, wide), closed)[wide:-wide, wide:-wide]
        soft = ndimage.grey_closing(soft, footprint=closed)
    near = ndimage.distance_transform_cdt(~mask, "taxicab") <= 2
    return np.where(near, soft, 0).astype(np.float32)


def _paper_is_light(gray: Gray, threshold: float) -> bool:
    """Say which of two tones is the paper: that of most of the picture's edge.

    A frame can run along the edge itself, and a thick digit fill what is a little further in. So
    there are three votes: of the edge, of a wider one, and of the whole.
    """
    wide = max(1, round(0.1 * min(gray.shape)))
    edges = [np.ones(gray.shape, dtype=bool) for _ in range(3)]
    for edge, width in zip(edges, (1, wide), strict=False):
        edge[width:-width, width:-width] = False
    return sum(float(np.median(gray[edge])) > threshold for edge in edges) >= 2


def _depth(light: Gray, paper: float | None) -> Gray:
    """Return by how much each pixel is darker than the paper around it.

    Args:
        light: The picture, with dark ink.
        paper: How light the paper is, where it is the same everywhere.
    """
    if paper is not None:
        return np.clip(paper - light, 0, None)
    reach = max(3, round(BACKGROUND * min(light.shape)))
    return ndimage.grey_closing(light, size=(reach, reach)) - light


def _light_on_dark(gray: Gray) -> bool:
    """Compare what is far from a smooth background on either side of it.

    The background is a surface of second order through most of the picture.
    """
    step = max(1, max(gray.shape) // 60)
    gray = gray[::step, ::step]  # enough for a surface
    terms, near = _surface(*gray.shape)
    values = gray.reshape(-1)
    residual = values
    for _ in range(5):
        some = terms[near]
        # Of the normal equations, and not of the terms themselves: much faster.
        surface = np.linalg.lstsq(some.T @ some, some.T @ values[near], rcond=None)[0]
        residual = values - terms @ surface
        near = np.abs(residual) <= 2.5 * max(float(np.median(np.abs(residual))), 1e-3)
    return bool((residual**3).sum() > 0)


@lru_cache(maxsize=16)
def _surface(height: int, width: int) -> tuple[Float64[ndarray, "n 6"], Bool[ndarray, " n"]]:
    """Return the terms of second order at each pixel, and which pixels lie near an edge."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    return terms, (np.maximum(np.abs(x), np.abs(y)) > 0.85).reshape(-1)


def _otsu(values: Float32[ndarray, "..."]) -> tuple[float, float]:
    """Return the threshold that parts values best in two (Otsu, 1979).

    With it comes the share of the variance that is between the two.
    """
    low, high = float(values.min()), float(values.max())
    wide = max(high - low, 1e-9) / 256
    bins = ((values - low) * (1 / wide)).astype(np.int64).clip(max=255)
    counts = np.bincount(bins.ravel(), minlength=256)
    centres = low + wide * (np.arange(256) + 0.5)
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * centres).cumsum()
    # Of an empty part the mean does not matter.
    apart = total / below.clip(1) - (total[-1] - total) / above.clip(1)
    between = below * above * apart**2
    best = int(np.argmax(between))
    variance = float(values.var()) * values.size**2
    return float(centres[best]), float(between[best]) / max(variance, 1e-9)


def _rules(mask: Mask) -> Mask:
    """Find long thin lines, as of ruled paper and forms.

    The strokes of a digit that fills its picture can be as long. Then there is nothing beside it.
    """
    found = [
        [(line.T if turned else line, share) for line, share in _lines(mask.T if turned else mask)]
        for turned in (False, True)
    ]
    framed = all(len(lines) >= 2 for lines in found)
    rules = np.zeros_like(mask)
    for line, share in chain(*found):
        if framed or share >= ACROSS:
            rules |= line
    labels, _ = ndimage.label(mask, AROUND)
    near = EDGE * max(mask.shape)
    for number in np.unique(labels[rules]):
        part = labels == number
        fills = all(
            side.start <= near and side.stop >= length - near
            for side, length in zip(bounds(part), mask.shape, strict=True)
        )
        if fills and (mask & ~part).sum() < SPECK * mask.sum():
            return np.zeros_like(mask)
    return rules


def _lines(mask: Mask) -> Iterator[tuple[Mask, float]]:
    """Yield the thin lines from left to right, and how much of the width they go."""
    length = max(3, mask.shape[1] // 8) | 1
    # An opening, as scipy's for masks but faster: what is left of runs of this length.
    runs = ndimage.minimum_filter1d(mask.view(np.uint8), length, mode="constant")
    if runs.any(axis=0).sum() + length < LONG * mask.shape[1]:
        return
    labels, _ = ndimage.label(ndimage.maximum_filter1d(runs, length, mode="constant"), AROUND)
    for number, part in enumerate(ndimage.find_objects(labels), 1):
        share = (part[1].stop - part[1].start) / mask.shape[1]
        line = labels == number
        thick = np.median(line[part].sum(axis=0))
        if share >= LONG and thick <= RULE * max(mask.shape):
            yield line, share


def _mended(mask: Mask, rules: Mask) -> Mask:
    """Join what rules crossed."""
    size = round(RULE * max(mask.shape)) + 5
    upright = ndimage.binary_closing(mask, np.ones((size, 1), dtype=bool))
    level = ndimage.binary_closing(mask, np.ones((1, size), dtype=bool))
    return mask | ((upright | level) & rules)


def _one_digit(mask: Mask) -> Mask:
    """Keep the largest part and what lies near it and is no speck.

    Pieces of a dashed stroke are one part: a stroke's width parts them at most.
    """
    joined = ndimage.distance_transform_edt(~mask) <= (_stroke(mask) + 1) / 2
    labels, count = ndimage.label(joined, AROUND)
    labels[~mask] = 0
    parts = [Box(*part) for part in ndimage.find_objects(labels, count)]
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
    inside = [_inside(labels, number, part) for number, part in enumerate(parts, 1)]
    # The edge of a table or a shadow comes in from the side; a digit seldom does.
    scores = areas * np.where(inside, 1.0, 0.2)
    main = int(scores.argmax())
    box = parts[main]
    reach = REACH * box.longer
    kept = [
        number
        for number, (part, area) in enumerate(zip(parts, areas, strict=True))
        if area >= SPECK * areas[main]
        and (inside[number] or number == main)
        and all(
            p.start - b.stop < reach and b.start - p.stop < reach
            for p, b in zip(part, box, strict=True)
        )
    ]
    return np.isin(labels, [number + 1 for number in kept])


def _widest(mask: Mask) -> int:
    """Return how wide the widest part is, in pixels."""
    return 2 * int(ndimage.distance_transform_cdt(mask, "chessboard").max()) - 1


def _stroke(mask: Mask) -> int:
    """Return how wide a stroke is, in pixels."""
    depths = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")
    return max(1, round(2 * float(np.quantile(depths[depths > 0], 0.9)) - 1))


def disc(size: int) -> Mask:
    """Return a disc of this diameter, in pixels, and one more."""
    y, x = np.mgrid[: size + 1, : size + 1] - size / 2
    return np.hypot(x, y) <= size / 2 + 0.21  # for a size of 1, whose corners are 0.71 away


def _labelled(mask: Mask) -> tuple[Int[ndarray, "h w"], range]:
    labels, count = ndimage.label(mask, AROUND)
    return labels, range(1, count + 1)


def _inside(labels: Int[ndarray, "h w"], number: int, part: Box) -> bool:
    """Say whether a part ends within the picture, or only just touches one of its edges."""
    edges = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    touching = [count for edge in edges if (count := int((edge == number).sum()))]
    return len(touching) < 2 and sum(touching) <= TOUCH * part.longer
