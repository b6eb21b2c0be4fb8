"""Read people's picture files, with bounds for each whole file."""

import glob
import io
import stat
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from mnist_lit.errors import PictureError, UserError, need, reason
from mnist_lit.text import for_terminal

# Pillow reads more formats; some of those start other programs or contain no picture.
FORMATS: tuple[str, ...] = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Bytes 4 to 11 of a HEIC file; an AVIF may have the same.
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftyphevx", b"ftypmif1", b"ftypmsf1")
MAX_BYTES = 100_000_000
MAX_PAGES = 50
MAX_PIXELS = 36_000_000  # of all decoded pages: a sheet of A4 at 600 dots an inch
MAX_SIDE = 65_535  # pixels; each row takes memory by itself
# CPU time for all pages. The number of pixels does not bound it: Pillow reads a GIF's comment in
# quadratic time, and a progressive JPEG may have any number of scans.
MAX_SECONDS = 5.0
JPEG_SIDE = 1_000  # pixels; a larger JPEG is decoded at 1/2, 1/4 or 1/8 size, but not below this
JPEG_STEP = 4_096  # bytes for its decoder at a time; it can be stopped between them
PDF_SCALE = 200 / 72  # 200 dots an inch
SEVERAL = "several frames or pages; read them with pages() (TIFF, PDF), or save one"
REDUCED = "mnist-lit: reduced by"  # how many times smaller an image is than the file's picture


class _Timed(io.BytesIO):
    """The bytes of a file; reading fails when this thread's CPU time exceeds ``end``."""

    end = 0.0

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.end:
            raise PictureError(f"takes more than {MAX_SECONDS:g} s to decode")
        return super().read(size)


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn any exception of a decoder into a ``PictureError`` of one line."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # decoders warn about damage
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # 89 million pixels
            yield
    except UserError as error:
        raise PictureError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        words = "not an image that can be read (PNG, JPEG, GIF, TIFF, WebP, AVIF, HEIC, PDF …)"
        raise PictureError(f"{name}: {words}") from None
    except Exception as error:  # decoders may raise anything
        words = getattr(error, "strerror", None) or for_terminal(reason(error))
        raise PictureError(f"{name}: cannot be read: {words}") from None


def name_of(source: Any, otherwise: str) -> str:
    """Return the name of a picture in errors: its path if it has one."""
    return for_terminal(source) if isinstance(source, (str, Path)) else otherwise


def open_picture(source: Any, name: str = "the picture") -> Image.Image:
    """Read a picture: PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, PPM, HEIC or a PDF of one page.

    It may have at most ``MAX_PIXELS``, which is checked before decoding. A large JPEG is decoded at
    a half, a quarter or an eighth of its sides, and the limit applies to that size. HEIC and PDF
    need the extra ``pictures``.

    Args:
        source: A file's path, a file that is open for bytes, or the content as bytes.
        name: Name of the picture in an error, unless it has a path.

    Raises:
        PictureError: It is missing, unreadable, no image, damaged or too large, or it has several
            frames or pages.
    """
    label, image = next(labelled_pages(source, name))
    if label:
        raise PictureError(f"{name_of(source, name)}: {SEVERAL}")
    return image


def pages(source: Any, name: str = "the picture") -> Iterator[Image.Image]:
    """Read the pages of a TIFF or PDF one after the other; any other file is one page.

    Args:
        source: A file's path, a file that is open for bytes, or the content as bytes.
        name: Stands for the file in an error if it has no path.

    Raises:
        PictureError: The file or its next page is missing, unreadable, no image or damaged; or
            there are more than 50 pages, or more than 36 million pixels on all of them. It is
            raised when that page is asked for.
    """
    return (image for _, image in labelled_pages(source, name))


def labelled_pages(source: Any, name: str) -> Iterator[tuple[str, Image.Image]]:
    """Read pages as ``pages`` does, each with a label, as ``#2``, if there are several."""
    with closing(_decoded(source)) as found:  # also at a limit
        for number in count(1):
            with refusing(name_of(source, name)):
                page = next(found, None)
                if page is None:
                    return
                if number > MAX_PAGES:
                    raise PictureError(f"more than {MAX_PAGES:,} pages; save fewer in a file")
            yield page


