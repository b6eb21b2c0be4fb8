"""Threshold: separate the ink of a picture from background, shadows, ruled lines and noise."""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray
from PIL import Image
from scipy import ndimage

from mnist_lit.errors import PictureError
from mnist_lit.inference.boxes import bounds, boxes_of, size, window
from mnist_lit.inference.masks import AROUND, Gray, Mask, disc, labelled, stroke, widest

WORKING_SIDE = 140  # pixels; enough for a digit that is scaled to 20
SEARCHING_SIDE = 200  # second try: a small or faint digit
READING_SIDE = 1_000  # third try: a page full of digits
FINE = 0.5  # pixels, standard deviation of the smoothing of small digits
TINY = 20  # pixels; a digit fills a picture of this size
TWO_TONED = 0.75  # least share of the variance between two tones, for a picture with only two
# Shares of the working picture's side:
BACKGROUND = 0.35  # wider than any stroke, narrower than a shadow
RULE = 0.04  # ruled lines are thinner than this
LONG = 0.6  # and longer than this in a frame
ACROSS = 0.95  # and longer than this elsewhere
EDGE = 0.05  # a digit this near to every edge fills the picture
# Least difference of ink and background: as a share of black to white, and as a multiple of the
# background's noise.
MIN_CONTRAST = 0.06
MIN_SIGNAL = 5.0
SHARP = 0.9  # share of the variance between two tones; a gradient has 0.75
UNEVEN = 2.0  # light on paper, as a multiple of that in a shadow
DASHES = 4  # pieces of a digit with dashed strokes; other digits have three at most
SPECK = 0.03  # share of the ink's area; a smaller piece is a speck
BLANK = "no digit found, the page is blank or too faint"


class Foreground(NamedTuple):
    """Ink and background of a picture.

    Attributes:
        sign: 1 for dark ink, -1 for light ink.
        background: Lightness of the background at each pixel, times ``sign``.
        depth: How much darker each pixel is than the background, or lighter with light ink.
        bare: The median depth outside the ink.
        mask: The pixels of the ink, without ruled lines.
        margin: Pixels that were added on each side.
    """

    sign: float
    background: Gray
    depth: Gray
    bare: float
    mask: Mask
    margin: int = 0

    @property
    def side(self) -> int:
        """The longer side of the picture, without a margin."""
        return max(self.mask.shape) - 2 * self.margin

    @property
    def is_uneven(self) -> bool:
        """Whether a shadow or a desk makes the background much darker, for light ink at an edge."""
        few = np.abs(self.background[::4, ::4])  # it is smooth
        dark, light = np.quantile(few, (0.05, 0.95))
        return bool(dark * UNEVEN < light) and (self.sign > 0 or _otsu(few)[1] > SHARP)

    def ink(self, mask: Mask, at: tuple[slice, ...] = ()) -> Gray:
        """Return the amount of ink in a mask, from 0 to 1, and 0 outside it.

        Args:
            mask: A mask of the picture, or of a part of it.
            at: The slices of that part.
        """
        depth = self.depth[at]
        full = np.quantile(depth[mask], 0.8)
        soft = np.clip((depth - self.bare) / (full - self.bare), 0, 1)
        pieces = np.bincount(labelled(mask).ravel())[1:]
        if (pieces > SPECK * mask.sum()).sum() >= DASHES:
            closed = disc(2 * stroke(mask))
            wide = len(closed)  # beyond the edges there is no ink
            mask = ndimage.binary_closing(np.pad(mask, wide), closed)[wide:-wide, wide:-wide]
            soft = ndimage.grey_closing(soft, footprint=closed)
        near = ndimage.distance_transform_cdt(~mask, "taxicab") <= 2
        return np.where(near, soft, 0).astype(np.float32)

    def closer(self, gray: Gray, kept: Mask, side: int) -> "Foreground":
        """Threshold the picture again with more pixels, near the ink of a mask."""
        fine = ndimage.gaussian_filter(_shrunk(gray, side), FINE)
        shape = fine.shape[::-1]
        background = np.asarray(Image.fromarray(self.background).resize(shape))
        depth = np.clip(background - self.sign * fine, 0, None)
        near = ndimage.binary_dilation(kept, AROUND, iterations=2)
        near = np.asarray(Image.fromarray(near).resize(shape, Image.Resampling.NEAREST))
        threshold = _otsu(depth[near])[0]
        bare = _median(depth[near & (depth <= threshold)])
        return Foreground(self.sign, background, depth, bare, near & (depth > threshold))


