"""A person's picture of a digit, made into what the networks were trained on.

MNIST's digits were scaled to fit a box of 20×20 pixels with their proportions kept, anti-aliased,
and placed in 28×28 with their centre of mass in the middle, light on black (LeCun, Bottou, Bengio
and Haffner, Gradient-based learning applied to document recognition, 1998, section III.A). Here the
ink is found first: people's pictures have shadows, ruled lines, noise, and ink of either colour.
"""

import io
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray
from PIL import ExifTags, Image, UnidentifiedImageError
from scipy import ndimage

from mnist_lit.errors import PictureError, reason
from mnist_lit.facts import Facts
from mnist_lit.network.blocks import IMAGE_SIZE

# What is read. Pillow knows more; some of those start other programs, or hold no picture at all.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Bounds that keep a file below 512 MB and 10 s, whatever it holds. A JPEG is decoded at a fraction
# of its size; a WebP or AVIF takes several times its pixels.
MAX_BYTES = 100_000_000
MAX_PIXELS = 36_000_000  # a sheet of A4 at 600 dots an inch
MAX_PIXELS_OF = {"JPEG": 66_000_000, "MPO": 66_000_000, "WEBP": 24_000_000, "AVIF": 24_000_000}
MAX_SECONDS = 5.0  # of computing, between two reads of a file
JPEG_SIDE = 1_000  # pixels; a larger JPEG is decoded at a half, quarter or eighth, not below this
JPEG_STEP = 4_096  # bytes that the decoder is given at a time
BOX = 20
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
# EXIF orientations: whether rows and columns are exchanged, then the steps along them.
TURNS = {
    **{2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1)},
    **{5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1)},
}

Gray = Float32[ndarray, "h w"]
Mask = Bool[ndarray, "h w"]


def shown(text: str | Path) -> str:
    """Return a name as it is printed: what a terminal would obey, or cannot print, is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


class _Timed(io.BytesIO):
    """The bytes of a file, which can be read for some seconds of this thread's computing."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.end = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.end:
            raise PictureError(f"takes more than {MAX_SECONDS:g} s to decode")
        return super().read(size)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Say in a line what is wrong with a picture, whatever that leads a decoder to."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # decoders' own words on damage
            yield
    except FileNotFoundError:
        raise PictureError(f"{name}: no such file") from None
    except PermissionError:
        raise PictureError(f"{name}: no permission to read it") from None
    except IsADirectoryError:
        raise PictureError(f"{name}: a folder, not a picture") from None
    except UnidentifiedImageError:
        words = "not an image that can be read (PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, PPM)"
        raise PictureError(f"{name}: {words}") from None
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise PictureError(f"{name}: far too many pixels; scale it down") from None
    except Exception as error:  # decoders raise whatever the first wrong byte leads them to
        raise PictureError(f"{name}: damaged or cut off ({shown(reason(error))})") from None


def open_picture(source: Any, name: str = "the picture") -> Image.Image:
    """Read a picture in one of the formats PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF and PPM.

    Its size is known before it is decoded; no file takes more than 512 MB or about 10 s. A large
    JPEG is decoded at a half, a quarter or an eighth of its sides.

    Args:
        source: A file's ``Path``, a file that is open for bytes, or the content as bytes.
        name: What to call it in an error, unless it has a path.

    Raises:
        PictureError: It is missing, unreadable, no image, damaged or too large, or it has several
            frames or pages.
    """
    with _refusing(shown(source) if isinstance(source, Path) else name):
        content = source if isinstance(source, bytes) else _content(source)
        if not content:
            raise PictureError("an empty file")
        _refuse_large(_size_of_webp(content), "WEBP")  # Pillow makes room for it when it opens it
        image = Image.open(_Timed(content), formats=FORMATS)
        kind = str(image.format)
        _refuse_large(image.size, "" if image.mode == "CMYK" else kind)  # a JPEG with four bands
        # A telephone's MPO is a photograph; what comes after it are smaller copies.
        if kind != "MPO" and getattr(image, "is_animated", False):
            raise PictureError("several frames or pages; save one of them as a picture")
        if kind in ("JPEG", "MPO"):
            image.draft(None, (JPEG_SIDE, JPEG_SIDE))
            image.decodermaxblock = JPEG_STEP  # between the steps it can be stopped
        if kind == "TIFF":
            # Pillow types what it opens as any image; only a TIFF's has tags.
            tags = image.tag_v2  # type: ignore[attr-defined]
            _refuse_large((int(tags.get(322, 1)), int(tags.get(323, 1))))
        _refuse_large(image.size)
        image.load()
        return image


