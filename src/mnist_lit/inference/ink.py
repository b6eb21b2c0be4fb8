"""The ink of a digit on a person's picture, apart from paper, shadows, ruled lines and noise."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from numpy import ndarray
from PIL import Image
from scipy import ndimage

from mnist_lit.errors import PictureError

WORKING_SIDE = 140  # pixels; more show no more of a digit that ends in a box of 20
SEARCHING_SIDE = 200  # where nothing is seen on so few: a digit is small or faint
READING_SIDE = 1_000  # where nothing is seen on so few either: a page full of digits
FINE = 0.5  # pixels that are smoothed over where digits have few
TINY = 20  # pixels; the digit fills a picture of so few
TWO_TONED = 0.75  # of the variance is between its two tones, where a picture has no more
# In shares of the working picture's side:
BACKGROUND = 0.35  # wider than any stroke, narrower than a shadow
RULE = 0.04  # ruled lines are thinner than this
LONG = 0.6  # and longer than this in a frame
ACROSS = 0.95  # and than this elsewhere
THICK = 0.2  # any stroke is thinner than this
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
SmallGray = Float32[ndarray, "i j"]  # of a reduced picture
SmallMask = Bool[ndarray, "i j"]


class Box(NamedTuple):
    """A part of a picture."""

    rows: slice
    columns: slice

    @property
    def longer(self) -> int:
        """Its longer side."""
        return max(side.stop - side.start for side in self)

    @property
    def height(self) -> int:
        """Its height."""
        return int(self.rows.stop - self.rows.start)

    @property
    def width(self) -> int:
        """Its width."""
        return int(self.columns.stop - self.columns.start)

    def near(self, other: "Box", reach: float) -> bool:
        """Say whether fewer pixels than this lie between it and another, down and across."""
        return all(
            one.start - two.stop < reach and two.start - one.stop < reach
            for one, two in zip(self, other, strict=True)
        )

    def around(self, other: "Box") -> "Box":
        """Return the smallest box around it and another."""
        both = zip(self, other, strict=True)
        return Box(*(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in both))

    def moved(self, down: int, right: int) -> "Box":
        """Return it, so many pixels further down and to the right."""
        both = zip(self, (down, right), strict=True)
        return Box(*(slice(side.start + by, side.stop + by) for side, by in both))

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


def look(gray: Gray) -> "Seen":
    """Tell ink from paper, on a reduced picture.

    Args:
        gray: From 0 (black) to 1 (white).

    Raises:
        PictureError: There is nothing to be seen.
    """
    for side in (WORKING_SIDE, SEARCHING_SIDE):
        try:
            return _seen(shrunk(gray, side))
        except PictureError:
            if max(gray.shape) <= side:
                raise
    return _seen(shrunk(gray, READING_SIDE))


def ink_of(gray: Gray, seen: "Seen", mask: SmallMask) -> Float32[ndarray, "k l"]:
    """Return how much ink there is, from 0 to 1, of the one digit that a mask shows.

    If it is small on a large picture, it is looked at again on the part of the picture around it.
    """
    ink = seen.ink(mask)
    box = bounds(ink > 0)
    scale = max(gray.shape) / seen.side
    if scale > 1 and box.longer < SMALL * seen.side:
        part = shrunk(gray[box.grown(0.5 * box.longer + 2, scale, gray.shape)])
        try:
            closer = _seen(part)
            return closer.ink(one_digit(closer.mask))
        except PictureError:  # what made it stand out lies further away
            return ink
    return ink


def shrunk(gray: Gray, side: int = WORKING_SIDE) -> SmallGray:
    """Return a picture of at most so many pixels a side."""
    height, width = gray.shape
    scale = side / max(height, width)
    if scale >= 1:
        return gray
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BOX))


class Seen(NamedTuple):
    """Ink and paper of a picture.

    Attributes:
        dark: 1 for dark ink, -1 for light ink.
        paper: How light the paper is everywhere, times ``dark``.
        depth: By how much each pixel is darker than the paper, or lighter with light ink.
        bare: That of the paper itself.
        mask: What is ink, but that of ruled lines.
        margin: Pixels that were added on each side.
    """

    dark: float
    paper: Gray
    depth: Gray
    bare: float
    mask: Mask
    margin: int = 0

    @property
    def side(self) -> int:
        """The longer side of the picture, without a margin."""
        return max(self.mask.shape) - 2 * self.margin

    def part(self, box: Box) -> "Seen":
        """Return what is seen of a part of the picture."""
        return Seen(self.dark, self.paper[box], self.depth[box], self.bare, self.mask[box])

    def ink(self, mask: Mask) -> Float32[ndarray, "i j"]:
        """Return how much ink there is, from 0 to 1, of what a mask shows, and none of the rest."""
        full = np.quantile(self.depth[mask], 0.8)
        soft = np.clip((self.depth - self.bare) / (full - self.bare), 0, 1)
        pieces = areas_of(ndimage.label(mask, AROUND)[0])
        if (pieces > SPECK * mask.sum()).sum() >= DASHES:
            closed = disc(2 * stroke(mask))
            wide = len(closed)  # beyond the edges there is no ink
            mask = ndimage.binary_closing(np.pad(mask, wide), closed)[wide:-wide, wide:-wide]
            soft = ndimage.grey_closing(soft, footprint=closed)
        near = ndimage.distance_transform_cdt(~mask, "taxicab") <= 2
        return np.where(near, soft, 0).astype(np.float32)

    def closer(self, gray: Gray, kept: SmallMask, side: int) -> "Seen":
        """Look at the picture with more pixels, where a mask shows that there is ink."""
        fine = ndimage.gaussian_filter(shrunk(gray, side), FINE)
        height, width = fine.shape
        paper = np.asarray(Image.fromarray(self.paper).resize((width, height)))
        depth = np.clip(paper - self.dark * fine, 0, None)
        near = ndimage.binary_dilation(kept, AROUND, iterations=2)
        near = np.asarray(Image.fromarray(near).resize((width, height), Image.Resampling.NEAREST))
        threshold = _otsu(depth[near])[0]
        bare = _median(depth[near & (depth <= threshold)])
        return Seen(self.dark, paper, depth, bare, near & (depth > threshold))


def _seen(gray: Gray) -> Seen:
    side = max(gray.shape)
    threshold, share = _otsu(gray)
    light_paper = _paper_is_light(gray, threshold)
    is_paper = (gray > threshold) == light_paper
    paper_tone = _median(gray[is_paper])
    # A hard shadow parts a picture in two tones as well, but is wider than a stroke.
    two_toned = share > TWO_TONED and (side <= TINY or _widest(~is_paper) < BACKGROUND * side)
    margin = round(side / 4) if two_toned and side <= TINY else 0
    if margin:
        gray = np.pad(gray, margin, constant_values=paper_tone)
    gray = _smooth(gray)
    dark = 1.0 if (light_paper if two_toned else not _light_on_dark(gray)) else -1.0
    paper = np.full_like(gray, dark * paper_tone) if two_toned else _paper(dark * gray)
    depth = np.clip(paper - dark * gray, 0, None)
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
    outside = depth[~mask]
    bare = _median(outside)
    contrast = _median(depth[mask]) - bare
    noise = 1.4826 * _median(np.abs(outside - bare))
    if contrast < max(MIN_CONTRAST, MIN_SIGNAL * noise):
        raise PictureError(BLANK)
    return Seen(dark, paper, depth, bare, mask, margin)


def _smooth(gray: Gray) -> Gray:
    return ndimage.gaussian_filter(gray, min(1, max(gray.shape) / WORKING_SIDE))


def _paper_is_light(gray: Gray, threshold: float) -> bool:
    """Say which of two tones is the paper: that of most of the picture's edge.

    A frame can run along the edge itself, and a thick digit fill what is a little further in. So
    there are three votes: of the edge, of a wider one, and of the whole.
    """
    wide = max(1, round(0.1 * min(gray.shape)))
    edges = [np.ones(gray.shape, dtype=bool) for _ in range(3)]
    for edge, width in zip(edges, (1, wide), strict=False):
        edge[width:-width, width:-width] = False
    return sum(_median(gray[edge]) > threshold for edge in edges) >= 2


def _paper(light: Gray) -> Gray:
    """Return how light the paper is around each pixel of a picture with dark ink."""
    reach = max(3, round(BACKGROUND * min(light.shape)))
    return ndimage.grey_closing(light, size=(reach, reach))


def _light_on_dark(gray: Gray) -> bool:
    """Compare what is far from a smooth background on either side of it.

    The background is a surface of second order through most of the picture.
    """
    step = max(1, max(gray.shape) // 40)
    gray = gray[::step, ::step]  # enough for a surface
    terms, near = _surface(*gray.shape)
    values = gray.reshape(-1)
    residual = values
    for _ in range(5):
        some = terms[near]
        # Of the normal equations, and not of the terms themselves: much faster.
        surface = np.linalg.lstsq(some.T @ some, some.T @ values[near], rcond=None)[0]
        residual = values - terms @ surface
        near = np.abs(residual) <= 2.5 * max(_median(np.abs(residual)), 1e-3)
    return bool((residual**3).sum() > 0)


@lru_cache(maxsize=16)
def _surface(height: int, width: int) -> tuple[Float64[ndarray, "n 6"], Bool[ndarray, " n"]]:
    """Return the terms of second order at each pixel, and which pixels lie near an edge."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    return terms, (np.maximum(np.abs(x), np.abs(y)) > 0.85).reshape(-1)


