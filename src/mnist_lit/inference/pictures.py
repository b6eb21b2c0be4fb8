"""A person's picture of a digit, made into what the networks were trained on.

MNIST's digits were scaled to fit a box of 20×20 pixels with their proportions kept, anti-aliased,
and placed in 28×28 with their centre of mass in the middle, light on black (LeCun, Bottou, Bengio
and Haffner, Gradient-based learning applied to document recognition, 1998, section III.A). Here the
ink is found first: people's pictures have shadows, ruled lines, noise, and ink of either colour.
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
    """Return ``[H, W]`` from 0 (black) to 1 (white), turned as its camera says.

    Raises:
        PictureError: It has values that are no numbers.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        gray = np.array(image, dtype=np.float32)
        most = float(gray.max())
        # A file of 16 bits a value may hold 8 or 12.
        gray /= next((top for top in (255, 4_095, 65_535) if most <= top), most)
        np.clip(gray, 0, 1, out=gray)
    elif image.mode == "F":
        gray = np.array(image, dtype=np.float32)
        gray -= gray.min()
        gray /= max(float(gray.max()), 1e-6)
        if not np.isfinite(gray).all():
            raise PictureError("values that are not numbers, or too far apart")
    else:
        gray = np.divide(np.asarray(_flatten(image)), 255, dtype=np.float32)
    return gray


def clearest(image: Image.Image) -> Gray | None:
    """Return a picture in colour as gray along the axis in which its pixels differ most.

    Ink and paper of different colours can be equally light. None of a picture that has no colours.
    """
    if image.has_transparency_data or image.mode not in ("RGB", "P", "CMYK", "YCbCr", "HSV"):
        return None
    rgb = ImageOps.exif_transpose(image).convert("RGB")
    few = np.asarray(rgb.resize((64, 64), Image.Resampling.BOX)).reshape(-1, 3)
    axis = np.linalg.eigh(np.cov(few.T))[1][:, -1]
    # So that black, white and all between them lie between 0 and 255.
    axis /= np.abs(axis).sum()
    mixed = rgb.convert("L", (*axis.tolist(), -255 * float(axis.clip(max=0).sum())))
    return np.divide(np.asarray(mixed), 255, dtype=np.float32)


def _flatten(image: Image.Image) -> Image.Image:
    """Return the gray of a picture, and of a transparent one what is seen on plain paper."""
    if image.mode == "LAB":
        return image.getchannel(0)  # which is the lightness
    if not image.has_transparency_data:
        return image if image.mode == "L" else image.convert("L")
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    gray, alpha = image.convert("L"), image.getchannel("A")
    opaque = np.asarray(gray)[np.asarray(alpha) > 127]
    # What is drawn on nothing is seen on the opposite.
    light = opaque.size > 0 and opaque.mean() > 127
    return Image.composite(gray, Image.new("L", image.size, 0 if light else 255), alpha)


class Candidate(NamedTuple):
    """What may be a digit, made into what a network takes.

    Attributes:
        box: Where it is on the picture: left, top, right and bottom, in pixels.
        pixels: ``uint8 [side, side]``.
        ways: Other ways to see it: two digits or more each.
        sought: Whether it was looked for, so that it may be something else; not so an image that
            is laid out as MNIST's are, or what is said to be one digit.
    """

    box: Edges
    pixels: UInt8[ndarray, "side side"]
    ways: tuple[tuple["Candidate", ...], ...] = ()
    sought: bool = False


Prepared = list[Candidate] | str  # in any order; or why there is nothing to be seen


def prepare_for(facts: Facts, image: Image.Image, single: bool, name: str = "picture") -> Prepared:
    """Make of a picture what a network takes that was trained on such images.

    Digits are found and laid out; a picture for other data is made gray and resized, no more.

    Args:
        facts: Of the images that the network was trained on.
        image: In any mode and size.
        single: There is one digit on it, whatever else is.
        name: What to call it in an error.

    Raises:
        PictureError: It cannot be decoded.
    """
    with refusing(name):
        gray = to_gray(image)
        if not facts.centred:
            whole = np.array([(0, length) for length in gray.shape])
            shape = facts.side, facts.side
            small = Image.fromarray(gray).resize(shape, Image.Resampling.BOX, reducing_gap=None)
            return [Candidate(_edges(whole, image, gray), _pixels(np.asarray(small)))]
        if is_laid_out(gray):
            return [Candidate(_edges(bounds(gray > 0), image, gray), _pixels(gray))]
        several = not single and facts.classes == DIGITS
        found = _found(gray, image, several)
        del gray  # two of them at a time would take too much memory
        colours = clearest(image) if isinstance(found, str) else None
        return found if colours is None else _found(colours, image, several)


def _found(gray: Gray, image: Image.Image, several: bool) -> Prepared:
    """Return what may be digits, laid out, or why there is none."""
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
    """Return left, top, right and bottom on the file's picture; this one may be a smaller copy."""
    edges = np.rint(grown(box, 0, gray.shape, scale) * image.info.get(REDUCED, 1))
    (top, bottom), (left, right) = edges.astype(int).tolist()
    return left, top, right, bottom


def _pixels(light: Gray) -> UInt8[ndarray, "h w"]:
    return np.round(255 * light.clip(0, 1)).astype(np.uint8)


def is_laid_out(gray: Gray) -> bool:
    """Say whether an image has the size, black background, box and centre of MNIST's.

    True of all 70,000 of them.
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
        longer = max(ink.shape)
    height, width = (max(1, round(BOX * length / longer)) for length in ink.shape)
    small = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.clip(np.asarray(small), 0, None)
    digit = digit / digit.max()
    laid = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    corner = np.rint(IMAGE_SIZE / 2 - np.array(ndimage.center_of_mass(digit))).astype(int)
    top, left = corner.clip(0, np.subtract(IMAGE_SIZE, digit.shape))
    laid[top : top + height, left : left + width] = _pixels(digit)
    return laid
