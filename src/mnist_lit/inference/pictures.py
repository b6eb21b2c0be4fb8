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
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import ExifTags, Image, UnidentifiedImageError
from scipy import ndimage

from mnist_lit.errors import PictureError, reason
from mnist_lit.facts import Facts
from mnist_lit.inference.ink import Gray, bounds, disc, find_ink
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
STROKE = 0.09  # of the longer side; thinner strokes are thickened: the thinnest of MNIST's
# EXIF orientations: whether rows and columns are exchanged, then the steps along them.
TURNS = {
    **{2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1)},
    **{5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1)},
}


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
        gray = np.array(_flatten(image), dtype=np.float32)
        gray /= 255
    return _turned(gray, image)


def _turned(gray: Gray, image: Image.Image) -> Float32[ndarray, "i j"]:
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    swapped, down, right = TURNS.get(turn, (False, 1, 1))
    return np.ascontiguousarray((gray.T if swapped else gray)[::down, ::right])


def clearest(image: Image.Image) -> Gray | None:
    """Return a picture in colour as gray along the axis in which its pixels differ most.

    Ink and paper of different colours can be equally light. None of a picture that has no colours.
    """
    if image.has_transparency_data or image.mode not in ("RGB", "P", "CMYK", "YCbCr", "HSV"):
        return None
    rgb = image.convert("RGB")
    few = np.asarray(rgb.resize((64, 64), Image.Resampling.BOX)).reshape(-1, 3)
    axis = np.linalg.eigh(np.cov(few.T))[1][:, -1]
    # So that black, white and all between them lie between 0 and 255.
    axis /= np.abs(axis).sum()
    mixed = rgb.convert("L", (*axis.tolist(), -255 * float(axis.clip(max=0).sum())))
    gray = np.array(mixed, dtype=np.float32)
    gray /= 255
    return _turned(gray, image)


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
    try:
        return lay_out(find_ink(gray))
    except PictureError as error:
        refused = error.with_traceback(None)
    del gray  # two of them at a time would take too much memory
    colours = clearest(image)
    if colours is None:
        raise refused
    return lay_out(find_ink(colours))


def is_laid_out(gray: Gray) -> bool:
    """Say whether an image has the size, black background, box and centre of MNIST's.

    True of all 70,000 of them.
    """
    if gray.shape != (IMAGE_SIZE, IMAGE_SIZE) or gray.max() < 0.95:
        return False
    height, width = (part.stop - part.start for part in bounds(gray > 0))
    centre = ndimage.center_of_mass(gray)
    return max(height, width) <= BOX and all(abs(c - IMAGE_SIZE / 2) < 0.6 for c in centre)


def lay_out(ink: Gray) -> UInt8[ndarray, "28 28"]:
    """Scale ink into a box of 20×20 and put its centre of mass into the middle of 28×28."""
    ink = ink[bounds(ink > 0.25)]
    ink = np.pad(ink, 1)
    longer = max(ink.shape)
    stroke = 2 * float(ndimage.distance_transform_edt(ink > 0.5).max())
    if stroke < STROKE * longer:
        size = round(STROKE * longer - stroke) + 1
        ink = ndimage.grey_dilation(np.pad(ink, size), footprint=disc(size))
        ink = ink[bounds(ink > 0.25)]
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
