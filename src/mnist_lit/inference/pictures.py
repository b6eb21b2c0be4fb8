"""Prepare a person's picture of a digit as the training images are prepared.

MNIST's digits were scaled to fit a box of 20×20 pixels with their proportions kept, anti-aliased,
and placed in 28×28 with their centre of mass in the middle, light on black (LeCun, Bottou, Bengio
and Haffner, Gradient-based learning applied to document recognition, 1998, section III.A). Here the
ink is found first: people's pictures have shadows, ruled lines, noise, and dark or light ink.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageOps
from scipy import ndimage

from mnist_lit.errors import PictureError
from mnist_lit.facts import DIGITS, THINNEST, Facts
from mnist_lit.inference.boxes import Box, bounds, grown, size, window
from mnist_lit.inference.files import REDUCED, refusing
from mnist_lit.inference.masks import AROUND, Gray, Mask, disc, labelled
from mnist_lit.inference.segment import Found, segment
from mnist_lit.network.blocks import IMAGE_SIZE

BOX = 20
Edges = tuple[int, int, int, int]  # left, top, right and bottom, in pixels


def to_gray(image: Image.Image) -> Gray:
    """Return ``[H, W]`` from 0 (black) to 1 (white), turned by its EXIF orientation.

    Raises:
        PictureError: A value is not finite.
    """
    image = ImageOps.exif_transpose(image)
    if not image.mode.startswith(("I", "F")):
        return np.divide(np.asarray(_flatten(image)), 255, dtype=np.float32)
    gray = np.array(image, dtype=np.float32)
    if image.mode == "F":
        gray -= gray.min()
        gray /= max(float(gray.max()), 1e-6)
        if not np.isfinite(gray).all():
            raise PictureError("values that are not numbers, or too far apart")
    else:
        most = float(gray.max())
        # The values of a 16-bit file may have 8 or 12 bits.
        gray /= next((top for top in (255, 4_095, 65_535) if most <= top), most)
        np.clip(gray, 0, 1, out=gray)
    return gray


def clearest(image: Image.Image) -> Gray | None:
    """Return a colour picture as gray, projected on the axis of the largest variance.

    Ink and paper of different colours can be equally light. None for a picture without colours.
    """
    if image.has_transparency_data or image.mode not in ("RGB", "P", "CMYK", "YCbCr", "HSV"):
        return None
    rgb = ImageOps.exif_transpose(image).convert("RGB")
    few = np.asarray(rgb.resize((64, 64), Image.Resampling.BOX)).reshape(-1, 3)
    axis = np.linalg.eigh(np.cov(few.T))[1][:, -1]
    # Scaled so that all values are from 0 to 255.
    axis /= np.abs(axis).sum()
    mixed = rgb.convert("L", (*axis.tolist(), -255 * float(axis.clip(max=0).sum())))
    return np.divide(np.asarray(mixed), 255, dtype=np.float32)


def _flatten(image: Image.Image) -> Image.Image:
    """Convert a picture to gray; a transparent one is put on a plain background."""
    if image.mode == "LAB":
        return image.getchannel(0)  # the lightness
    if not image.has_transparency_data:
        return image if image.mode == "L" else image.convert("L")
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    gray, alpha = image.convert("L"), image.getchannel("A")
    opaque = np.asarray(gray)[np.asarray(alpha) > 127]
    # The background is black for a light drawing, white for a dark one.
    light = opaque.size > 0 and opaque.mean() > 127
    return Image.composite(gray, Image.new("L", image.size, 0 if light else 255), alpha)


class Candidate(NamedTuple):
    """A possible digit, prepared for a network.

    Attributes:
        box: Its place on the picture: left, top, right and bottom, in pixels.
        pixels: ``uint8 [side, side]``.
        ways: Other segmentations of it, each into two digits or more.
        sought: Whether a search found it, so that it may be no digit. False for an image that is
            laid out as MNIST's are, and with ``single``.
    """

    box: Edges
    pixels: UInt8[ndarray, "side side"]
    ways: tuple[tuple["Candidate", ...], ...] = ()
    sought: bool = False


class Look(NamedTuple):
    """The possible digits of a picture in one of its views.

    Attributes:
        candidates: The digits, in any order.
        left: Whether something of a digit's size was left out, or extends beyond the picture.
    """

    candidates: list[Candidate]
    left: bool = False


Prepared = list[Look] | str  # the reason why there is no digit


def prepare_for(
    facts: Facts,
    image: Image.Image,
    single: bool,
    name: str = "picture",
    further: bool = False,
) -> Prepared:
    """Prepare a picture for a network with these facts.

    If the facts are ``centred``, digits are found and laid out as MNIST's are. Otherwise the
    picture is only converted to gray and resized.

    Args:
        facts: Facts of the network's training images.
        image: The picture, in any mode and size.
        single: The picture has exactly one digit, whatever else is on it.
        name: Name of the picture in an error.
        further: Return all views but the first, for a picture whose first one is not read.

    Raises:
        PictureError: It cannot be decoded.
    """
    with refusing(name):
        gray = to_gray(image)
        if not facts.centred:
            whole = np.array([(0, length) for length in gray.shape])
            small = Image.fromarray(gray).resize((facts.side, facts.side), Image.Resampling.BOX)
            return [Look([Candidate(_edges(whole, image, gray.shape), _pixels(np.asarray(small)))])]
        if is_laid_out(gray):
            return [Look([Candidate(_edges(bounds(gray > 0), image, gray.shape), _pixels(gray))])]
        several = not single and facts.classes == DIGITS
        if further:
            return _further(gray, image, several)
        found = _look(gray, image, several)
        del gray  # two gray pictures at a time would take too much memory
        colours = clearest(image) if isinstance(found, str) else None
        found = found if colours is None else _look(colours, image, several)
        return found if isinstance(found, str) else [found]


def _further(gray: Gray, image: Image.Image, several: bool) -> Prepared:
    """Return a picture's further views; or why none of them has a digit."""
    reach = max(3, round(0.3 * min(gray.shape)))
    light = ndimage.grey_closing(gray, size=(reach, reach))
    bases = [np.clip(gray / light.clip(min=0.05), 0, 1)]
    if (colours := clearest(image)) is not None:
        bases.append(colours)
    looks = [_look(base, image, several) for base in bases]
    for base in (gray, *bases):
        for view, margin, joined, left in views(base):
            looks.append(_look(view, image, several, margin, joined, left))
    return [look for look in looks if not isinstance(look, str)] or looks[0]


