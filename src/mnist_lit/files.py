"""Files that are written whole or not at all."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_lit.errors import WriteError

UNFINISHED = ".unfinished-"  # how the name of a file begins that is not whole yet
HOUR = 3600.0  # seconds, of which no file takes one
# Of the folder of a run: all but its page; of a folder of images: the files in MNIST's layout.
KEPT = (
    *("checkpoints/*", "report.json", ".hydra/*", "figures/*", ".mnist-lit/*", "tensorboard/*"),
    *("run.log", "packages.txt", "changes.diff", "metrics.csv", "hparams.yaml", "job.json"),
    *("*-ubyte*", "raw/*-ubyte*", "MNIST/raw/*-ubyte*"),
)


def clear(folder: Path, age: float = 0) -> None:
    """Remove what processes that were killed have left unfinished in a folder.

    Args:
        folder: Where nobody else writes, or nobody to what was not changed for so long.
        age: Seconds since the last change, at least.
    """
    for left in folder.glob(f"{UNFINISHED}{'[0-9a-f]' * 8}*"):
        with suppress(OSError):  # another process has been faster
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, beside a file; at the end it takes the file's place, on disk.

    If anything fails, what stood there stays. Missing folders are made.

    Args:
        path: Of the file; ``~`` is expanded. A link is replaced, and not what it points to.

    Raises:
        WriteError: It cannot be written, or a read-only file or no regular file stands there.
    """
    try:
        target = path.expanduser().absolute()
        if target.exists() and not target.is_file():
            what = "a folder" if target.is_dir() else "not a regular file"
            raise OSError(f"it is {what}; give another name")
        if target.exists() and not target.stat().st_mode & 0o222:
            raise OSError("it is read-only; give another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        clear(target.parent, HOUR)
        draft = target.with_name(f"{UNFINISHED}{secrets.token_hex(4)}{target.suffix}")
        try:
            yield draft
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except WriteError:  # of another file
        raise
    except OSError as error:  # which may name the draft
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; see :func:`whole`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes; see :func:`whole`."""
    with whole(path) as draft:
        draft.write_bytes(content)


def named(path: Path, *read: Path) -> str:
    """Return how a line names a file that will be written, and whether one is replaced.

    Args:
        path: Of the file.
        read: Files, and folders of images, whose files it must not replace; nor, of a run's
            checkpoint, another file of that run.

    Raises:
        WriteError: It is one of them.
    """
    there = path.expanduser()
    if not there.is_file():
        return str(path)
    for one in (name.expanduser().resolve() for name in read):
        folder = one.parents[1] if one.parent.name == "checkpoints" else one
        parts = (part for pattern in KEPT for part in folder.glob(pattern))
        if any(file.exists() and file.samefile(there) for file in (one, *parts)):
            raise WriteError(f"{path}: cannot be written: it is read as well; give another name")
    return f"{path} (replaced)"
