"""Cost of the integer C code on small processors, and a check that it gives the PC's bits there.

``python benchmarks/edge.py`` exports the shipped networks to C and builds them for Cortex-M0+, M3,
M4, M7, M33, rv32 and rv32ec (CH32V003), the smallest also for an Arduino Uno. It runs them under
QEMU and simavr on 100 test digits, prints flash, memory and instructions of each, and writes
``results/edge.json`` beside it. The target ``ppc``, PowerPC, is big-endian; it reads all test
digits. If a bit differs from the PC's, it ends with an error. ``python benchmarks/edge.py nano
--targets m3 uno`` selects network and targets. With ``--sanitize``, the float and int8 code reads
all test digits on the PC instead, while gcc's sanitizers look for wrong addresses and undefined
behaviour. All is compiled with ``-O2`` and needs ``apt-get install gcc-arm-none-eabi
gcc-riscv64-unknown-elf gcc-avr avr-libc qemu-system-arm qemu-system-misc simavr
gcc-powerpc-linux-gnu libc6-dev-powerpc-cross qemu-user``.

``--peers bitnetmcu=FOLDER tinymaix=FOLDER`` compares five networks with those of checkouts of
BitNetMCU and TinyMaix (see ``peers.py``), built with the same start code and flags. All test digits
are read on the PC as they are, moved by 4 pixels up, down, left or right, and turned by 15 degrees
left or right.

Flash and memory are the difference to an empty program; the stack is separate. Instructions are
QEMU's: one per nanosecond of its clock, which is read every 40; the median of 100 digits.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import peers
from accuracy import ROOT
from numpy import ndarray
from peers import Peer
from PIL import Image

from mnist_lit import MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.export.run import export

Row = dict[str, Any]
SOURCES = ROOT / "benchmarks" / "edge"
RESULTS = ROOT / "benchmarks" / "results" / "edge.json"
DIGITS = 100
PEER_TARGETS = ("m3", "m4", "rv32ec")
COMPARED = ("pico", "nano", "micro", "tiny", "final")  # with networks of others
UNO_DIGITS = 10  # of a program; more do not fit into its flash
ARM = "arm-none-eabi-gcc -mthumb -mcpu=cortex-"
BARE = "-std=c99 -O2 -ffunction-sections -fdata-sections -Wl,--gc-sections -nostartfiles -nostdlib"
BARE += " -fno-tree-loop-distribute-patterns"


@dataclass(frozen=True)
class Target:
    """A processor: its compiler, its emulator, and the instructions of a tick."""

    compiler: str
    emulator: str
    tick: int


def _cortex(core: str, machine: str, *, tick: int = 40, flash: int = 0, ram: int = 2**29) -> Target:
    run = f"qemu-system-arm -M {machine} -nographic -icount shift=0,sleep=off "
    run += "-semihosting-config enable=on,target=native -kernel"
    memory = f"-Wl,--defsym=FLASH={flash},--defsym=RAM={ram}"
    return Target(f"{ARM}{core} {BARE} {memory}", run, tick)


def _risc(arch: str, abi: str) -> Target:
    compiler = f"riscv64-unknown-elf-gcc -march={arch} -mabi={abi} -ffreestanding {BARE}"
    compiler += " -isystem /usr/include/newlib"  # <stdio.h>, for networks of others
    run = "qemu-system-riscv32 -M virt -bios none -nographic -icount shift=0,sleep=off -kernel"
    return Target(compiler, run, 1)


TARGETS = {
    "m0+": _cortex("m0plus", "mps2-an385"),
    "m3": _cortex("m3", "mps2-an385"),
    "m4": _cortex("m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16", "mps2-an386"),
    "m7": _cortex("m7 -mfloat-abi=hard -mfpu=fpv5-sp-d16", "mps2-an500"),
    # The secure half of a Cortex-M33, with a clock of 20 MHz.
    "m33": _cortex(
        "m33 -mfloat-abi=hard -mfpu=fpv5-sp-d16",
        "mps2-an505",
        tick=50,
        flash=0x10000000,
        ram=0x38000000,
    ),
    "rv32": _risc("rv32imac", "ilp32"),
    "rv32ec": _risc("rv32ec", "ilp32e"),  # 16 registers, no multiplier
}
SANITIZED = "gcc -std=c99 -O1 -Wall -Wextra -Wpedantic -Wconversion -Werror"
SANITIZED += " -fsanitize=address,undefined -fno-sanitize-recover=all"
PPC = "powerpc-linux-gnu-gcc -static -O2"
STREAMED = np.dtype([("digit", "u1"), ("logits", "<u4", 10)])
UNO = "avr-gcc -mmcu=atmega328p -std=gnu99 -Os -ffunction-sections -fdata-sections"
UNO += " -Wl,--gc-sections"


def build(command: str, name: str, folder: Path, output: Path, *words: str) -> None:
    """Compile a network for a target."""
    defined = [f"-I{folder}", f"-DNAME={name}", f"-D{name.upper()}_IMPLEMENTATION"]
    defined.append(f'-DNETWORK="{folder / name}.h"')
    done = subprocess.run(
        [*command.split(), *defined, *words, "-o", str(output)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stderr}")


def write_digits(path: Path, images: ndarray, place: str = "") -> None:
    """Write images as a header."""
    rows = ["{" + ",".join(map(str, image.ravel())) + "}" for image in images]
    text = f"#define COUNT {len(images)}\n"
    text += f"static const uint8_t pixels[COUNT][{images[0].size}] {place} = "
    path.write_text(text + "{\n" + ",\n".join(rows) + "};\n")


def answers(text: str) -> list[list[int]]:
    """Return the printed row of each digit: the digit, ticks, ten logits."""
    rows = [[int(word, 16) for word in line.split()] for line in text.splitlines()]
    return [row for row in rows if len(row) == 12]


def size(tool: str, program: Path) -> ndarray:
    """Return flash and memory of a program, in bytes, without its stack."""
    said = subprocess.run([tool, str(program)], capture_output=True, text=True, check=True)
    text, data, zeros = map(int, said.stdout.splitlines()[1].split()[:3])
    return np.array([text + data, data + zeros])


def on_pc(name: str, folder: Path) -> list[list[int]]:
    """Return the answers of the PC."""
    program = folder / f"{name}-pc"
    around = folder / "pc.c"
    around.write_text(
        "#include <stdint.h>\n#include <stdio.h>\nvoid begin(void) {}\n"
        "uint32_t passed(void) { return 0; }\nvoid say(const char *t) { fputs(t, stdout); }\n"
    )
    sources = [str(SOURCES / "main.c"), str(around), f'-DDIGITS="{folder}/digits.h"']
    build("gcc -O2", name, folder, program, *sources)
    return answers(subprocess.run([program], capture_output=True, text=True, check=True).stdout)


def measure(name: str, key: str, folder: Path, wanted: list[list[int]]) -> dict[str, Any]:
    """Build and run a network on a target."""
    target = TARGETS[key]
    kind = "riscv" if key.startswith("rv") else "arm"
    tool = target.compiler.split("-gcc")[0] + "-size"
    rest = [
        str(SOURCES / f"{kind}.c"),
        str(SOURCES / "memory.c"),
        "-T",
        str(SOURCES / f"{kind}.ld"),
        "-lgcc",
    ]
    sizes = []
    for words in (["-DNOTHING"], []):
        program = folder / "sized"
        build(target.compiler, name, folder, program, str(SOURCES / "main.c"), *rest, *words)
        sizes.append(size(tool, program))
    program = folder / "run"
    given = f'-DDIGITS="{folder}/digits.h"'
    build(target.compiler, name, folder, program, str(SOURCES / "main.c"), *rest, given)
    said = subprocess.run(
        [*target.emulator.split(), str(program)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    got = answers(said.stdout + said.stderr)
    same = [row[:1] + row[2:] for row in got] == [row[:1] + row[2:] for row in wanted]
    if not same:
        raise SystemExit(f"{name} on {key}: not the bits of the PC\n{said.stdout}{said.stderr}")
    flash, memory = (sizes[1] - sizes[0]).tolist()
    stack = int(said.stdout.split()[-1] if said.stdout else said.stderr.split()[-1], 16)
    ticks = round(statistics.median(row[1] for row in got) * target.tick)
    memory -= 4  # a pointer of main.c
    return {"flash": flash, "memory": memory, "stack": stack, "instructions": ticks}


def on_uno(name: str, folder: Path, images: ndarray, wanted: list[list[int]]) -> dict[str, Any]:
    """Build and run a network on an Arduino Uno, some digits at a time."""
    program = folder / "uno.elf"
    got, unused = [], []
    for start in range(0, DIGITS, UNO_DIGITS):
        write_digits(folder / "uno.h", images[start : start + UNO_DIGITS], "PROGMEM")
        build(UNO, name, folder, program, str(SOURCES / "uno.c"), f'-DDIGITS="{folder}/uno.h"')
        said = subprocess.run(
            ["simavr", "-m", "atmega328p", "-f", "16000000", str(program)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        lines = (said.stdout + said.stderr).replace("\x1b[32m", "").replace("\x1b[0m", "")
        rows = [line.rstrip(".").split() for line in lines.splitlines()]
        got += [[int(word, 16) for word in row] for row in rows if len(row) == 12]
        unused += [int(row[0], 16) for row in rows if len(row) == 1 and len(row[0]) == 8]
    if [r[:1] + r[2:] for r in got] != [r[:1] + r[2:] for r in wanted]:
        raise SystemExit(f"{name} on uno: not the bits of the PC\n{lines}")
    flash = int(size("avr-size", program)[0]) - UNO_DIGITS * 784
    seconds = statistics.median(row[1] for row in got) * 1024 / 16e6
    return {"flash": flash, "memory with stack": 2048 - min(unused), "seconds": round(seconds, 2)}


def stream(
    command: str, name: str, folder: Path, images: ndarray, logit: str, emulator: Sequence[str] = ()
) -> ndarray:
    """Return a network's answers: an array with the fields ``digit`` and ``logits``, their bits."""
    program = folder / "stream"
    words = [str(SOURCES / "stream.c"), f"-DLOGIT={logit}", f"-DSIZE={images[0].size}"]
    build(command, name, folder, program, *words)
    said = subprocess.run([*emulator, str(program)], input=images.tobytes(), capture_output=True)
    if said.returncode:
        raise SystemExit(f"{name}: {said.stderr.decode()}")
    return np.frombuffer(said.stdout, STREAMED)


