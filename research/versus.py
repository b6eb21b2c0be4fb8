"""Compare the training speed of this checkout with another one.

python research/versus.py OTHER-CHECKOUT      # results/versus.json

Each checkout has a process; the two train some steps in turns, for several shipped networks and
batch sizes. Each ratio is of two neighbouring turns, so that it does not depend on the speed of the
machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "versus.json"
# Network, batch size, steps of a turn.
RUNS = (("final", 384, 40), ("small", 64, 80), ("tiny", 64, 160), ("nano", 32, 300))
WORKER = """
import contextlib, io, json, sys, tempfile
import mnist_lit
from clock import Clock
print("ready", flush=True)
for line in sys.stdin:
    name, size, steps = json.loads(line)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        mnist_lit.train(
            mnist_lit.compose(
                f"experiment={name}", "trainer=cpu", "trainer.max_epochs=1", "test=false",
                f"data.batch_size={size}", f"trainer.limit_train_batches={steps}",
                "trainer.limit_val_batches=1", "requirements.enforce=false",
                "callbacks.clock._target_=clock.Clock", f"run_dir={folder}", *sys.argv[1:],
            )
        )
    print(json.dumps(Clock.training[0]), flush=True)
"""


class Worker:
    """A process that trains with the code of a checkout.

    Args:
        checkout: Folder of the checkout.
        overrides: Additional overrides of its config.
    """

    def __init__(self, checkout: Path, overrides: Sequence[str] = ()) -> None:
        paths = f"{checkout / 'src'}:{ROOT / 'benchmarks'}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *overrides],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": paths},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.read()

    def read(self) -> str:
        """Return the next line of its output."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a training has failed")
        return line

    def seconds(self, run: tuple[str, int, int]) -> float:
        """Train the steps of a run; return the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(run) + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.read()))


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    parser.add_argument("--here", nargs="*", default=[], help="overrides for this checkout alone")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default: 15)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Train in turns and print the ratios."""
    options = command_line().parse_args()
    workers = {"now": Worker(ROOT, options.here), "before": Worker(options.other.resolve())}
    turns: dict[str, dict[str, list[float]]] = {}
    for turn in tqdm(range(options.rounds + 1), unit="round", disable=None):
        for run in RUNS:
            # Alternate the order: the first of the two may have a faster machine, or a slower one.
            order = list(workers)[:: 1 if turn % 2 else -1]
            took = {name: workers[name].seconds(run) for name in order}
            if turn:
                found = turns.setdefault(f"{run[0]}, {run[1]}", {name: [] for name in workers})
                for name, seconds in took.items():
                    found[name].append(1000 * seconds / run[2])
    results: dict[str, Any] = {"turns, ms a step": turns, "table": {}}
    print("| network, batch | before, ms a step | now | speed now / before | quartiles |")
    print("|---|---|---|---|---|")
    for name, found in turns.items():
        ratios = [b / n for b, n in zip(found["before"], found["now"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        before, now = (statistics.median(found[which]) for which in ("before", "now"))
        results["table"][name] = {"before": before, "now": now, "ratio": middle}
        print(f"| {name} | {before:.2f} | {now:.2f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
