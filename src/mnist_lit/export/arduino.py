"""A trained network as a library for the Arduino IDE: the C code in whole numbers, and a sketch."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

from mnist_lit.errors import ExportError
from mnist_lit.export import c
from mnist_lit.export.source import Loaded, Source
from mnist_lit.network.alignment import Alignment
from mnist_lit.network.compact import CompactCNN
from mnist_lit.text import for_c

PROPERTIES = """name={name}
version={version}
author=mnist-lit
maintainer=mnist-lit
sentence={sentence}
paragraph=Whole numbers alone, no other library. Made by mnist-lit export.
category=Data Processing
url=
architectures=*
includes={name}.h
"""
# Row by row from flash: the memory of an Uno does not hold a picture beside the network.
SKETCH = """// Reads a picture from flash, row by row, and says on the serial line what it shows.
#define {NAME}_IMPLEMENTATION
#include <{name}.h>

const uint8_t picture[{side}][{side}] PROGMEM = {{
{rows}}};

{name}_state state;

void take(void (*give)({name}_state *, const uint8_t *)) {{
  uint8_t row[{side}];
  for (uint8_t y = 0; y < {side}; y++) {{
    memcpy_P(row, picture[y], {side});
    give(&state, row);
  }}
}}

void setup() {{
  Serial.begin(115200);
}}

void loop() {{
  unsigned long began = millis();
  {name}_start(&state);
{look}  take({name}_row);
  int answer = {name}_finish(&state, 0);
  unsigned long ended = millis();
  Serial.print("This is a ");
  Serial.print(answer);
  Serial.print(", read in ms: ");
  Serial.println(ended - began);
  delay(2000);
}}
"""


def make(source: Source, int8: bool) -> bytes:
    """Return the library as a zip archive, which holds nothing of the machine that made it."""
    name, side, network = source.name, source.facts.side, source.network
    assert isinstance(network, CompactCNN)
    if source.facts.side > 48:
        raise ExportError(f"images of {side} pixels a side: the sketch's picture is too large")
    header = c.make(replace(source, file=f"{name}.h"), int8)
    aligned = isinstance(network.alignment, Alignment)
    image = source.calibration()[0, 0].tolist()
    sketch = SKETCH.format(
        name=name,
        NAME=name.upper(),
        side=side,
        rows="".join("  {" + ", ".join(f"{p:3}" for p in row) + "},\n" for row in image),
        look=f"  take({name}_look); // how the picture leans\n" if aligned else "",
    )
    sentence = for_c(source.about["task"].partition(";")[0])
    properties = PROPERTIES.format(name=name, version=version("mnist-lit"), sentence=sentence)
    files = {
        "library.properties": properties.encode(),
        f"src/{name}.h": header,
        "examples/picture/picture.ino": sketch.encode(),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(f"{name}/{path}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return file.getvalue()


@contextmanager
def load(content: bytes, source: Source) -> Iterator[Loaded]:
    """Open the header of the library as that of the C code."""
    name = source.name
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        header = archive.read(f"{name}/src/{name}.h")
    with c.load(header, source) as loaded:
        yield loaded
