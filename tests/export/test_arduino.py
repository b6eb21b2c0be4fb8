"""The archive for Arduino, PlatformIO, ESP-IDF, Zephyr and CMake."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.errors import UserError
from mnist_lit.export.arduino import make
from mnist_lit.export.c import WARNINGS
from mnist_lit.export.run import export
from mnist_lit.export.source import Source
from tests.conftest import needs_compiler

pytestmark = needs_compiler

SEMVER = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)([-+][0-9A-Za-z.+-]+)?"
CATEGORIES = (
    *("Display", "Communication", "Signal Input/Output", "Sensors", "Device Control", "Timing"),
    *("Data Storage", "Data Processing", "Other"),
)
# Each build system's own functions, by CMake's.
PROJECTS = {
    "cmake": "",
    "esp-idf": """
set(ESP_PLATFORM 1)
function(idf_component_register)
  cmake_parse_arguments(IDF "" "" "SRCS;INCLUDE_DIRS" ${ARGN})
  add_library(digits STATIC ${IDF_SRCS})
  target_include_directories(digits PUBLIC ${IDF_INCLUDE_DIRS})
endfunction()
""",
    "zephyr": """
function(zephyr_include_directories)
  include_directories(${ARGN})
  target_include_directories(program PRIVATE ${ARGN})
endfunction()
macro(zephyr_library_named name)
  set(ZEPHYR_CURRENT_LIBRARY ${name})
  add_library(${name} STATIC)
