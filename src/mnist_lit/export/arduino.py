"""A trained network as an archive for Arduino, PlatformIO, ESP-IDF, Zephyr and CMake.

It has the integer C code, a sketch, and a manifest for each of these build systems.
"""

import io
import re
import zipfile
from dataclasses import replace
from importlib.metadata import distribution

from mnist_lit.errors import UserError
from mnist_lit.export import c
from mnist_lit.export.source import Run, Source, rendered

MANIFESTS = (
    "README.md",
    "library.properties",
    "library.json",
    "idf_component.yml",
    "CMakeLists.txt",
    "zephyr/module.yml",
    "zephyr/CMakeLists.txt",
)
CAMERA = "src/camera_digit.h"


def make(source: Source, int8: bool) -> bytes:
    """Return the archive, without data of the machine that made it.

    Raises:
        UserError: Arduino allows no library of this name, or C does not support the network.
    """
    name, package = source.name, distribution("mnist-lit")
    if not re.fullmatch(r"(?!arduino)[a-z]\w{,62}", name, flags=re.ASCII | re.IGNORECASE):
        raise UserError(
            f"the name {name}: a library's has at most 63 characters, the first a letter, and does "
            "not begin with arduino; give one by --name"
        )
    known = {"source": source, "version": package.version}
    code = f'#define {name.upper()}_IMPLEMENTATION\n#include "{name}.h"\n'
    files: dict[str, str | bytes] = {
        "LICENSE": package.read_text("licenses/LICENSE") or "MIT\n",
        **{path: rendered(f"archive/{path}", **known) for path in MANIFESTS},
        f"src/{name}.h": c.make(replace(source, file=f"{name}.h"), int8),
        **({CAMERA: rendered(f"archive/{CAMERA}")} if source.facts.centred else {}),
        f"src/{name}.c": f"/* SPDX-License-Identifier: MIT */\n{code}",
        "examples/picture/picture.ino": rendered(
            "archive/sketch.ino",
            source=source,
            picture=source.calibration()[0, 0],
            digits=c.SELFTEST,
        ),
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
    """Open the header of the archive; see ``c.load``."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return c.load(archive.read(f"{source.name}/src/{source.name}.h"), source)
