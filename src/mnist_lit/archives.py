"""MNIST's files: found, verified, unpacked."""

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

# SHA-256 of the unpacked files; torchvision itself only looks whether they exist.
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DataError(RuntimeError):
    """MNIST could not be read; the message names the file and the remedy."""


def default_root() -> Path:
    """Return the data folder of this checkout or, for an installed package, of the user's cache."""
    checkout = Path(__file__).resolve().parents[2] / "data"
    return checkout if (checkout / "MNIST" / "raw").is_dir() else _cache()


def prepare(root: Path) -> Path:
    """Make sure that a folder holds MNIST's four unpacked files, undamaged.

    What is missing or damaged is unpacked from the archives in ``root/MNIST/raw``, or downloaded
    where those are missing or damaged too. Any number of processes may call this at once.

    Args:
        root: The folder above ``MNIST/raw``. If it cannot be written to, the files are unpacked to
            the user's cache instead.

    Returns:
        The folder to give to :class:`torchvision.datasets.MNIST`: ``root`` or the cache.

    Raises:
        DataError: An archive is missing or damaged and could not be downloaded.
    """
    if _is_complete(root):
        return root
    target = root if _is_writable(root) else _cache()
    raw = _raw(target)
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):
            if not _is_complete(target):
                _unpack(_raw(root), raw)
    except OSError as error:
        raise DataError(
            f"{raw}: cannot write MNIST there ({error.strerror or error}); "
            "name a folder that you can write to with data.root=FOLDER"
        ) from None
    return target


def _unpack(archives: Path, raw: Path) -> None:
    # Everything is made beside its destination and moved there only when it is whole.
    with tempfile.TemporaryDirectory(dir=raw) as folder:
        staging = _raw(Path(folder))
        staging.mkdir(parents=True)
        lacking = []
        for name, md5 in MNIST.resources:
            if check_integrity(str(archives / name), md5):
                shutil.copyfile(archives / name, staging / name)
            else:
                lacking.append(archives / name)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                MNIST(folder, download=True)
        except (RuntimeError, OSError) as error:
            if not lacking:
                raise
            state = "damaged" if lacking[0].exists() else "missing"
            raise DataError(
                f"{lacking[0]} is {state} and could not be downloaded "
                f"({str(error).splitlines()[0].rstrip(': ')}); restore it "
                "(`git checkout -- data/MNIST/raw` in a checkout), or name a folder that holds "
                "MNIST/raw with data.root=FOLDER"
            ) from None
        for name, digest in FILES.items():
            if _sha256(staging / name) != digest:
                raise DataError(f"{archives / name}.gz unpacks to something that is not MNIST")
            (staging / name).replace(raw / name)


def _raw(root: Path) -> Path:
    return root / "MNIST" / "raw"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist-lit"


def _is_complete(root: Path) -> bool:
    raw = _raw(root)
    return all(
        (raw / name).is_file() and _sha256(raw / name) == digest for name, digest in FILES.items()
    )


def _is_writable(root: Path) -> bool:
    folder = _raw(root)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
