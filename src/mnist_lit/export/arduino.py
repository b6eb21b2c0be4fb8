"""A trained network as a library for the Arduino IDE: the C code in whole numbers, and a sketch."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

from mnist_lit.errors import ExportError
from mnist_lit.export import c
from mnist_lit.export.source import Run, Source
from mnist_lit.export.templates import rendered
from mnist_lit.network.alignment import Alignment
from mnist_lit.network.compact import CompactCNN
from mnist_lit.text import for_c


def make(source: Source, int8: bool) -> bytes:
    """Return the library as a zip archive, which holds nothing of the machine that made it."""
    name, side, network = source.name, source.facts.side, source.network
    assert isinstance(network, CompactCNN)
    if side > 48:
        raise ExportError(f"images of {side} pixels a side: the sketch's picture is too large")
    properties = rendered(
        "library.properties",
        name=name,
        version=version("mnist-lit"),
        sentence=for_c(source.about["task"].partition(";")[0]),
    )
    sketch = rendered(
        "sketch.ino",
        name=name,
        side=side,
        picture=source.calibration()[0, 0].tolist(),
        align=isinstance(network.alignment, Alignment),
    )
    files: dict[str, str | bytes] = {
        "library.properties": properties,
        f"src/{name}.h": c.make(replace(source, file=f"{name}.h"), int8),
        "examples/picture/picture.ino": sketch,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(f"{name}/{path}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return file.getvalue()


@contextmanager
def load(content: bytes, source: Source) -> Iterator[tuple[Run, list[str]]]:
    """Open the header of the library as that of the C code."""
    name = source.name
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        header = archive.read(f"{name}/src/{name}.h")
    with c.load(header, source) as loaded:
        yield loaded