endmacro()
function(zephyr_library_sources)
  target_sources(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
""",
}

MAIN = """
#define DIGITS_SELFTEST
#include <digits.h>
static struct digits_state state;
int main(void) { return digits_selftest(&state); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in an archive of ``nano``."""
    folder = tmp_path_factory.mktemp("archive")
    images = MNISTDataModule().images("train").images[:100]
    source = Source(*(pretrained.load("nano").network, MNIST, 1, 1), lambda: images, name="digits")
    (folder / "digits.zip").write_bytes(make(source, True))
    shutil.unpack_archive(folder / "digits.zip", folder)
    return folder / "digits"


@pytest.mark.parametrize("system", PROJECTS)
def test_a_program_is_built_with_it(system: str, library: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    place = "zephyr" if system == "zephyr" else "."
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(board C)\nadd_executable(program main.c)\n"
        f"{PROJECTS[system]}add_subdirectory({library}/{place} digits)\n"
        "target_link_libraries(program digits)\n"
    )
    (tmp_path / "main.c").write_text(MAIN)
    for command in (["cmake", "-S", ".", "-B", "out"], ["cmake", "--build", "out"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "out" / "program"]).returncode == 0


def test_each_manifest_follows_the_rules_of_its_tool(library: Path) -> None:
    lines = (library / "library.properties").read_text("ascii").splitlines()
    arduino = dict(line.split("=", 1) for line in lines)
    assert all(arduino.values())
    assert arduino["name"] == library.name
    assert arduino["category"] in CATEGORIES
    assert (library / "src" / arduino["includes"]).is_file()
    assert arduino["paragraph"] != arduino["sentence"]
    platformio = json.loads((library / "library.json").read_text("ascii"))
    assert {"name", "version", "description", "keywords", "license"} <= platformio.keys()
    assert not re.search("[:;/,@<>]", platformio["name"])
    assert all(re.fullmatch(r"[a-z\d_+. -]{1,50}", word) for word in platformio["keywords"])
    assert (library / "src" / platformio["headers"]).is_file()
    espressif = yaml.safe_load((library / "idf_component.yml").read_text("ascii"))
    assert espressif.keys() <= {"version", "description", "url", "license", "dependencies"}
    for one in (arduino, platformio, espressif):
        assert re.fullmatch(SEMVER, one["version"])
        assert one["license"] == "MIT"
    assert urlsplit(arduino["url"]).scheme == "https"
    assert urlsplit(arduino["url"]).netloc
    zephyr = yaml.safe_load((library / "zephyr" / "module.yml").read_text("ascii"))
    assert zephyr == {"name": "digits", "build": {"cmake": "zephyr"}}
    assert (library / zephyr["build"]["cmake"] / "CMakeLists.txt").is_file()
    root = Path(__file__).parents[2]
    assert (library / "LICENSE").read_text() == (root / "LICENSE").read_text()
    assert "digits_predict(&state, pixels, logits)" in (library / "README.md").read_text("ascii")


# Runs PlatformIO without what it would fetch from servers: SCons, and the names of licences.
PLATFORMIO = """
import sys
from platformio.package.manager import core
core.get_core_package_dir = lambda name: "scons"
from platformio.__main__ import main
from platformio.package.manifest.schema import ManifestSchema
ManifestSchema.load_spdx_licenses = staticmethod(lambda: {"licenses": [{"licenseId": "MIT"}]})
sys.exit(main(["pio", *sys.argv[1:]]))
"""
PLATFORM = {
    "platform/platform.json": '{"name": "pc", "version": "1.0.0", "title": "PC"}',
    "platform/builder/main.py": "from SCons.Script import Default, DefaultEnvironment\n"
    "Default(DefaultEnvironment().BuildProgram())\n",
    "scons/scons.py": "from SCons.Script.Main import main; main()\n",
    "platformio.ini": "[env:pc]\nplatform = file://platform\nlib_compat_mode = strict\n",
}


@pytest.mark.slow
def test_platformio_finds_and_builds_the_library(library: Path, tmp_path: Path) -> None:
    if (pio := shutil.which("pio")) is None or shutil.which("scons") is None:
        pytest.skip("PlatformIO or SCons is not installed")
    python = Path(pio).with_name("python")
    for name, content in {**PLATFORM, "src/main.c": MAIN}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    shutil.copytree(library, tmp_path / "lib" / "digits")
    places = {"PLATFORMIO_CORE_DIR": str(tmp_path / "core")}
    settings = {**os.environ, **places, "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}
    for words in (["pkg", "pack", "lib/digits"], ["run"]):
        subprocess.run([python, "-c", PLATFORMIO, *words], cwd=tmp_path, env=settings, check=True)
    assert subprocess.run([tmp_path / ".pio" / "build" / "pc" / "program"]).returncode == 0


@pytest.mark.slow
def test_the_component_manager_of_esp_idf_takes_it(library: Path, tmp_path: Path) -> None:
    if shutil.which("compote") is None:
        pytest.skip("compote is not installed")
    words = ["--project-dir", str(library), "--name", "digits", "--dest-dir", str(tmp_path)]
    subprocess.run(["compote", "-W", "component", "pack", *words], check=True)
    assert len(list(tmp_path.glob("digits_*.tgz"))) == 1


@pytest.mark.usefixtures("few_images")
def test_a_name_that_arduino_refuses_is_refused(tmp_path: Path) -> None:
    source = Source(*(pretrained.load("nano").network, MNIST, 1, 1), lambda: torch.zeros(0))
    for name in ("_3_digits", "arduino_digits", "d" * 64):
        with pytest.raises(UserError, match=r"a library's has at most 63 .* give one by --name"):
            make(replace(source, name=name), True)
    done = export(pretrained.load("nano"), "embedded", tmp_path / "3 digits.zip", name="digits")
    assert done.path.is_file()


def on_paper(digit: torch.Tensor, size: int, width: int, height: int) -> np.ndarray:
    """A digit in dark ink on paper under uneven light, with noise: ``uint8 [height, width]``."""
    ink = np.zeros((height, width))
    scaled = Image.fromarray(digit.numpy()).resize((size, size), Image.Resampling.BICUBIC)
    ink[5 : 5 + size, -5 - size : -5] = np.asarray(scaled) / 255
    light = np.linspace(250, 130, width) * (1 - 0.5 * ink)
    noise = np.random.default_rng(0).normal(0, 4, ink.shape)
    return np.clip(light + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("compiler", ["gcc -std=c99", "g++ -std=c++11"])
def test_a_digit_is_read_from_a_picture_of_a_camera(
    compiler: str, library: Path, tmp_path: Path, mnist: MNISTDataModule
) -> None:
    command = compiler.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <camera_digit.h>\n"
        "#define DIGITS_IMPLEMENTATION\n#include <digits.h>\nstatic struct digits_state state;\n"
        "int main(int count, char **words) {\n"
        "    static uint8_t picture[200000], pixels[784];\n"
        "    int width = atoi(words[1]), height = atoi(words[count - 1]);\n"
        "    fread(picture, 1, sizeof picture, stdin);\n"
        "    int failed = camera_digit(picture, width, height, pixels);\n"
        '    printf("%d", failed ? failed : digits_predict(&state, pixels, 0));\n}\n'
    )
    strict = [option for option in WARNINGS if option != "-pedantic"]
    build = [*command, "-O1", *strict, "-Wno-unused-result", "-fsanitize=address,undefined"]
    kind = "c" if command[0] == "gcc" else "c++"
    build += [f"-I{library / 'src'}", "-x", kind, "main.c", "-o", "read"]
    subprocess.run(build, cwd=tmp_path, check=True)

    def read(picture: np.ndarray, width: int, height: int) -> int:
        words = [str(tmp_path / "read"), str(width), str(height)]
        said = subprocess.run(words, input=picture.tobytes(), capture_output=True, check=True)
        return int(said.stdout)

    test = mnist.images("test")
    for number, (size, width, height) in enumerate(
        [(80, 96, 96), (56, 160, 120), (100, 160, 120), (200, 320, 240), (28, 40, 40)]
    ):
        picture = on_paper(test.images[number, 0], size, width, height)
        assert read(picture, width, height) == test.labels[number]
    blank = on_paper(torch.zeros(28, 28, dtype=torch.uint8), 80, 160, 120)
    assert read(blank, 160, 120) == read(np.zeros_like(blank), 160, 120) == -2
    assert read(blank, 27, 120) == read(blank, 96, 1025) == read(blank, -1, 0) == -1


# The part of Arduino's library that the sketch needs.
ARDUINO = """
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/sleep.h>
#include <stdlib.h>
#define F(text) text
struct {
    void begin(long) { UBRR0 = 0; UCSR0B = 1 << TXEN0; }
    void print(const char *text) { while (*text) { while (!(UCSR0A & 32)) {} UDR0 = *text++; } }
    void print(int number) { char text[8]; print(itoa(number, text, 10)); }
    void println(const char *text) { print(text); print("\\n"); }
    void println(unsigned long number) { print((int)number); print("\\n"); }
} Serial;
static unsigned long millis() { return 0; }
static void delay(int) { cli(); sleep_enable(); sleep_cpu(); }
#include "picture.ino"
int main() { setup(); for (;;) loop(); }
"""


@pytest.mark.slow
def test_the_sketch_of_the_arduino_library_says_the_digit(tmp_path: Path) -> None:
    for tool in ("avr-g++", "simavr"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    done = export(pretrained.load("nano"), "arduino", tmp_path / "digits.zip")
    assert done.correct >= done.reference - 10
    shutil.unpack_archive(done.path, tmp_path)
    library = tmp_path / "digits"
    (tmp_path / "main.cpp").write_text("#define DIGITS_SELFTEST\n" + ARDUINO)
    files = ["main.cpp", str(library / "src" / "digits.c")]
    folders = [f"-I{library}/src", f"-I{library}/examples/picture"]
    subprocess.run(
        [*("avr-g++", "-mmcu=atmega328p", "-Os", "-std=gnu++11", *folders), *files, "-o", "run"],
        cwd=tmp_path,
        check=True,
    )
    said = subprocess.run(
        ["simavr", "-m", "atmega328p", "-f", "16000000", tmp_path / "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert "Self-test: right" in said.stdout
    assert "This is a 5, read in ms: 0" in said.stdout  # the first training image


# Arduino's own library for AVR, and a sketch that also says how much of the memory is never used.
CORE = Path("/usr/share/arduino/hardware/arduino/avr")
UNUSED = """
#include <Arduino.h>
#define loop once
#include "picture.ino"
#undef loop
extern uint8_t _end;
__attribute__((constructor)) void fill() {
    for (uint8_t *p = &_end; p < (uint8_t *)SP - 8; p++) *p = 0xA5;
}
void loop() {
    once();
    const uint8_t *p = &_end;
    while (*p == 0xA5) p++;
    Serial.print(F("Unused: "));
    Serial.println(p - &_end);
    Serial.flush();
    cli();
    SMCR = 1;
    sleep_cpu();
}
"""


@pytest.mark.slow
def test_the_sketch_fits_the_memory_of_an_uno(library: Path, tmp_path: Path) -> None:
    if not CORE.is_dir() or shutil.which("avr-gcc") is None or shutil.which("simavr") is None:
        pytest.skip("arduino-core-avr, avr-gcc or simavr is not installed")
    main = "#define DIGITS_SELFTEST\n#include <avr/sleep.h>\n" + UNUSED
    (tmp_path / "sketch.cpp").write_text(main)
    # Debian's compiler cannot build the strings, which the sketch does not need.
    core = [f for f in (CORE / "cores" / "arduino").glob("*.[cS]*") if f.stem != "WString"]
    folders = [CORE / "cores" / "arduino", CORE / "variants" / "standard", library / "src"]
    options = ["-mmcu=atmega328p", "-Os", "-w", "-std=gnu++11", "-flto", "-ffunction-sections"]
    options += ["-fdata-sections", "-Wl,--gc-sections", "-DF_CPU=16000000L", "-DARDUINO=10819"]
    options += [f"-I{folder}" for folder in [*folders, library / "examples" / "picture"]]
    files = [tmp_path / "sketch.cpp", library / "src" / "digits.c", *core]
    subprocess.run(["avr-gcc", *options, *files, "-o", "run"], cwd=tmp_path, check=True)
    run = ["simavr", "-m", "atmega328p", "-f", "16000000", str(tmp_path / "run")]
    said = subprocess.run(run, capture_output=True, text=True, errors="replace", timeout=120)
    lines = said.stdout + said.stderr
    assert "Self-test: right" in lines
    unused = re.search(r"Unused: (\d+)", lines)
    assert unused is not None
    assert int(unused[1]) > 0