def on_ppc(name: str, folder: Path, images: ndarray) -> dict[str, Any]:
    """Build and run a network on PowerPC."""
    rest = name, folder, images, "int32_t"
    if stream(PPC, *rest, ["qemu-ppc"]).tobytes() != stream("gcc -O2", *rest).tobytes():
        raise SystemExit(f"{name} on ppc: not the bits of the PC")
    return {"digits": len(images)}


def correct(found: ndarray, labels: ndarray) -> int:
    """Return how many digits are right."""
    return int((found["digit"] == labels).sum())


def sanitize(network: str, folder: Path, images: ndarray, labels: ndarray) -> list[str]:
    """Read images with the code compiled with sanitizers."""
    done_with = []
    for form, logit in (("c", "float"), ("c-int8", "int32_t")):
        name = f"{network}-{form}".replace("-", "_")
        done = export(pretrained.load(network), form, folder / f"{name}.h")
        right = correct(stream(SANITIZED, name, folder, images, logit), labels)
        if right != done.correct:
            raise SystemExit(f"{network} to {form}: {right:,} right, not {done.correct:,}")
        done_with.append(f"{form}: {len(images):,} digits")
        print(f"{network} to {done_with[-1]}, nothing found", flush=True)
    return done_with


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help="default: all; with --peers, five"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument(
        "--targets", nargs="+", choices=[*TARGETS, "uno", "ppc"], help="default: all"
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME=FOLDER",
        help="compare with the networks of checkouts: bitnetmcu=FOLDER, tinymaix=FOLDER",
    )
    parser.add_argument("--sanitize", action="store_true", help="look for undefined behaviour")
    return parser


