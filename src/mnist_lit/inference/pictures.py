"""Prepare a person's picture of a digit as the training images are prepared.

MNIST's digits were scaled to fit a box of 20×20 pixels with their proportions kept, anti-aliased,
and placed in 28×28 with their centre of mass in the middle, light on black (LeCun, Bottou, Bengio
and Haffner, Gradient-based learning applied to document recognition, 1998, section III.A). Here the
ink is found first: people's pictures have shadows, ruled lines, noise, and dark or light ink.
"""

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
from mnist_lit.inference.masks import Gray, disc
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


Prepared = list[Candidate] | str  # in any order; or the reason why there is none


def prepare_for(facts: Facts, image: Image.Image, single: bool, name: str = "picture") -> Prepared:
    """Prepare a picture for a network with these facts.

    If the facts are ``centred``, digits are found and laid out as MNIST's are. Otherwise the
    picture is only converted to gray and resized.

    Args:
        facts: Facts of the network's training images.
        image: The picture, in any mode and size.
        single: The picture has exactly one digit, whatever else is on it.
        name: Name of the picture in an error.

    Raises:
        PictureError: It cannot be decoded.
    """
    with refusing(name):
        gray = to_gray(image)
        if not facts.centred:
            whole = np.array([(0, length) for length in gray.shape])
            small = Image.fromarray(gray).resize((facts.side, facts.side), Image.Resampling.BOX)
            return [Candidate(_edges(whole, image, gray), _pixels(np.asarray(small)))]
        if is_laid_out(gray):
            return [Candidate(_edges(bounds(gray > 0), image, gray), _pixels(gray))]
        several = not single and facts.classes == DIGITS
        found = _found(gray, image, several)
        del gray  # two gray pictures at a time would take too much memory
        colours = clearest(image) if isinstance(found, str) else None
        return found if colours is None else _found(colours, image, several)


def _found(gray: Gray, image: Image.Image, several: bool) -> Prepared:
    """Return the possible digits, laid out, or the reason why there is none."""
    try:
        founds, scale = segment(gray, several)
    except PictureError as error:
        return str(error)

    def candidate(found: Found) -> Candidate:
        ways = tuple(tuple(map(candidate, way)) for way in found.ways)
        box = _edges(found.box, image, gray, scale)
        return Candidate(box, lay_out(found.ink), ways, several)

    return list(map(candidate, founds))


def _edges(box: Box, image: Image.Image, gray: Gray, scale: float = 1) -> Edges:
    """Return left, top, right and bottom on the file's picture; ``image`` may be a smaller copy."""
    edges = np.rint(grown(box, 0, gray.shape, scale) * image.info.get(REDUCED, 1))
    (top, bottom), (left, right) = edges.astype(int).tolist()
    return left, top, right, bottom


def _pixels(light: Gray) -> UInt8[ndarray, "h w"]:
    return np.round(255 * light.clip(0, 1)).astype(np.uint8)


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