def _look(
    gray: Gray,
    image: Image.Image,
    several: bool,
    margin: int = 0,
    joined: bool = True,
    left: bool = False,
) -> Look | str:
    """Return the possible digits of a view, laid out, or the reason why there is none."""
    try:
        segments = segment(gray, several, joined)
    except PictureError as error:
        return str(error)

    def candidate(found: Found) -> Candidate:
        ways = tuple(tuple(map(candidate, way)) for way in found.ways)
        box = found.box - round(margin / segments.scale)
        shape = gray.shape[0] - 2 * margin, gray.shape[1] - 2 * margin
        return Candidate(
            _edges(box, image, shape, segments.scale), lay_out(found.ink), ways, several
        )

    return Look([candidate(found) for found in segments.found], segments.left or left)


def views(gray: Gray) -> Iterator[tuple[Gray, int, bool, bool]]:
    """Yield a picture in several forms.

    On more paper; so without what surrounds the paper; the same with pieces that are near each
    other apart.

    Yields:
        The picture, the number of pixels added on each side, and whether near pieces are joined.
    """
    border = np.concatenate((gray[0], gray[-1], gray[:, 0], gray[:, -1]))
    margin = max(4, round(0.25 * max(gray.shape)))
    yield np.pad(gray, margin, constant_values=np.median(border)), margin, True, False
    paper, around, deep = surroundings(gray)
    bare = np.pad(np.where(around, paper, gray), margin, constant_values=paper)
    yield bare, margin, True, deep
    yield bare, margin, False, deep