def altered(images: ndarray) -> dict[str, ndarray]:
    """Return images, the same moved by 4 pixels along an axis, and turned by 15 degrees."""
    rng = np.random.default_rng(0)
    wide = np.pad(images, ((0, 0), (4, 4), (4, 4)))
    ways = np.array([(0, 4), (8, 4), (4, 0), (4, 8)])[rng.integers(4, size=len(images))]
    moved = [one[y : y + 28, x : x + 28] for one, (y, x) in zip(wide, ways, strict=True)]
    degrees = rng.choice([-15, 15], len(images))
    turned = [
        np.asarray(Image.fromarray(one).rotate(angle, Image.Resampling.BILINEAR))
        for one, angle in zip(images, degrees, strict=True)
    ]
    return {"right": images, "moved": np.stack(moved), "turned": np.stack(turned)}


def measure_peer(peer: Peer, folder: Path, versions: dict[str, ndarray], labels: ndarray) -> Row:
    """Build a network, read all digits on the PC and some on each target."""
    for file, header in peer.headers.items():
        (folder / file).write_text(header)
    found: Row = {}
    for key, images in versions.items():
        pixels = peer.prepare(images)
        if key == "right":
            write_digits(folder / "digits.h", pixels[:DIGITS])
        found[key] = correct(stream("gcc -O2", peer.name, folder, pixels, "int32_t"), labels)
    wanted = on_pc(peer.name, folder)
    for key in PEER_TARGETS:
        found[key] = measure(peer.name, key, folder, wanted)
    small = found["m3"]
    found |= {"flash": small["flash"], "ram": small["memory"] + small["stack"]}
    return found