def _decoded(source: Any) -> Generator[tuple[str, Image.Image], None, None]:
    """Yield the label and the image of each page; a page is decoded when it is requested."""
    content = read_content(source)
    if not content:
        raise PictureError("an empty file")
    if content.startswith(b"%PDF-"):
        yield from _decoded_pdf(content)
        return
    formats = FORMATS
    if content[4:12] in HEIC and b"avif" not in content[16:64]:
        need("pillow_heif", "pictures").register_heif_opener()
        formats = ("HEIF",)
    file = _Timed(content)
    file.end = time.thread_time() + MAX_SECONDS
    image: Any = Image.open(file, formats=formats)
    # An MPO or HEIC of a telephone has one photograph, and smaller copies of it.
    several = getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIF")
    if several and image.format != "TIFF":
        raise PictureError(SEVERAL)
    if image.format in ("JPEG", "MPO"):
        width = image.width
        image.draft(None, (JPEG_SIDE, JPEG_SIDE))
        image.info[REDUCED] = width / image.width
        image.decodermaxblock = JPEG_STEP
    pixels = 0
    for number, frame in enumerate(ImageSequence.Iterator(image) if several else [image], 1):
        pixels += frame.width * frame.height
        if pixels > MAX_PIXELS or max(frame.size) > MAX_SIDE:
            raise PictureError(
                f"{frame.width:,}×{frame.height:,} pixels; at most {MAX_PIXELS / 1e6:.0f} million "
                f"on all pages and {MAX_SIDE:,} a side are read; scale it down or save fewer pages"
            )
        frame.load()
        decoded = time.thread_time()
        yield (f"#{number}", frame.copy()) if several else ("", frame)
        file.end += time.thread_time() - decoded


def _decoded_pdf(content: bytes) -> Iterator[tuple[str, Image.Image]]:
    with need("pypdfium2", "pictures").PdfDocument(content) as document:
        most = MAX_PIXELS / min(max(len(document), 1), MAX_PAGES)
        for number, page in enumerate(document, 1):
            width, height = (max(side, 1) for side in page.get_size())  # in points
            scale = min(PDF_SCALE, (most / (width * height)) ** 0.5, MAX_SIDE / max(width, height))
            label = f"#{number}" if len(document) > 1 else ""
            yield label, page.render(scale=scale).to_pil().convert("RGB")
            page.close()


def read_content(source: Any) -> bytes:
    """Return the content of a file, given its path, the open file or the content itself.

    Raises:
        PictureError: It is no regular file or too large.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not stat.S_ISREG(path.stat().st_mode):
            raise PictureError("not a regular file")
        with path.open("rb") as file:
            return read_content(file)
    if hasattr(source, "read"):
        if source.seekable():
            source.seek(0)
        source = source.read(MAX_BYTES + 1)
    if len(source) > MAX_BYTES:
        raise PictureError(f"more than {MAX_BYTES / 1e6:.0f} MB; save it smaller")
    return bytes(source)


def find_pictures(argument: str) -> list[Path | bytes]:
    """Return the files of a file name, folder or pattern, or the content of standard input (``-``).

    From a folder, these are the files with the ending of an image format, without hidden files and
    PDFs, which rarely show digits.

    Raises:
        PictureError: A folder or pattern has none, or standard input is too large.
    """
    if argument == "-":
        with refusing("standard input"):
            return [read_content(sys.stdin.buffer)]
    path = Path(argument)
    with refusing(for_terminal(argument)):
        if path.is_dir():
            endings = Image.registered_extensions()
            known = {ending for ending, kind in endings.items() if kind in FORMATS}
            known |= {".heic", ".heif"}  # Pillow alone does not read these
            inside = (p for p in sorted(path.iterdir()) if not p.name.startswith("."))
            found = [p for p in inside if p.suffix.lower() in known and p.is_file()]
        elif glob.has_magic(argument) and not path.exists():
            # The pattern may be absolute, which pathlib's glob refuses.
            found = sorted(Path(n) for n in glob.glob(argument, recursive=True))  # noqa: PTH207
        else:
            found = [path]
        if not found:
            raise PictureError("no pictures found")
        return [*found]