def threshold(gray: Gray) -> Foreground:
    """Separate ink from background, on a reduced picture.

    Args:
        gray: The picture, from 0 (black) to 1 (white).

    Raises:
        PictureError: No ink is found.
    """
    for side in (WORKING_SIDE, SEARCHING_SIDE):
        with suppress(PictureError):
            return foreground(gray, side)
    return foreground(gray, READING_SIDE)


def foreground(gray: Gray, side: int = WORKING_SIDE) -> Foreground:
    """Threshold a picture reduced to at most ``side`` pixels; raises as ``threshold`` does."""
    gray = _shrunk(gray, side)
    side = max(gray.shape)
    threshold, share = _otsu(gray)
    light = _background_is_light(gray, threshold)
    is_background = (gray > threshold) == light
    tone = _median(gray[is_background])
    # A hard shadow also makes two tones, but it is wider than a stroke.
    two_toned = share > TWO_TONED and (side <= TINY or widest(~is_background) < BACKGROUND * side)
    margin = round(side / 4) if two_toned and side <= TINY else 0
    gray = np.pad(gray, margin, constant_values=tone)
    gray = ndimage.gaussian_filter(gray, min(1, max(gray.shape) / WORKING_SIDE))
    if two_toned:
        sign = 1.0 if light else -1.0
        background = np.full_like(gray, sign * tone)
    else:
        sign = -1.0 if _light_on_dark(gray) else 1.0
        reach = max(3, round(BACKGROUND * min(gray.shape)))
        background = ndimage.grey_closing(sign * gray, size=(reach, reach))
    depth = np.clip(background - sign * gray, 0, None)
    mask = depth > _otsu(depth)[0]
    if mask.all() or not mask.any():
        raise PictureError(BLANK)
    rules = _rules(mask)
    if rules.any():
        # Ruled lines may be darker than the digit, and would change the threshold.
        rules = ndimage.binary_dilation(rules, AROUND)
        mask = _mended(~rules & (depth > _otsu(depth[~rules])[0]), rules)
    if not mask.any():
        raise PictureError("no digit found, only lines or specks")
    outside = depth[~mask]
    bare = _median(outside)
    noise = 1.4826 * _median(np.abs(outside - bare))
    if _median(depth[mask]) - bare < max(MIN_CONTRAST, MIN_SIGNAL * noise):
        raise PictureError(BLANK)
    return Foreground(sign, background, depth, bare, mask, margin)


def _shrunk(gray: Gray, side: int) -> Gray:
    """Reduce a picture to at most ``side`` pixels a side."""
    scale = side / max(gray.shape)
    if scale >= 1:
        return gray
    height, width = (max(1, round(length * scale)) for length in gray.shape)
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BOX))


def _background_is_light(gray: Gray, threshold: float) -> bool:
    """Return whether the lighter of two tones is the background.

    The edge of the picture is mostly background. But a frame can run along the edge, and a thick
    digit can fill the area next to it. So there are three votes: the edge, a wider edge, and all.
    """
    votes = 0
    for width in (1, max(1, round(0.1 * min(gray.shape))), max(gray.shape)):
        edge = np.ones(gray.shape, dtype=bool)
        edge[width:-width, width:-width] = False
        votes += _median(gray[edge]) > threshold
    return votes >= 2


