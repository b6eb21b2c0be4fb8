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
from mnist_lit.inference.segment import FILLING, MOST_SIDE, Found, segment
from mnist_lit.inference.views import STAGES, View, clearest, colourful, views
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
        signs: Whether there seem to be signs or decimal points beside digits.
        colourful: Whether there may be more digits than in gray.
    """

    candidates: list[Candidate]
    left: bool = False
    signs: bool = False
    colourful: bool = False


Prepared = list[Look] | str  # the reason why there is no digit


def prepare_for(
    facts: Facts,
    image: Image.Image,
    single: bool,
    name: str = "picture",
    stage: int = 0,
) -> Prepared:
    """Prepare a picture for a network with these facts.

    If the facts are ``centred``, digits are found and laid out as MNIST's are. Otherwise the
    picture is only converted to gray and resized.

    Args:
        facts: Facts of the network's training images.
        image: The picture, in any mode and size.
        single: The picture has exactly one digit, whatever else is on it.
        name: Name of the picture in an error.
        stage: Which views to prepare: 0 for the picture as it is; and, if that is not read, 1 for
            views without what surrounds the paper, 2 for such views in even light, 3 by colours.

    Raises:
        PictureError: It cannot be decoded.
    """
    with refusing(name):
        gray = to_gray(image)
        scale = image.info.get(REDUCED, 1)  # it may be a smaller copy of the file's picture
        if not facts.centred:
            whole = np.array([(0, length) for length in gray.shape])
            small = Image.fromarray(gray).resize((facts.side, facts.side), Image.Resampling.BOX)
            return [Look([Candidate(_edges(whole, scale, gray), _pixels(np.asarray(small)))])]
        if is_laid_out(gray):
            return [Look([Candidate(_edges(bounds(gray > 0), scale, gray), _pixels(gray))])]
        several = not single and facts.classes == DIGITS
        if stage:
            colours = clearest(image) if stage == STAGES else None
            reduced = -(-max(gray.shape) // MOST_SIDE)
            gray = _reduced(gray, reduced)
            colours = None if colours is None else _reduced(colours, reduced)
            looks = [_look(view, scale * reduced, several) for view in views(gray, colours, stage)]
            found = [look for look in looks if not isinstance(look, str)]
            return found or "no digit found in any view"
        look: Look | str = _look(View(gray), scale, several)
        del gray  # two gray pictures at a time would take too much memory
        if isinstance(look, str) and (colours := clearest(image)) is not None:
            look = _look(View(colours), scale, several)
        if isinstance(look, str):
            return look
        return [look._replace(colourful=several and colourful(image))]


def _reduced(gray: Gray, factor: int) -> Gray:
    return np.asarray(Image.fromarray(gray).reduce(factor))


def _look(view: View, scale: float, several: bool) -> Look | str:
    """Return the possible digits of a view, laid out, or the reason why there is none.

    Args:
        view: The view.
        scale: Side of the file's picture, divided by that of the view without its margin.
        several: Whether there may be several digits.
    """
    try:
        segments = segment(view.gray, several, view.joined)
    except PictureError as error:
        return str(error)
    margin = round(view.margin / segments.scale)

    def candidate(found: Found) -> Candidate:
        ways = tuple(tuple(map(candidate, way)) for way in found.ways)
        box = _edges(found.box, scale, view.gray, segments.scale, margin)
        return Candidate(box, lay_out(found.ink), ways, several)

    left = segments.left or view.left
    if len(segments.found) == 1:  # what reaches from edge to edge is a shadow or a part of a desk
        inner = np.subtract(view.gray.shape, 2 * view.margin)
        spans = size(segments.found[0].box) * segments.scale >= FILLING * inner
        left |= bool(spans.any() and not spans.all() and view.margin)
    found = [candidate(one) for one in segments.found]
    return Look(found, left and several, segments.signs)


def _edges(box: Box, larger: float, gray: Gray, scale: float = 1, margin: int = 0) -> Edges:
    """Return left, top, right and bottom on the file's picture, ``larger`` than the gray one."""
    shape = tuple(length - 2 * round(margin * scale) for length in gray.shape)
    edges = np.rint(grown((box - margin).clip(0), 0, shape, scale) * larger)
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
