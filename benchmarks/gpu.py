"""Time recipes on a GPU, with and without CUDA graphs.

``python benchmarks/gpu.py final nano`` adds to ``results/gpu.json`` and prints a table. Each
training is a separate ``python train.py trainer=gpu`` with held-out images; both ways run in turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "gpu.json"
WAYS = {"": (), ", compile": ("compile=reduce-overhead",)}


def run(words: tuple[str, ...]) -> dict[str, Any]:
    """Train once, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        said = subprocess.run(
            [
                *(sys.executable, str(ROOT / "train.py"), "trainer=gpu", "data=mnist_holdout"),
                *(*words, "test=false", "requirements.enforce=false"),
                f"hydra.run.dir={folder}/run",
            ],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        whole = time.monotonic() - began
        if said.returncode:
            raise SystemExit(said.stdout)
        report = json.loads(Path(folder, "run/report.json").read_text())
        last = torch.load(Path(folder, "run/checkpoints/last.ckpt"), weights_only=True)
    return {
        "process_seconds": round(whole, 1),
        "fit_seconds": round(report["wall_seconds"], 2),
        "images_per_second": round(report["train_images_per_second"]),
        "last_accuracy": report["last_val_accuracy"],
        "epoch_seconds": [
            round(row["seconds"], 2) for row in last["callbacks"]["History"]["epochs"]
        ],
        "device": report["device"],
        "precision": report["precision"],
        "torch": report["versions"]["torch"],
    }


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", default=["final"], help="default: final")
    parser.add_argument("--epochs", type=int, default=20, help="default: 20")
    parser.add_argument("--turns", type=int, default=3, help="default: 3")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Train both ways in turns."""
    options = command_line().parse_args()
    runs = {
        f"{experiment}{way}": (
            *(f"experiment={experiment}", f"trainer.max_epochs={options.epochs}"),
            *words,
        )
        for experiment in options.experiments
        for way, words in WAYS.items()
    }
    kept = json.loads(options.output.read_text()) if options.output.exists() else {}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for _ in range(options.turns):
        for name, words in runs.items():
            found[name].append(run(words))
            print(name, found[name][-1], flush=True)
            options.output.write_text(json.dumps(kept | found, indent=1) + "\n")
    print("\n| run | start to end | training | images a second | last accuracy |")
    print("|---|---|---|---|---|")
    for name, turns in found.items():
        whole, fit, rate = (
            statistics.median(turn[key] for turn in turns)
            for key in ("process_seconds", "fit_seconds", "images_per_second")
        )
        accuracy = ", ".join(f"{turn['last_accuracy']:.2%}" for turn in turns)
        print(f"| {name} | {whole:.1f} s | {fit:.1f} s | {rate:,.0f} | {accuracy} |")


if __name__ == "__main__":
    main()
