"""Find, verify and read files in MNIST's layout. No file is unpacked on disk or replaced.

A data set is four files, each plain or gzipped: training images, their labels, test images, their
labels (format: http://yann.lecun.com/exdb/mnist, "IDX").
"""

import hashlib
import zlib
from math import prod
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import UInt8
from torch import Tensor

from mnist_lit import files, folders
from mnist_lit.errors import DataError, reason

PREFIXES = {"train": "train", "test": "t10k"}
# SHA-256 of MNIST's files, without gzip.
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"  # torchvision's
REMEDY = "with data.root=FOLDER, in other commands --data-root or --images FOLDER"
LARGEST = 2**31  # bytes of an unpacked file, at most


def folder_of(root: Path) -> Path:
    """Return the folder of the files: ``root/MNIST/raw``, ``root/raw`` or ``root`` itself.

    Raises:
        DataError: The folder cannot be read.
    """
    try:
        root = root.expanduser()
        places = (root / "MNIST" / "raw", root / "raw", root)
        found = (place for place in places if any(_files(place)))
        return next(found, root).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no home, a null byte
        raise DataError(f"{root}: {reason(error)}; name a folder {REMEDY}") from None


def _files(folder: Path) -> list[bool]:
    """Return for each of the four files whether the folder has it, plain or gzipped."""
    return [(folder / n).is_file() or (folder / f"{n}.gz").is_file() for n in DIGESTS]


def read(folder: Path, name: str, digest: str | None = None) -> UInt8[Tensor, "..."]:
    """Return the content of a file as a tensor; the file's header has the shape.

    Args:
        folder: Folder of the file.
        name: Name of the file, without ``.gz``.
        digest: Expected SHA-256 of the unpacked content.

    Raises:
        DataError: Neither the plain nor the gzipped file exists and is valid.
    """
    reasons = []
    for file in (folder / name, folder / f"{name}.gz"):
        try:
            if file.is_file():
                return _parse(_verified(file.read_bytes(), file, digest), file)
        except (OSError, DataError) as error:
            reasons.append(str(error))
    raise DataError(reasons[0] if reasons else f"{folder / name}.gz is missing")


def _verified(content: bytes, file: Path, digest: str | None) -> bytes:
    """Return the unpacked content; whatever its name, a file may be gzipped up to twice."""
    try:
        for _ in range(2):
            if content.startswith(b"\x1f\x8b"):
                unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # of gzip
                content = unpacker.decompress(content, LARGEST)
                if not unpacker.eof:
                    raise DataError(f"{file} is damaged or too large")
    except zlib.error:
        raise DataError(f"{file} is damaged") from None
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{file} is damaged, or not MNIST's")
    return content


def _parse(content: bytes, file: Path) -> Tensor:
    # The header: two zeros, the type (8: unsigned bytes), the number of dimensions, their sizes.
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    header = 4 + 4 * dimensions
    if not 1 <= dimensions <= 3 or len(content) < header:
        raise DataError(f"{file} is not in MNIST's format (IDX, unsigned bytes)")
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).tolist()
    if len(content) != header + prod(shape):
        sides = "×".join(map(str, shape))
        raise DataError(f"{file} is cut off or damaged: its header says {sides}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def find_mnist() -> Path:
    """Return the folder of MNIST's files: the checkout's, or the cache, after a download if needed.

    Any number of processes may call this at once.

    Raises:
        DataError: The files are missing and cannot be downloaded.
    """
    here, cache = folder_of(folders.data()), folders.cache() / "MNIST" / "raw"
    for folder in (here, cache):
        if all(_files(folder)):
            return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"):
            files.clear(cache)
            for name in DIGESTS:
                if not (cache / f"{name}.gz").is_file():
                    with urlopen(f"{MIRROR}/{name}.gz", timeout=30) as answer:
                        content = answer.read(2**24)
                    _verified(content, Path(f"{name}.gz"), DIGESTS[name])
                    files.write_bytes(cache / f"{name}.gz", content)
    except Exception as error:  # a proxy may answer anything
        words = f"some of MNIST's files are missing and cannot be downloaded to {cache}"
        remedy = f"restore them, or name a folder that has the four {REMEDY}"
        raise DataError(f"{here}: {words} ({reason(error)}); {remedy}") from None
    return cache
