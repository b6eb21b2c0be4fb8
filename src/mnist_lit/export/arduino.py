"""A trained network as a library for the Arduino IDE: the integer C code, and a sketch."""

import io
import zipfile
from dataclasses import replace
from importlib.metadata import version

from mnist_lit.export import c
from mnist_lit.export.source import Run, Source, rendered


def make(source: Source, int8: bool) -> bytes:
    """Return the library as a zip archive, without data of the machine that made it."""
    name, picture, release = source.name, source.calibration()[0, 0], version("mnist-lit")
    files: dict[str, str | bytes] = {
        "library.properties": rendered("library.properties", source=source, version=release),
        f"src/{name}.h": c.make(replace(source, file=f"{name}.h"), int8),
        "examples/picture/picture.ino": rendered("sketch.ino", source=source, picture=picture),
    }
    file = io.BytesIO()
    # Not compressed, because zlib's versions write different bytes.
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(f"{name}/{path}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return file.getvalue()


def load(content: bytes, source: Source) -> tuple[Run, list[str]]:
    """Open the header of the library; see ``c.load``."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return c.load(archive.read(f"{source.name}/src/{source.name}.h"), source)
