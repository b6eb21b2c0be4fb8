"""A person's picture of a digit, made into what the networks were trained on.

MNIST's digits were scaled to fit a box of 20×20 pixels with their proportions kept, anti-aliased,
and placed in 28×28 with their centre of mass in the middle, light on black (LeCun, Bottou, Bengio
and Haffner, Gradient-based learning applied to document recognition, 1998, section III.A). Here the
ink is found first: people's pictures have shadows, ruled lines, noise, and ink of either colour.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_lit.errors import PictureError
from mnist_lit.facts import Facts
from mnist_lit.network.blocks import IMAGE_SIZE

BOX = 20
MAX_SIDE = 10_000  # pixels
WORKING_SIDE = 200  # pixels; more show no more of a digit that ends in a box of 20
# In shares of the working picture's side:
BACKGROUND = 0.35  # wider than any stroke, narrower than a shadow
RULE = 0.04  # ruled lines are thinner than this
# In shares of the digit's longer side:
REACH = 0.25  # how far from its largest part the others lie
STROKE = 0.09  # thinner ones are thickened: the thinnest of MNIST's
# Ink must stand out from paper by this share of black to white, and from its noise by this factor.
MIN_CONTRAST = 0.06
MIN_SIGNAL = 5.0

Gray = Float32[ndarray, "h w"]
Mask = Bool[ndarray, "h w"]


def open_picture(path: Path) -> Image.Image:
    """Read a file of any format and size that Pillow knows.

    Raises:
        PictureError: It is missing, unreadable, no image, damaged, animated or too large.
    """
    try:
        if path.stat().st_size == 0:
            raise PictureError(f"{path}: an empty file")
        with warnings.catch_warnings():
            # Files of more than a hundred million pixels: refused below, before they are unpacked.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _refuse_large(image, path)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise PictureError(
                    f"{path}: {frames} frames or pages; save one of them as a picture"
                )
            image.load()
            return image
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file") from None
    except PermissionError:
        raise PictureError(f"{path}: no permission to read it") from None
    except IsADirectoryError:
        raise PictureError(f"{path}: a folder, not a picture") from None
    except UnidentifiedImageError:
        raise PictureError(f"{path}: not an image that can be read (PNG, JPEG, …)") from None
    except Image.DecompressionBombError:
        raise PictureError(f"{path}: more than {MAX_SIDE:,} pixels a side; scale it down") from None
    except PictureError:
        raise
    except Exception as error:  # decoders raise whatever the first wrong byte leads them to
        raise PictureError(f"{path}: damaged or cut off ({error})") from None


def _refuse_large(image: Image.Image, name: Path) -> None:
    if max(image.size) > MAX_SIDE:
        width, height = image.size
        raise PictureError(
            f"{name}: {width:,}×{height:,} pixels, more than {MAX_SIDE:,} a side; scale it down"
        )


def to_gray(image: Image.Image) -> Gray:
    """Return ``[H, W]`` from 0 (black) to 1 (white), turned as its camera says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image, dtype=np.float32)
        return deep / max(65_535.0, float(deep.max()))
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        return (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = np.asarray(image.convert("L"))[np.asarray(image.getchannel("A")) > 127]
        # What is drawn on nothing is seen on the opposite.
        light = opaque.size > 0 and opaque.mean() > 127
        paper = Image.new("RGBA", image.size, "black" if light else "white")
        image = Image.alpha_composite(paper, image)
    return np.asarray(image.convert("L"), dtype=np.float32) / 255


def prepare_for(
    facts: Facts, image: Image.Image, name: str = "the picture"
) -> UInt8[ndarray, "side side"]:
    """Make of a picture what a network takes that was trained on such images.

    A digit is found and laid out; a picture for other data is made gray and resized, no more.

    Raises:
        PictureError: There is no digit on it.
    """
    if facts.centred:
        return prepare(image, name)
    gray = Image.fromarray(to_gray(image))
    resized = gray.resize((facts.side, facts.side), Image.Resampling.BOX, reducing_gap=None)
    return np.round(np.asarray(resized).clip(0, 1) * 255).astype(np.uint8)


def prepare(image: Image.Image, name: str = "the picture") -> UInt8[ndarray, "28 28"]:
    """Find the digit and lay it out as MNIST's are: light on black in 28×28.

    An image that already is laid out so is returned as it is.

    Args:
        image: In any mode and size.
        name: What to call it in an error.

    Raises:
        PictureError: There is nothing on it.
    """
    gray = to_gray(image)
    if is_laid_out(gray):
        return np.round(gray * 255).astype(np.uint8)
    ink = find_ink(_shrink(gray), name)
    return lay_out(ink)


def is_laid_out(gray: Gray) -> bool:
    """Say whether an image has the size, black background, box and centre of MNIST's.

    True of all 70,000 of them.
    """
    if gray.shape != (IMAGE_SIZE, IMAGE_SIZE) or gray.max() < 0.95:
        return False
    height, width = (part.stop - part.start for part in _bounds(gray > 0))
    centre = ndimage.center_of_mass(gray)
    return max(height, width) <= BOX and all(abs(c - IMAGE_SIZE / 2) < 0.6 for c in centre)


def _shrink(gray: Gray) -> Float32[ndarray, "i j"]:
    height, width = gray.shape
    scale = WORKING_SIDE / max(height, width)
    if scale >= 1:
        return gray
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BOX))