def _light_on_dark(gray: Gray) -> bool:
    """Return whether the ink is lighter than the background.

    It fits a surface of second order to the background; the sum of the cubed residuals decides.
    """
    step = max(1, max(gray.shape) // 40)
    gray = gray[::step, ::step]  # enough pixels for a surface
    y, x = np.mgrid[-1 : 1 : gray.shape[0] * 1j, -1 : 1 : gray.shape[1] * 1j].reshape(2, -1)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    near = np.maximum(np.abs(x), np.abs(y)) > 0.85  # starts with the edges
    values = residual = gray.reshape(-1)
    for _ in range(5):
        some = terms[near]
        # Solves the normal equations: much faster than `lstsq` of the terms.
        surface = np.linalg.lstsq(some.T @ some, some.T @ values[near], rcond=None)[0]
        residual = values - terms @ surface
        near = np.abs(residual) <= 2.5 * max(_median(np.abs(residual)), 1e-3)
    return bool((residual**3).sum() > 0)


def _median(values: Float[ndarray, " n"]) -> float:
    """Return the upper median; numpy's median takes twice as long."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


def _otsu(values: Float32[ndarray, "..."]) -> tuple[float, float]:
    """Return the threshold that separates values best into two classes (Otsu, 1979).

    Also return the share of the variance between the two classes.
    """
    low, high = float(values.min()), float(values.max())
    wide = max(high - low, 1e-9) / 256
    bins = ((values - low) * (1 / wide)).astype(np.int64).clip(max=255)
    counts = np.bincount(bins.ravel(), minlength=256)
    centres = low + wide * (np.arange(256) + 0.5)
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * centres).cumsum()
    # The mean of an empty class does not matter.
    apart = total / below.clip(1) - (total[-1] - total) / above.clip(1)
    between = below * above * apart**2
    best = int(np.argmax(between))
    variance = float(values.var()) * values.size**2
    return float(centres[best]), float(between[best]) / max(variance, 1e-9)


def _rules(mask: Mask) -> Mask:
    """Return a mask of long thin lines, as on ruled paper and forms.

    The strokes of a digit that fills its picture can be as long, but nothing else is beside it.
    """
    level = _lines(mask)
    upright = [(line.T, share) for line, share in _lines(mask.T)]
    framed = len(level) >= 2 and len(upright) >= 2
    rules = np.zeros_like(mask)
    for line, share in (*level, *upright):
        if framed or share >= ACROSS:
            rules |= line
    labels = labelled(mask)
    near = EDGE * max(mask.shape)
    for number in np.unique(labels[rules]):
        part = labels == number
        start, stop = bounds(part).T
        fills = (start <= near).all() and (stop >= np.subtract(mask.shape, near)).all()
        if fills and (mask & ~part).sum() < SPECK * mask.sum():
            return np.zeros_like(mask)
    return rules


def _lines(mask: Mask) -> list[tuple[Mask, float]]:
    """Return a mask of each thin horizontal line, and the line's share of the width."""
    length = max(3, mask.shape[1] // 8) | 1
    # A morphological opening by a row of this length, faster than scipy's for masks.
    runs = ndimage.minimum_filter1d(mask.view(np.uint8), length, mode="constant")
    if runs.any(axis=0).sum() + length < LONG * mask.shape[1]:
        return []
    labels = labelled(ndimage.maximum_filter1d(runs, length, mode="constant"))
    found = []
    for number, box in enumerate(boxes_of(labels), 1):
        share = size(box)[1] / mask.shape[1]
        line = labels == number
        thick = np.median(line[window(box)].sum(axis=0))
        if share >= LONG and thick <= RULE * mask.shape[1]:
            found.append((line, share))
    return found


def _mended(mask: Mask, rules: Mask) -> Mask:
    """Join the strokes that ruled lines crossed."""
    long = round(RULE * max(mask.shape)) + 5
    upright = ndimage.binary_closing(mask, np.ones((long, 1), dtype=bool))
    level = ndimage.binary_closing(mask, np.ones((1, long), dtype=bool))
    return mask | ((upright | level) & rules)
