"""Write files completely or not at all."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_lit.errors import WriteError

UNFINISHED = ".unfinished-"  # prefix of the name of an incomplete file
HOUR = 3600.0  # seconds; no file takes so long
# Files to protect: of runs but their pages, of sweeps, and images of a folder in MNIST's layout.
KEPT = (
    *("checkpoints/*", "report.json", ".hydra/*", "figures/*", ".mnist-lit/*", "tensorboard/*"),
    *("run.log", "packages.txt", "changes.diff", "metrics.csv", "hparams.yaml", "job.json"),
    *("*.db*", "multirun.yaml", "results.csv", "results.html", "output.log"),
    *("*-ubyte*", "raw/*-ubyte*", "MNIST/raw/*-ubyte*"),
)


def clear(folder: Path, age: float = 0) -> None:
    """Remove the incomplete files of killed processes from a folder.

    Args:
        folder: A folder without other writing processes, or without any that write so slowly.
        age: Least number of seconds since the last change of a file.
    """
    for left in folder.glob(f"{UNFINISHED}*"):
        if not re.fullmatch(r"[0-9a-f]{8}(\.[^.]*)?", left.name.removeprefix(UNFINISHED)):
            continue  # not by ``whole``
        with suppress(OSError):  # another process has removed it
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file; at the end it is synced to disk and replaces the file.

    If anything fails, an existing file stays unchanged. Missing folders are made.

    Args:
        path: Path of the file; ``~`` is expanded. A symbolic link is replaced, not its target.

    Raises:
        WriteError: The file cannot be written, is read-only, or is no regular file.
    """
    try:
        target = _place(path)
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
    except WriteError:  # about another file
        raise
    except OSError as error:  # its own text may name the draft
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from None


def _place(path: Path) -> Path:
    """Return the absolute path of a file, which stays the same when missing folders are made."""
    there = path.expanduser()  # a last link is kept, because it is replaced
    return Path(os.path.realpath(there.parent), there.name)


def run_around(path: Path) -> Path | None:
    """Return the folder of the innermost run around a path."""
    folders = Path(os.path.realpath(path)).parents
    return next((folder for folder in folders if (folder / ".mnist-lit").is_dir()), None)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; see ``whole``. Bytes of a name that are none become question marks."""
    write_bytes(path, text.encode(errors="replace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes; see ``whole``."""
    with whole(path) as draft:
        draft.write_bytes(content)


def named(path: Path, *read: Path) -> str:
    """Return the name of an output file for a message, with ``(replaced)`` if it exists.

    Args:
        path: Path of the file.
        read: Input files and folders of images, which it must not replace. For a run's checkpoint,
            the other files of that run are protected too.

    Raises:
        WriteError: It would replace one of them, or such a file of any run or sweep.
    """
    there = _place(path)
    if not (there.is_file() or there.is_symlink()):
        return str(path)
    marks = (".mnist-lit", "multirun.yaml", "checkpoints")
    runs = (one for one in there.parents if any((one / name).exists() for name in marks))
    for one in (name.expanduser().resolve() for name in (*read, *runs)):
        folder = one.parents[1] if one.is_file() and one.parent.name == "checkpoints" else one
        parts = (part for pattern in KEPT for part in folder.glob(pattern))
        if there.exists() and any(file.exists() and file.samefile(there) for file in (one, *parts)):
            raise WriteError(f"{path}: cannot be written: an input, or of a run; give another name")
    return f"{path} (replaced)"
