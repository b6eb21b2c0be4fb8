"""Checkpoints written whole or not at all, wherever they lie."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from mnist_lit.checkpoints.read import read_file, unpacked
from mnist_lit.errors import ConfigError, reason
from mnist_lit.files import write_bytes


def packed(content: Any, place: str = "checkpoint") -> bytes:
    """Return the bytes of a checkpoint, after they were read back.

    Raises:
        ConfigError: They cannot be read; the message names the part that is to blame.
    """
    file = io.BytesIO()
    try:
        torch.save(content, file)
        unpacked(file.getvalue())
    except Exception as error:  # an object that cannot be pickled raises anything
        for key, part in content.items() if isinstance(content, Mapping) else ():
            packed(part, f"{place}.{key}")
        words = f"{place} ({torch.typename(content)}) cannot be kept: {reason(error)}"
        raise ConfigError(words) from None
    return file.getvalue()


class WholeFiles(TorchCheckpointIO):
    """Lets Lightning write checkpoints so, and read them as safely as others are read.

    Its own way is a file in the temporary folder, copied over the good one where that lies on
    another file system.
    """

    folder: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; what stood there stays if it cannot be."""
        write_bytes(Path(path), packed(checkpoint))
        self.folder = Path(path).resolve().parent

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; see :func:`.read_file`."""
        return read_file(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, of those beside the one written last.

        What a callback of Lightning's asks for comes from the state that a resumed run has loaded:
        a stranger's file may name any file, or a folder.
        """
        file = Path(path).resolve()
        if file.is_file() and (file.parent, file.suffix) == (self.folder, ".ckpt"):
            file.unlink()