def _median(values: Float[ndarray, " n"]) -> float:
    """Return the middle value, of an even number the upper one; numpy's takes twice as long."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


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


class Parts(NamedTuple):
    """What a mask consists of.

    Pieces that a stroke's width parts, as those of a dashed stroke, are one part.

    Attributes:
        labels: The number of the part that a pixel belongs to, from 1; 0 is paper.
        boxes: Where each is.
        areas: The number of pixels of each.
        inside: Whether each ends within the picture, or only just touches one of its edges.
    """

    labels: Int[ndarray, "h w"]
    boxes: list[Box]
    areas: Float64[ndarray, " n"]
    inside: Bool[ndarray, " n"]

    @property
    def main(self) -> int:
        """The largest one, counted from 0.

        The edge of a table or a shadow comes in from the side; a digit seldom does. What is thicker
        than any stroke then is a digit only if there is nothing else.
        """
        weights = np.where(self.inside, 1.0, 0.2)
        for number in np.flatnonzero(~self.inside):
            if _widest(self.labels == number + 1) > THICK * max(self.labels.shape):
                weights[number] = SPECK
        return int((self.areas * weights).argmax())


def parts_of(mask: Mask) -> Parts:
    """Tell the parts of a mask apart."""
    joined = ndimage.distance_transform_edt(~mask) <= (stroke(mask) + 1) / 2
    labels, count = ndimage.label(joined, AROUND)
    labels[~mask] = 0
    boxes = [Box(*part) for part in ndimage.find_objects(labels, count)]
    areas = areas_of(labels)
    inside = [_inside(labels, number, box) for number, box in enumerate(boxes, 1)]
    return Parts(labels, boxes, np.asarray(areas, float), np.array(inside))


def one_digit(mask: Mask) -> Mask:
    """Keep the largest part and what lies near it and is no speck."""
    parts = parts_of(mask)
    main = parts.main
    around = parts.boxes[main]
    kept = [
        number + 1
        for number, (box, area) in enumerate(zip(parts.boxes, parts.areas, strict=True))
        if area >= SPECK * parts.areas[main]
        and (parts.inside[number] or number == main)
        and box.near(around, REACH * around.longer)
    ]
    return np.isin(parts.labels, kept)


def _widest(mask: Mask) -> int:
    """Return how wide the widest part is, in pixels."""
    return 2 * int(ndimage.distance_transform_cdt(mask, "chessboard").max()) - 1


def stroke(mask: Mask) -> int:
    """Return how wide a stroke is, in pixels."""
    depths = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")
    return max(1, round(2 * float(np.quantile(depths[depths > 0], 0.9)) - 1))


def disc(size: int) -> Mask:
    """Return a disc of this diameter, in pixels, and one more."""
    y, x = np.mgrid[: size + 1, : size + 1] - size / 2
    return np.hypot(x, y) <= size / 2 + 0.21  # for a size of 1, whose corners are 0.71 away


def areas_of(labels: Int[ndarray, "h w"]) -> Int[ndarray, " n"]:
    """Return how many pixels each number has, from 1."""
    return np.bincount(labels.ravel())[1:]


def _inside(labels: Int[ndarray, "h w"], number: int, part: Box) -> bool:
    """Say whether a part ends within the picture, or only just touches one of its edges."""
    edges = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    touching = [count for edge in edges if (count := int((edge == number).sum()))]
    return len(touching) < 2 and sum(touching) <= TOUCH * part.longer
