"""The C code: by every compiler and standard, several networks in one program, row by row."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.errors import UserError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.c import ARM, load, make
from mnist_lit.export.run import export
from mnist_lit.export.source import Source
from mnist_lit.network.compact import CompactCNN
from tests.conftest import needs_compiler
from tests.export.test_export import odd_network

pytestmark = needs_compiler
__all__ = ["odd_network"]  # a fixture

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wcast-align", "-Werror"]
STANDARDS = (("c99", "c11", "c17", "c2x"), ("c++11", "c++14", "c++17", "c++20"))
CLANG = ("clang", "clang++")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Of this form, all layers but the first are separable, and the int8 code has a function for that.
DEEP: list[dict[str, Any]] = [
    {"channels": 3, "kernel": 5, "pool": "after_conv"},
    {"channels": 5, "separable": True},
    {"channels": 6, "separable": True, "padding": False},
]
ROOT = Path(__file__).parents[2]
# Reads images, whole and row by row; prints digits and logits, and whether the two agree.
PROGRAM = """
#include <stdio.h>
#include <string.h>
#define ODD_IMPLEMENTATION
#define ODD_SELFTEST
#include "odd.h"
#define ODD_INT8_IMPLEMENTATION
#define ODD_INT8_SELFTEST
#include "odd_int8.h"
#include "odd.h"
#if ODD_INT8_SIDE != 28 || ODD_INT8_INPUT != 784 || ODD_INT8_CLASSES != 10
#error "not the geometry of MNIST"
#endif
static struct odd_state state;
static struct odd_int8_state whole, rows;
int main(void) {
    uint8_t pixels[784];
    if (ODD_INT8_RAM != sizeof whole) return 2;
    if (odd_selftest(&state) || odd_int8_selftest(&whole)) return 3;
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        float logits[10];
        int32_t one[10], other[10];
        int digit = odd_int8_predict(&whole, pixels, one);
        printf("%d", odd_predict(&state, pixels, logits));
        odd_int8_start(&rows);
        for (int y = 0; y < 28; y++) odd_int8_look(&rows, pixels + 28 * y);
        for (int y = 0; y < 28; y++) odd_int8_row(&rows, pixels + 28 * y);
        if (odd_int8_finish(&rows, other) != digit || memcmp(one, other, sizeof one)) return 1;
        for (int d = 0; d < 10; d++) printf(" %ld", (long)one[d]);
        printf("\\n");
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def headers(odd_network: CompactCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both headers of a network of every kind of block, and a program."""
    return written(odd_network, tmp_path_factory.mktemp("headers"))


def written(network: CompactCNN, folder: Path) -> Path:
    """Write both headers of a network and the program."""
    images = MNISTDataModule().images("train").images[:200]
    source = Source(network, MNIST, 1, 1, calibration=lambda: images)
    for int8, name in ((False, "odd"), (True, "odd_int8")):
        content = make(replace(source, name=name), int8)
        (folder / f"{name}.h").write_bytes(content)
    (folder / "main.c").write_text(PROGRAM)
    return folder


def build(folder: Path, compiler: str, *options: str) -> Path:
    """Compile the program, with every warning an error."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    program = folder / "program"
    language = "c++" if "++" in compiler else "c"
    subprocess.run(
        [compiler, *STRICT, *options, "-x", language, folder / "main.c", "-o", program], check=True
    )
    return program


def run(program: Path, pixels: torch.Tensor, *emulator: str) -> str:
    """Return the output of the program for images."""
    given = pixels.numpy().tobytes()
    return subprocess.run(
        [*emulator, program], input=given, stdout=subprocess.PIPE, check=True
    ).stdout.decode()


@pytest.mark.parametrize(
    "compiler", ["gcc", *(pytest.param(c, marks=pytest.mark.slow) for c in ("g++", *CLANG))]
)
def test_every_standard_takes_it_and_gives_the_same_bits(
    compiler: str, headers: Path, mnist: MNISTDataModule
) -> None:
    pixels = mnist.test.images[:20]
    said = set()
    for standard, level in zip(STANDARDS[compiler[-1] == "+"], "0s23", strict=False):
        said.add(run(build(headers, compiler, f"-std={standard}", f"-O{level}"), pixels))
    said.add(run(build(headers, "gcc", "-std=c99", "-O2", "-funsigned-char"), pixels))
    assert len(said) == 1
    assert len(said.pop().splitlines()) == 20


# One is big-endian; the other has the instructions that add two products.
PROCESSORS = {
    "qemu-ppc": "powerpc-linux-gnu-gcc -static",
    "qemu-arm": "arm-none-eabi-gcc -mcpu=cortex-a7 -mthumb --specs=rdimon.specs",
}


@pytest.mark.slow
@pytest.mark.parametrize("emulator", PROCESSORS)
def test_another_processor_gives_the_same_bits(
    emulator: str, headers: Path, mnist: MNISTDataModule, tmp_path: Path
) -> None:
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not installed")
    compiler, *options = PROCESSORS[emulator].split()
    pixels = mnist.test.images[:50]
    deep = CompactCNN(DEEP, align=True, paper=MNIST.paper).eval()
    for folder in (headers, written(deep, tmp_path)):
        wanted = run(build(folder, "gcc", "-std=c99", "-O2"), pixels)
        assert wanted == run(build(folder, compiler, "-std=c99", "-O2", *options), pixels, emulator)


def test_sanitizers_find_nothing(headers: Path, mnist: MNISTDataModule) -> None:
    program = build(headers, "gcc", "-std=c99", *SANITIZERS)
    blank, full = torch.zeros(1, 1, 28, 28), torch.full((1, 1, 28, 28), 255)
    corner = torch.zeros(4, 1, 28, 28)
    corner[0, 0, 0, 0] = corner[1, 0, 27, 27] = corner[2, 0, 0] = corner[3, 0, :, 27] = 255
    odd = torch.cat([blank, full, corner]).to(torch.uint8)
    assert len(run(program, torch.cat([odd, mnist.test.images[:100]])).splitlines()) == 106


# Calls the functions for rows too often, too early and too late.
MISUSE = """
#include <stdio.h>
#define ODD_IMPLEMENTATION
#include "odd.h"
static uint8_t row[28 * 28];
int main(void) {
    struct odd_state s;
    while (fread(row, 1, sizeof row, stdin) == sizeof row) {
        odd_start(&s);
        if (odd_finish(&s, 0) != -1) return 1;
        for (int y = 0; y < 28; y++) {
            if (LOOK && (odd_row(&s, row) != -1 || odd_look(&s, row + 28 * y) != 0)) return 2;
        }
        if (LOOK && odd_look(&s, row) != -1) return 3;
        for (int y = 0; y < 28; y++) {
            if (odd_finish(&s, 0) != -1 || odd_row(&s, row + 28 * y) != 0) return 4;
        }
        if (odd_row(&s, row) != -1 || (LOOK && odd_look(&s, row) != -1)) return 5;
        if (odd_finish(&s, 0) < 0 || odd_finish(&s, 0) != -1 || odd_row(&s, row) != -1) return 6;
    }
    odd_start(&s);
    return LOOK && odd_look(&s, row) != 0;
}
"""


@pytest.mark.parametrize(("align", "int8"), [(True, True), (False, True), (False, False)])
def test_rows_too_many_or_too_few_are_an_error(
    align: bool, int8: bool, mnist: MNISTDataModule, tmp_path: Path
) -> None:
    network = CompactCNN(DEEP, align=align, paper=MNIST.paper).eval()
    norm = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    torch.nn.init.constant_(norm.weight[0], -1)
    source = Source(*(network, MNIST, 1, 1), lambda: mnist.train.images[:20], name="odd")
    (tmp_path / "odd.h").write_bytes(make(source, int8))
    (tmp_path / "main.c").write_text(MISUSE if align else MISUSE.replace("odd_look", "odd_row"))
    program = build(tmp_path, "gcc", "-std=c99", f"-DLOOK={int(align)}", *SANITIZERS)
    assert run(program, mnist.test.images[:20]) == ""


def test_the_self_test_finds_a_changed_weight(headers: Path, tmp_path: Path) -> None:
    for name in ("odd", "odd_int8"):
        text = (headers / f"{name}.h").read_text()
        changed = re.sub(rf"({name}_linear_bias\[10\] .*\n +)", r"\g<1>1 + ", text)
        assert changed != text
        (tmp_path / f"{name}.h").write_text(changed)
        (tmp_path / "main.c").write_text(
            f"#define {name.upper()}_IMPLEMENTATION\n#define {name.upper()}_SELFTEST\n"
            f'#include "{name}.h"\nstatic struct {name}_state state;\n'
            f"int main(void) {{ return {name}_selftest(&state); }}\n"
        )
        assert subprocess.run([build(tmp_path, "gcc", "-std=c99")]).returncode == 1


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4"])
def test_no_function_of_a_library_is_called(core: str, headers: Path, tmp_path: Path) -> None:
    if shutil.which(ARM) is None:
        pytest.skip(f"{ARM} is not installed")
    options = [f"-mcpu={core}", "-mthumb", "-std=c99", "-ffreestanding", *STRICT, "-x", "c"]
    compiled = str(tmp_path / "odd.o")
    for name in ("odd", "odd_int8"):
        for level in ("-O2", "-Os"):
            define = f"-D{name.upper()}_IMPLEMENTATION"
            command = [ARM, *options, level, define, "-c", str(headers / f"{name}.h")]
            subprocess.run([*command, "-o", compiled], check=True)
            nm = [ARM.replace("gcc", "nm"), "-u", compiled]
            said = subprocess.run(nm, capture_output=True, text=True, check=True)
            called = {line.split()[-1] for line in said.stdout.splitlines()}
            # Arithmetic that the processor lacks comes with the compiler.
            assert not [one for one in called if not re.match("__(aeabi|gnu)_(?!mem)", one)]


def test_the_header_names_licence_version_and_weights(
    odd_network: CompactCNN, headers: Path
) -> None:
    weights = [tensor.numpy().tobytes() for tensor in odd_network.state_dict().values()]
    for name in ("odd", "odd_int8"):
        text = (headers / f"{name}.h").read_text()
        assert text.startswith("/* SPDX-License-Identifier: MIT\n")
        assert f'#define {name.upper()}_VERSION "{version("mnist-lit")}"\n' in text
        assert f" * weights_sha256: {hashlib.sha256(b''.join(weights)).hexdigest()}\n" in text


def test_whole_numbers_give_the_logits_of_the_network(
    odd_network: CompactCNN, headers: Path, mnist: MNISTDataModule
) -> None:
    pixels = mnist.test.images[:300]
    rows = run(build(headers, "gcc", "-std=c99", "-O2"), pixels).splitlines()
    unit = re.search(r"ODD_INT8_LOGIT (\S+)f", (headers / "odd_int8.h").read_text())
    assert unit is not None
    got = torch.tensor([[int(word) for word in row.split()[1:]] for row in rows]) * float(unit[1])
    wanted = classify(odd_network, pixels)
    assert (got - wanted).abs().mean() < 0.05 * wanted.std()
    # The code has no floating-point number.
    text = (headers / "odd_int8.h").read_text()
    code = re.sub(r"#define \w+_(LOGIT|VERSION) [^\n]*|/\*.*?\*/", "", text, flags=re.S)
    assert not re.search(r"float|double|\d\.\d", code)


@pytest.mark.parametrize("name", ["nano", pytest.param("final", marks=pytest.mark.slow)])
def test_digits_are_read_as_by_the_network_in_whole_numbers(
    name: str, mnist: MNISTDataModule
) -> None:
    trained = pretrained.load(name)
    source = Source(*(trained.network, MNIST, 1, 1), calibration=lambda: mnist.train.images[:1000])
    answer, _ = load(make(source, True), source)
    digits = torch.from_numpy(answer(mnist.test.images[:2000].numpy())).argmax(1)
    same = digits == classify(trained.network, mnist.test.images[:2000]).argmax(1)
    assert int((~same).sum()) <= 6


@pytest.mark.usefixtures("few_images")
def test_names_are_made_of_what_is_given(tmp_path: Path) -> None:
    nano = pretrained.load("nano")
    done = export(nano, "c-int8", tmp_path / "3 digits.h")
    assert "int _3_digits_predict(struct _3_digits_state *" in done.path.read_text()
    assert re.fullmatch(r"constants [\d,]+ bytes, memory 1,[45]\d\d bytes", done.notes[0])
    if shutil.which("arm-none-eabi-gcc"):
        assert re.fullmatch(r"flash 6,\d{3} bytes on a Cortex-M3 .*", done.notes[1])
    done = export(nano, "c", tmp_path / "program", name="other")
    assert "#ifdef __cplusplus" in done.path.read_text()
    assert "int other_predict(" in done.path.read_text()


@pytest.mark.usefixtures("few_images")
def test_what_the_engine_cannot_hold_is_said(mnist: MNISTDataModule, tmp_path: Path) -> None:
    torch.manual_seed(0)
    residual = CompactCNN([{"channels": 1, "residual": True}, {"channels": 4}]).eval()
    source = Source(residual, MNIST, 1, 1, calibration=lambda: mnist.train.images[:50])
    with pytest.raises(UserError, match="first block with residual=true cannot be exported to C"):
        make(source, False)
    other = CompactCNN([{"channels": 4}], align=True, paper=1.0).eval()
    with pytest.raises(UserError, match=r"not written: .*: it differs from the network: "):
        export(Trained(other, MNIST), "c", tmp_path / "other.h")


@pytest.mark.slow
@pytest.mark.parametrize("targets", [["m3", "m4"], ["uno"]])
def test_a_microcontroller_gives_the_same_bits(targets: list[str], tmp_path: Path) -> None:
    arm = ("arm-none-eabi-gcc", "qemu-system-arm")
    needed = ("avr-gcc", "simavr") if "uno" in targets else arm
    for tool in needed:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    results = tmp_path / "edge.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "edge.py"), "nano", "--targets", *targets]
    said = subprocess.run([*command, "--output", str(results)], text=True, stdout=subprocess.PIPE)
    assert said.returncode == 0, said.stdout
    for target in targets:
        found = json.loads(results.read_text())["networks"]["nano"][target]
        assert 3_000 < found["flash"] < 13_100
        assert found.get("memory with stack", 0) < 2_000
