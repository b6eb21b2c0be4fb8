"""Write checkpoints completely or not at all."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from mnist_lit.checkpoints.read import read_file, unpacked
from mnist_lit.errors import ConfigError, reason
from mnist_lit.files import run_around, write_bytes


def packed(content: Any, place: str = "checkpoint") -> bytes:
    """Serialise a checkpoint, and check that it can be read back.

    Raises:
        ConfigError: It cannot be read back; the message names the part that prevents it.
    """
    file = io.BytesIO()
    try:
        torch.save(content, file)
        unpacked(file.getvalue())
    except Exception as error:  # pickling an object may raise anything
        for key, part in content.items() if isinstance(content, Mapping) else ():
            packed(part, f"{place}.{key}")
        words = f"{place} ({torch.typename(content)}) cannot be saved: {reason(error)}"
        raise ConfigError(words) from None
    return file.getvalue()


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoint IO, with complete writing and safe reading.

    Lightning's own IO writes to the temporary folder. If that is on another file system, it then
    copies the file over the previous one.

    Args:
        run: The folder of the run; nothing is written into the folder of another.
    """

    folder: Path | None = None

    def __init__(self, run: Path | None = None) -> None:
        super().__init__()
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Write a checkpoint; if that fails, a previous file stays unchanged.

        Raises:
            ConfigError: It would lie in the folder of another run.
        """
        if (run := run_around(Path(path))) not in (self.run, None):
            raise ConfigError(f"{path}: the run {run} lies there; give another folder")
        write_bytes(Path(path), packed(checkpoint))
        self.folder = Path(path).resolve().parent

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; see ``read_file``."""
        return read_file(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint in the folder of the last one.

        Lightning's callbacks take the path from the state of a resumed run, and a stranger's
        checkpoint may name any file or folder.
        """
        file = Path(path).resolve()
        if file.is_file() and (file.parent, file.suffix) == (self.folder, ".ckpt"):
            file.unlink()