def _content(source: Any) -> bytes:
    if isinstance(source, Path):
        if not stat.S_ISREG(mode := source.stat().st_mode) and not stat.S_ISDIR(mode):
            raise PictureError("not a regular file")
        with source.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    else:
        if source.seekable():
            source.seek(0)
        content = source.read(MAX_BYTES + 1)
    if not isinstance(content, bytes):
        raise PictureError("a file that is open for text; open it with 'rb'")
    if len(content) > MAX_BYTES:
        raise PictureError(f"more than {MAX_BYTES / 1e6:.0f} MB; save it smaller")
    return content


def _size_of_webp(content: bytes) -> tuple[int, int]:
    """Return the width and height that a WebP's first bytes tell, or 0 and 0.

    Raises:
        PictureError: The file ends before them.
    """
    kind = content[12:16] if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        sides = int.from_bytes(content[24:30], "little")
        return 1 + (sides & 0xFFFFFF), 1 + (sides >> 24)
    if kind == b"VP8L":
        sides = int.from_bytes(content[21:25], "little")
        return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    sides = int.from_bytes(content[26:30], "little") if kind == b"VP8 " else 0
    return sides & 0x3FFF, sides >> 16 & 0x3FFF


def _refuse_large(size: tuple[int, int], kind: str = "") -> None:
    width, height = size
    most = MAX_PIXELS_OF.get(kind, MAX_PIXELS)
    if width * height > most:
        raise PictureError(
            f"{width:,}×{height:,} pixels, more than {most / 1e6:.0f} million; scale it down"
        )


def to_gray(image: Image.Image) -> Gray:
    """Return ``[H, W]`` from 0 (black) to 1 (white), turned as its camera says.

    Raises:
        PictureError: It has values that are no numbers.
    """
    if image.mode.startswith("I"):
        gray = np.array(image, dtype=np.float32)
        most = float(gray.max())
        gray /= 255 if most <= 255 else max(65_535, most)
        np.clip(gray, 0, 1, out=gray)
    elif image.mode == "F":
        gray = np.array(image, dtype=np.float32)
        gray -= gray.min()
        gray /= max(float(gray.max()), 1e-6)
        if not np.isfinite(gray).all():
            raise PictureError("values that are not numbers, or too far apart")
    else:
        gray = np.array(_flatten(image), dtype=np.float32)
        gray /= 255
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    swapped, down, right = TURNS.get(turn, (False, 1, 1))
    return np.ascontiguousarray((gray.T if swapped else gray)[::down, ::right])


def _flatten(image: Image.Image) -> Image.Image:
    """Return the gray of a picture, and of a transparent one what is seen on plain paper."""
    if image.mode == "LAB":
        return image.getchannel(0)  # which is the lightness
    if not image.has_transparency_data:
        return image.convert("L")
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    gray, alpha = image.convert("L"), image.getchannel("A")
    opaque = np.asarray(gray)[np.asarray(alpha) > 127]
    # What is drawn on nothing is seen on the opposite.
    light = opaque.size > 0 and opaque.mean() > 127
    return Image.composite(gray, Image.new("L", image.size, 0 if light else 255), alpha)


def prepare_for(
    facts: Facts, image: Image.Image, name: str = "the picture"
) -> UInt8[ndarray, "side side"]:
    """Make of a picture what a network takes that was trained on such images.

    A digit is found and laid out; a picture for other data is made gray and resized, no more.

    Args:
        facts: Of the images that the network was trained on.
        image: In any mode and size.
        name: What to call it in an error.

    Raises:
        PictureError: There is no digit on it, or it cannot be decoded.
    """
    with _refusing(name):
        if facts.centred:
            return prepare(image)
        gray = Image.fromarray(to_gray(image))
        resized = gray.resize((facts.side, facts.side), Image.Resampling.BOX, reducing_gap=None)
        return np.round(np.asarray(resized).clip(0, 1) * 255).astype(np.uint8)


def prepare(image: Image.Image) -> UInt8[ndarray, "28 28"]:
    """Find the digit and lay it out as MNIST's are: light on black in 28×28.

    An image that already is laid out so is returned as it is.

    Args:
        image: In any mode and size.

    Raises:
        PictureError: There is nothing on it.
    """
    gray = to_gray(image)
    if is_laid_out(gray):
        return np.round(gray * 255).astype(np.uint8)
    return lay_out(find_ink(_shrink(gray)))


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


def find_ink(gray: Gray) -> Gray:
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
    blank = PictureError("no digit to be seen, the page is blank or too faint")
    if mask.all() or not mask.any():
        raise blank
    paper = depth[~mask]
    contrast = float(np.median(depth[mask]) - np.median(paper))
    noise = 1.4826 * float(np.median(np.abs(paper - np.median(paper))))
    if contrast < max(MIN_CONTRAST, MIN_SIGNAL * noise):
        raise blank
    mask = _one_digit(_without_rules(mask))
    if not mask.any():
        raise PictureError("no digit to be seen, only lines or specks")
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
