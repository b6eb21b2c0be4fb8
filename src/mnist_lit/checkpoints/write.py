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
        raise ConfigError(
            f"{place} ({torch.typename(content)}) cannot be kept: {reason(error)}"
        ) from None
    return file.getvalue()


class WholeFiles(TorchCheckpointIO):
    """Lets Lightning write checkpoints so, and read them as safely as others are read.

    Its own way is a file in the temporary folder, copied over the good one where that lies on
    another file system.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; what stood there stays if it cannot be."""
        write_bytes(Path(path), packed(checkpoint))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; see :func:`.read_file`."""
        return read_file(Path(path))