def _inner(mask: Mask, part: int) -> Mask:
    """Return a mask without a part of its length on each side."""
    rows, columns = (length // part for length in mask.shape)
    return mask[rows : mask.shape[0] - rows, columns : mask.shape[1] - columns]


def surroundings(gray: Gray) -> tuple[float, Mask, bool]:
    """Return the tone of the paper, and a mask of the frame, desk or lid around it.

    They are not of the paper's tone, and lie along the whole of an edge or touch several.
    """
    height, width = gray.shape
    small = np.asarray(Image.fromarray(gray).reduce(-(-max(gray.shape) // 200)))
    rows, columns = small.shape
    paper = float(np.median(small[rows // 4 : -rows // 4, columns // 4 : -columns // 4]))
    away = np.abs(small - paper)
    far = away > max(0.1, 0.4 * float(np.quantile(away, 0.98)))
    around = np.zeros_like(far)
    for turn in range(4):
        lines = np.rot90(far, turn).mean(axis=1) >= 0.85
        np.rot90(around, turn)[: int(np.argmin(lines))] = True
    labels = labelled(far)
    most = int(labels.max()) + 1
    edges = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    touching = np.stack([np.bincount(edge, minlength=most) / len(edge) for edge in edges])
    touching[:, 0] = 0
    several = (touching > 0).sum(axis=0) > 1
    across = ((touching[:2] > 0).all(axis=0) | (touching[2:] > 0).all(axis=0)) & (touching < 0.85).all(axis=0)
    around |= np.isin(labels, np.flatnonzero(several))
    deep = _inner(around, 4).any() or _inner(np.isin(labels, np.flatnonzero(across)), 10).any()
    around = ndimage.binary_dilation(around, AROUND, iterations=2)
    return paper, np.asarray(Image.fromarray(around).resize((width, height))), bool(deep)


def _pixels(light: Gray) -> UInt8[ndarray, "h w"]:
    return np.round(255 * light.clip(0, 1)).astype(np.uint8)


def _edges(box: Box, image: Image.Image, shape: tuple[int, ...], scale: float = 1) -> Edges:
    """Return left, top, right and bottom on the file's picture; ``image`` may be a smaller copy."""
    edges = np.rint(grown(box.clip(0), 0, shape, scale) * image.info.get(REDUCED, 1))
    (top, bottom), (left, right) = edges.astype(int).tolist()
    return left, top, right, bottom


def is_laid_out(gray: Gray) -> bool:
    """Return whether an image has the size, black background, box and centre of MNIST's images.

    It is true for all 70,000 images of MNIST.
    """
    if gray.shape != (IMAGE_SIZE, IMAGE_SIZE) or gray.max() < 0.95:
        return False
    away = np.arange(IMAGE_SIZE) - IMAGE_SIZE / 2
    most = 0.6 * gray.sum()
    centred = all(abs(gray.sum(axis=axis) @ away) < most for axis in (0, 1))
    return bool(size(bounds(gray > 0)).max() <= BOX) and centred


def lay_out(ink: Gray) -> UInt8[ndarray, "28 28"]:
    """Scale ink into a box of 20×20 and put its centre of mass into the middle of 28×28."""
    ink = np.pad(ink[window(bounds(ink > 0.25))], 1)
    longer = max(ink.shape)
    stroke = 2 * float(ndimage.distance_transform_edt(ink > 0.5).max())
    if stroke < THINNEST * longer:
        more = round(THINNEST * longer - stroke) + 1
        ink = ndimage.grey_dilation(np.pad(ink, more), footprint=disc(more))
        ink = ink[window(bounds(ink > 0.25))]
    height, width = (max(1, round(BOX * length / max(ink.shape))) for length in ink.shape)
    small = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.clip(np.asarray(small), 0, None)
    digit = digit / digit.max()
    laid = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    corner = np.rint(IMAGE_SIZE / 2 - np.array(ndimage.center_of_mass(digit))).astype(int)
    top, left = corner.clip(0, np.subtract(IMAGE_SIZE, digit.shape))
    laid[top : top + height, left : left + width] = _pixels(digit)
    return laid