def measure_peers(
    networks: Sequence[str], others: list[Peer], folder: Path, images: ndarray, labels: ndarray
) -> dict[str, Row]:
    """Measure our networks and others, and print a table of them."""
    ours = []
    for network in networks:
        header = folder / f"{network.replace('-', '_')}.h"
        export(pretrained.load(network), "c-int8", header)
        ours.append(Peer(header.stem, {}, lambda pixels: pixels))
    versions, found = altered(images), {}
    for peer in [*ours, *others]:
        found[peer.name] = measure_peer(peer, folder, versions, labels)
        print(f"{peer.name}: {found[peer.name]}", flush=True)
    columns = ["right", "moved", "turned", "flash", "ram", *PEER_TARGETS]
    print("| network | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name, row in sorted(found.items(), key=lambda item: -item[1]["right"]):
        cells = [f"{row[key]:,}" for key in columns[:5]]
        cells += [f"{row[key]['instructions'] / 1e6:.2f}" for key in PEER_TARGETS]
        print(f"| `{name}` | " + " | ".join(cells) + " |")
    for peer in ours:
        print(f"{peer.name}: {places(found, peer.name)}")
    return found


def places(found: dict[str, Row], name: str) -> str:
    """Return the place of a network among all, by each measure."""
    kinds = ("accuracy", "flash", "memory", "instructions on a Cortex-M3")
    all_of = [(-r["right"], r["flash"], r["ram"], r["m3"]["instructions"]) for r in found.values()]
    own = all_of[list(found).index(name)]
    better = [sum(row[i] < own[i] for row in all_of) for i in range(len(kinds))]
    return ", ".join(f"{n + 1} of {len(found)} by {k}" for n, k in zip(better, kinds, strict=True))


def measure_network(
    network: str, targets: Sequence[str], folder: Path, images: ndarray
) -> dict[str, Any]:
    """Export a network, and build and run it on each target."""
    name = network.replace("-", "_")
    done = export(pretrained.load(network), "c-int8", folder / f"{name}.h")
    wanted = on_pc(name, folder)
    found: dict[str, Any] = {"right": done.correct, "network": done.reference}
    found["said"] = done.notes[0]
    for key in targets:
        if key == "uno":
            if network in ("nano", "pico"):
                found[key] = on_uno(name, folder, images[:DIGITS], wanted)
        elif key == "ppc":
            found[key] = on_ppc(name, folder, images)
        else:
            found[key] = measure(name, key, folder, wanted)
        if key in found:
            print(f"{network:<18}{key:<5}{found[key]}", flush=True)
    return found


def main() -> None:
    """Measure."""
    options = command_line().parse_args()
    others = peers.load(options.peers or [])
    targets = [] if options.sanitize else options.targets or [*TARGETS, "uno", "ppc"]
    for tool in {TARGETS[key].compiler.split()[0] for key in targets if key in TARGETS}:
        if shutil.which(tool) is None:
            sys.exit(f"error: {tool} is not installed; see the top of {Path(__file__).name}")
    test = MNISTDataModule().images("test")
    pixels, labels = test.images[:, 0].numpy(), test.labels.numpy()
    results = (
        json.loads(options.output.read_text()) if options.output.is_file() else {"networks": {}}
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_digits(folder / "digits.h", pixels[:DIGITS])
        if others:
            names = options.networks or COMPARED
            results["peers"] = {
                "command": "python benchmarks/edge.py --peers bitnetmcu=FOLDER tinymaix=FOLDER",
                "date": date.today().isoformat(),
                "networks": measure_peers(names, others, folder, pixels, labels),
            }
        for network in [] if others else options.networks or pretrained.names():
            if options.sanitize:
                found = {"sanitized": sanitize(network, folder, pixels, labels)}
            else:
                found = measure_network(network, targets, folder, pixels)
                print(f"{network}: {found['said']}; {found['right']:,} ({found['network']:,})")
            results["networks"].setdefault(network, {}).update(found)
    if not others:
        results |= {"command": "python benchmarks/edge.py", "date": date.today().isoformat()}
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
