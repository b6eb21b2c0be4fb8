"""Files in MNIST's layout: found, verified, read into memory. Nothing is unpacked or replaced.

A data set is four files, each plain or gzipped: images and labels to train on and to test with
(format: http://yann.lecun.com/exdb/mnist, "IDX").
"""

import contextlib
import gzip
import hashlib
import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import UInt8
from torch import Tensor
from torchvision.datasets import MNIST

from mnist_lit import folders
from mnist_lit.errors import DataError, reason

IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
# SHA-256 of MNIST's files, without gzip.
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def folder_of(root: Path) -> Path:
    """Return the folder of the files: ``root/MNIST/raw``, ``root/raw`` or ``root`` itself."""
    root = root.expanduser()
    names = [*DIGESTS, *(f"{name}.gz" for name in DIGESTS)]
    places = [root / "MNIST" / "raw", root / "raw", root]
    return next((p for p in places if any((p / name).is_file() for name in names)), root)


def read(folder: Path, name: str, digest: str | None = None) -> UInt8[Tensor, "..."]:
    """Return the content of a file as a tensor of the shape that its header gives.

    Args:
        folder: Where it lies.
        name: Without ``.gz``.
        digest: The SHA-256 that its content must have.

    Raises:
        DataError: Neither the plain nor the gzipped file is there and what it should be.
    """
    reasons = []
    for file in (folder / name, folder / f"{name}.gz"):
        if file.exists():
            try:
                content = file.read_bytes()
                content = gzip.decompress(content) if file.suffix == ".gz" else content
                if digest is not None and hashlib.sha256(content).hexdigest() != digest:
                    reasons.append(f"{file} is damaged, or not MNIST's")
                    continue
                return _parse(content, file)
            except OSError as error:
                reasons.append(f"{file} cannot be read: {error.strerror or error}")
            except (EOFError, zlib.error):
                reasons.append(f"{file} is damaged")
    raise DataError(reasons[0] if reasons else f"{folder / name}.gz is missing")


def _parse(content: bytes, file: Path) -> Tensor:
    # Two zeros, the type (8: unsigned bytes), how many dimensions, and their sizes.
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    header = 4 + 4 * dimensions
    if not 1 <= dimensions <= 3 or len(content) < header:
        raise DataError(f"{file} is not in MNIST's format (IDX, unsigned bytes)")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) != header + int(np.prod(shape)):
        raise DataError(
            f"{file} is cut off or damaged: its header says {'×'.join(map(str, shape))}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def find_mnist() -> Path:
    """Return the folder of MNIST's files: the checkout's, or the cache, into which they are put.

    Any number of processes may call this at once.

    Raises:
        DataError: They are neither there nor to be downloaded.
    """
    here, cache = folder_of(folders.data()), folders.cache() / "MNIST" / "raw"
    for folder in (here, cache):
        if all(any((folder / f"{n}{end}").is_file() for end in ("", ".gz")) for n in DIGESTS):
            return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Beside their place, and moved there only when they are whole.
        with FileLock(cache / ".lock"), tempfile.TemporaryDirectory(dir=cache) as draft:
            with contextlib.redirect_stdout(io.StringIO()):
                MNIST(draft, download=True)
            for name, digest in DIGESTS.items():
                read(Path(draft) / "MNIST" / "raw", name, digest)
                (Path(draft) / "MNIST" / "raw" / f"{name}.gz").replace(cache / f"{name}.gz")
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{here}: MNIST's files are not all there, and cannot be downloaded to {cache} "
            f"({reason(error).rstrip(': ')}); restore them (`git checkout -- data/MNIST/raw` in a "
            "checkout), or name a folder that has the four with data.root=FOLDER, in other "
            "commands --data-root FOLDER"
        ) from None
    return cache
