"""Training beside other work: milliseconds per step of ``final``, by how long idle threads spin.

``python benchmarks/busy.py`` prints a table and writes ``results/busy.json`` beside it. Each
setting has its own process. The processes train some steps in turns, first alone, then beside other
processes, each of which keeps a core busy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from throughput import BareLoop, conditions

RESULTS = Path(__file__).parent / "results" / "busy.json"
STEPS, BATCH = 30, 384
SETTINGS = {
    "300,000 spins": {"GOMP_SPINCOUNT": "300000"},  # the default of libgomp
    "30,000 spins": {"GOMP_SPINCOUNT": "30000"},
    "3,000 spins": {"GOMP_SPINCOUNT": "3000"},
    "2,000 spins": {"GOMP_SPINCOUNT": "2000"},  # what mnist-lit sets on a busy machine
    "1,000 spins": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default: 9)")
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 2, 6], help="processes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Measure, print and write."""
    options = command_line().parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        trainings = {
            name: stack.enter_context(training(setting)) for name, setting in SETTINGS.items()
        }
        for count in options.busy:
            with busy(count):
                times = found[f"{count} busy processes"] = {name: [] for name in trainings}
                for _ in range(options.rounds):
                    for name, process in trainings.items():
                        times[name].append(milliseconds(process))
    medians = {
        place: {name: round(statistics.median(all_of), 1) for name, all_of in times.items()}
        for place, times in found.items()
    }
    print(f"| | {' | '.join(SETTINGS)} |\n|---{len(SETTINGS) * '|---'}|")
    for place, of in medians.items():
        print(f"| {place} | {' | '.join(map(str, of.values()))} |")
    content = {**conditions(options.rounds), "median_ms": medians, "ms": found}
    options.output.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def training(setting: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that trains some steps for each line of its standard input."""
    given = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in given}
    with subprocess.Popen(
        [sys.executable, "-c", "import busy; busy.steps()"],
        cwd=Path(__file__).parent,
        env={**inherited, **setting},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        milliseconds(process)  # to warm up
        yield process
        process.kill()


def milliseconds(process: "subprocess.Popen[str]") -> float:
    """Let the process train some steps; return the milliseconds per step."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


def steps() -> None:
    """Train some steps for each line of standard input; print the milliseconds per step."""
    loop = BareLoop(images=STEPS * BATCH, batch_size=BATCH)
    loop.test = loop.test.subset(loop.test.labels[:1])
    for _ in sys.stdin:
        print(1000 * loop.epoch()["training"] / STEPS, flush=True)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` busy processes."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
