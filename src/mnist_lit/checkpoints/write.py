"""Checkpoints written whole or not at all, wherever they lie."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from mnist_lit.files import write_bytes


def write(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain data into a file.

    Raises:
        WriteError: It cannot be written; what stood there stays.
    """
    stored = io.BytesIO()
    torch.save(content, stored)
    write_bytes(path, stored.getvalue())


class WholeFiles(TorchCheckpointIO):
    """Lets Lightning write checkpoints so.

    Its own way is a file in the temporary folder, copied over the good one where that lies on
    another file system.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; see :func:`write`."""
        write(checkpoint, Path(path))