def find_ink(gray: Gray, name: str = "the picture") -> Gray:
    """Return how much ink of the digit there is, ``[H, W]`` from 0 to 1, and none of the rest.

    Raises:
        PictureError: There is nothing to be seen.
    """
    side = max(gray.shape)
    # A margin, so that strokes may touch the edge of a picture.
    gray = ndimage.gaussian_filter(gray, side / WORKING_SIDE)
    dark = -1.0 if _light_on_dark(gray) else 1.0
    reach = max(3, round(BACKGROUND * min(gray.shape)))
    depth = ndimage.grey_closing(dark * gray, size=(reach, reach)) - dark * gray
    mask = depth > _otsu(depth)
    blank = PictureError(f"{name}: no digit to be seen, the page is blank or too faint")
    if mask.all() or not mask.any():
        raise blank
    paper = depth[~mask]
    contrast = float(np.median(depth[mask]) - np.median(paper))
    noise = 1.4826 * float(np.median(np.abs(paper - np.median(paper))))
    if contrast < max(MIN_CONTRAST, MIN_SIGNAL * noise):
        raise blank
    mask = _one_digit(_without_rules(mask))
    if not mask.any():
        raise PictureError(f"{name}: no digit to be seen, only lines or specks")
    full = np.quantile(depth[mask], 0.8)
    soft = np.clip((depth - np.median(paper)) / (full - np.median(paper)), 0, 1)
    return np.where(ndimage.binary_dilation(mask, iterations=2), soft, 0).astype(np.float32)


def _light_on_dark(gray: Gray) -> bool:
    """Compare what is far from a smooth background on either side of it.

    The background is a surface of second order through most of the picture.
    """
    step = max(1, max(gray.shape) // 60)
    gray = gray[::step, ::step]  # enough for a surface
    height, width = gray.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = gray.reshape(-1)
    near = (np.maximum(np.abs(x), np.abs(y)) > 0.85).reshape(-1)
    residual = values
    for _ in range(5):
        surface = terms @ np.linalg.lstsq(terms[near], values[near], rcond=None)[0]
        residual = values - surface
        near = np.abs(residual) <= 2.5 * max(float(np.median(np.abs(residual))), 1e-3)
    return bool((residual**3).sum() > 0)


def _otsu(values: Gray) -> float:
    """Return the threshold that parts values best in two (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * centres).cumsum()
    # Of an empty part the mean does not matter.
    apart = total / below.clip(1) - (total[-1] - total) / above.clip(1)
    return float(centres[np.argmax(below * above * apart**2)])


def _without_rules(mask: Mask) -> Mask:
    """Take out thin lines from edge to edge, and mend the strokes that they crossed."""
    for turned in (False, True):
        view = mask.T if turned else mask
        length = max(3, view.shape[1] // 8)
        lines = ndimage.binary_opening(view, np.ones((1, length), dtype=bool))
        labels, _ = ndimage.label(lines, np.ones((3, 3)))
        for number, part in enumerate(ndimage.find_objects(labels), 1):
            rule = labels[part] == number
            spans = part[1].stop - part[1].start >= 0.95 * view.shape[1]
            thickness = int(np.median(rule.sum(axis=0)))
            if spans and thickness <= RULE * max(mask.shape):
                line = labels == number
                rest = view & ~ndimage.binary_dilation(line, np.ones((3, 1), dtype=bool))
                bridge = np.ones((thickness + 5, 1), dtype=bool)
                view = rest | (ndimage.binary_closing(rest, bridge) & line)
        mask = view.T if turned else view
    return mask


def _one_digit(mask: Mask) -> Mask:
    """Keep the largest part and what lies near it and is no speck."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if count == 0:
        return mask
    parts = ndimage.find_objects(labels)
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
    inside = [
        p[0].start > 0
        and p[0].stop < mask.shape[0]
        and p[1].start > 0
        and p[1].stop < mask.shape[1]
        for p in parts
    ]
    # The edge of a table or a shadow comes in from the side; a digit seldom does.
    scores = areas * np.where(inside, 1.0, 0.2)
    main = int(scores.argmax())
    box = parts[main]
    reach = REACH * max(part.stop - part.start for part in box)
    kept = [
        number
        for number, (part, area) in enumerate(zip(parts, areas, strict=True))
        if area >= 0.03 * areas[main]
        and (inside[number] or number == main)
        and all(
            p.start - b.stop < reach and b.start - p.stop < reach
            for p, b in zip(part, box, strict=True)
        )
    ]
    return np.isin(labels, [number + 1 for number in kept])


class _Box(NamedTuple):
    rows: slice
    columns: slice


def _bounds(mask: Mask) -> _Box:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return _Box(slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))


def lay_out(ink: Gray) -> UInt8[ndarray, "28 28"]:
    """Scale ink into a box of 20×20 and put its centre of mass into the middle of 28×28."""
    ink = ink[_bounds(ink > 0.25)]
    ink = np.pad(ink, 1)
    longer = max(ink.shape)
    stroke = 2 * float(ndimage.distance_transform_edt(ink > 0.5).max())
    if stroke < STROKE * longer:
        size = round(STROKE * longer - stroke) + 1
        ink = ndimage.grey_dilation(np.pad(ink, size), footprint=_disc(size))
        ink = ink[_bounds(ink > 0.25)]
        longer = max(ink.shape)
    height, width = (max(1, round(BOX * length / longer)) for length in ink.shape)
    small = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.clip(np.asarray(small), 0, None)
    digit = np.clip(digit / digit.max(), 0, 1)
    centre = ndimage.center_of_mass(digit)
    laid: Any = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    top, left = (
        min(max(0, round(IMAGE_SIZE / 2 - c)), IMAGE_SIZE - length)
        for c, length in zip(centre, digit.shape, strict=True)
    )
    laid[top : top + height, left : left + width] = np.round(255 * digit)
    return laid


def _disc(size: int) -> Bool[ndarray, "s s"]:
    y, x = np.mgrid[: size + 1, : size + 1] - size / 2
    return np.hypot(x, y) <= size / 2 + 0.21  # for a size of 1, whose corners are 0.71 away
