"""A program of ``torch.export``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from numpy import ndarray

from mnist_lit.export.source import FromPixels, Logits, Run, Source


def write(source: Source, path: Path, int8: bool) -> None:
    """Write the file, with what it says of itself."""
    side = source.facts.side
    example = (torch.zeros(2, 1, side, side, dtype=torch.uint8),)
    batch = torch.export.Dim("batch")
    program = torch.export.export(FromPixels(source), example, dynamic_shapes=({0: batch},))
    text = "\n".join(f"{key}: {value}" for key, value in source.about.items())
    torch.export.save(program, path, extra_files={"about.txt": text})


@contextmanager
def load(path: Path, source: Source) -> Iterator[Run]:
    """Open the file in torch."""
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(pixels: ndarray) -> Logits:
        return module(torch.from_numpy(pixels)).numpy()

    yield run
