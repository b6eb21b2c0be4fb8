"""Accuracy of a recipe over seeds, by a sweep of ``python train.py``.

python benchmarks/accuracy.py final --seeds 10         # on the 60,000: results/accuracy/final.json
python benchmarks/accuracy.py final --holdout optimizer.lr=0.3        # a trial: a line of the log
python benchmarks/accuracy.py --report                 # the table of docs/results.md

Each seed is a job of the sweep with one thread. After an interruption the same command keeps the
finished seeds and resumes the others.

The result is the accuracy of the last epoch, which is not picked. ``--ship`` puts seed 0 of a
measured experiment into the package, for ``mnist_lit.load_pretrained``. With ``--holdout``, every
seed holds out 5,000 other training images (``data.split_seed`` is the seed), and the test accuracy
in its report is neither read nor logged. Every trial adds a line to ``results/holdout.jsonl``.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf
from scipy.stats import sem
from scipy.stats import t as students_t

from mnist_lit import compose
from mnist_lit.config.check import parse
from mnist_lit.config.lines import errors_as_lines

# Modules that need torch are imported where they are used: this mostly waits for its sweep.
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OF_ALL = ("protocol", "device", "precision", "versions", "parameters", "epochs")
OF_EACH = (
    *("seed", "last_val_accuracy", "last_val_loss", "best_val_accuracy", "best_val_loss"),
    *("best_epoch", "last_train_loss", "passed", "wall_seconds", "git_commit"),
)


def settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the config that the overrides give, checked, without seed and folder."""
    composed = compose(*words, "seed=0", "run_dir=unused")
    parse(composed)
    config = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items() if key not in ("seed", "run_dir")}


def train(words: Sequence[str], sweep: Path, seeds: int, jobs: int) -> list[dict[str, Any]]:
    """Train the seeds that are not finished; return the report and the folder of every seed."""
    command = [sys.executable, "train.py", "-m", *words, f"seed=range(0,{seeds})"]
    command += ["hydra/launcher=processes", f"hydra.launcher.n_jobs={jobs}"]
    # It exits with 1 if a requirement is missed; that is a valid result.
    done = subprocess.run(
        [*command, f"hydra.sweep.dir={sweep}"], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    files = sweep.glob("[0-9]*/report.json")
    read = [json.loads(file.read_text("utf-8")) | {"folder": file.parent} for file in files]
    reports = {report["seed"]: report for report in read}
    if not set(range(seeds)) <= set(reports):
        raise SystemExit(done.returncode)  # the sweep has printed why
    return [reports[seed] for seed in range(seeds)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean (Student's t)."""
    low, high = students_t.interval(0.95, len(values) - 1, mean(values), sem(values))
    return float(low), float(high)


def summarise(name: str, config: dict[str, Any], reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of an experiment, as ``results/accuracy/`` keeps it."""
    last = [report["last_val_accuracy"] for report in reports]
    return {
        "experiment": name,
        "command": f"python benchmarks/accuracy.py {name} --seeds {len(reports)}",
        "date": date.today().isoformat(),
        **{key: reports[0][key] for key in OF_ALL},
        "last_val_accuracy": {
            "n": len(last),
            "mean": mean(last),
            "standard_deviation": stdev(last),
            "interval_95": interval(last),
            "lowest": min(last),
        },
        "pass_rate": mean(report["passed"] for report in reports),
        "seeds": [
            {**{key: report[key] for key in OF_EACH}, "mistakes": mistakes(report["folder"])}
            for report in reports
        ],
        "config": config,
    }


def mistakes(run: Path) -> list[tuple[int, int]]:
    """Return positions of the test digits that a run's last epoch misreads, and its answers."""
    from mnist_lit import MNISTDataModule
    from mnist_lit.checkpoints import pretrained
    from mnist_lit.evaluation.evaluate import evaluate

    network = pretrained.load(run / "checkpoints" / "last.ckpt").network
    found = evaluate(network, MNISTDataModule().images("test"))
    wrong = (found.predictions != found.labels).nonzero().flatten()
    return list(zip(wrong.tolist(), found.predictions[wrong].tolist(), strict=True))


def log_trial(
    output: Path, name: str, overrides: list[str], reports: list[dict[str, Any]]
) -> dict[str, Any]:
    """Add a trial's line to the log of trials, and return it."""
    each = {key: [report[key] for report in reports] for key in OF_EACH}
    line = {
        "experiment": name,
        "overrides": overrides,
        "date": date.today().isoformat(),
        "parameters": reports[0]["parameters"],
        "mean_val_accuracy": mean(each["last_val_accuracy"]),
        "mean_val_loss": mean(each["last_val_loss"]),
        "mean_train_loss": mean(each["last_train_loss"]),
        "val_accuracy": each["last_val_accuracy"],
        "val_loss": each["last_val_loss"],
        "wall_seconds": mean(each["wall_seconds"]),
        "git_commit": reports[0]["git_commit"],
    }
    with (output / "holdout.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    return line


def ship(name: str, report: dict[str, Any]) -> None:
    """Put the last epoch of a run into the package, with a record of its results."""
    from mnist_lit.checkpoints.pretrained import WEIGHTS
    from mnist_lit.checkpoints.read import read_file
    from mnist_lit.checkpoints.write import packed
    from mnist_lit.files import write_bytes

    record = {
        "experiment": name,
        "epoch": report["epochs"],
        "test_correct": round(report["last_val_accuracy"] * report["test_total"]),
        **{key: report[key] for key in ("seed", "parameters", "protocol", "test_total")},
    }
    whole = read_file(report["folder"] / "checkpoints" / "last.ckpt")
    kept = {key: whole[key] for key in ("hyper_parameters", "state_dict")}
    write_bytes(WEIGHTS / f"{name}.ckpt", packed({**kept, "record": record}))


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read the results of all experiments, most parameters first."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("accuracy/*.json"))]
    return sorted(found, key=lambda result: (-result["parameters"], result["experiment"]))


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of the results, as in ``docs/results.md``."""
    lines = [
        "| experiment | parameters | last epoch, mean ± s.d. | 95 % interval | lowest | passed |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        last = result["last_val_accuracy"]
        low, high = last["interval_95"]
        lines.append(
            f"| `{result['experiment']}` | {result['parameters']:,} "
            f"| **{100 * last['mean']:.3f}** ± {100 * last['standard_deviation']:.3f} "
            f"| {100 * low:.2f} to {100 * high:.2f} | {100 * last['lowest']:.2f} "
            f"| {round(result['pass_rate'] * last['n'])} of {last['n']} |"
        )
    return "\n".join(lines)


def hardest(results: Sequence[dict[str, Any]]) -> dict[int, list[int]]:
    """Return the test digits that at least nine of ten trainings misread, most often first.

    The trainings are all seeds of all experiments. The keys are positions of digits, the values the
    wrong answers.
    """
    trainings = [dict(seed["mistakes"]) for result in results for seed in result["seeds"]]
    often = Counter(position for mistakes in trainings for position in mistakes)
    most = sorted((-count, p) for p, count in often.items() if count >= 0.9 * len(trainings))
    return {p: [mistakes[p] for mistakes in trainings if p in mistakes] for _, p in most}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", help="names in conf/experiment")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 (default: 10)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="at a time (default: cores)"
    )
    parser.add_argument("--holdout", action="store_true", help="a trial on held-out images")
    parser.add_argument("--ship", action="store_true", help="put seed 0 into the package")
    parser.add_argument("--report", action="store_true", help="print the table")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Measure the experiments of the command line, or print the results so far."""
    parser = command_line()
    options = parser.parse_intermixed_args()
    names = [word for word in options.experiments if "=" not in word]
    overrides = [word for word in options.experiments if "=" in word]
    if options.seeds < 2:
        parser.error("--seeds: at least 2 are needed for a standard deviation")
    if options.ship and options.holdout:
        parser.error("--ship: not with --holdout, which does not measure on the test images")
    if overrides and not options.holdout:
        parser.error(f"{overrides[0]}: only a trial (--holdout) may change an experiment")
    if not names and not options.report:
        parser.error("name an experiment of conf/experiment, or ask for --report")
    split = ["data=mnist_holdout", "data.split_seed=${seed}"] if options.holdout else []
    words = {name: [f"experiment={name}", *split, *overrides] for name in names}
    with errors_as_lines():
        configs = {name: settings(words[name]) for name in names}
    (options.output / "accuracy").mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:10]
        sweep = (options.output / "runs" / f"{name}-{digest}").resolve()
        reports = train(words[name], sweep, options.seeds, options.jobs)
        if options.holdout:
            line = log_trial(options.output, name, overrides, reports)
            print(
                f"{name} {shlex.join(overrides)}: held-out accuracy "
                f"{line['mean_val_accuracy']:.3%}, loss {line['mean_val_loss']:.4f}"
            )
            continue
        result = summarise(name, config, reports)
        path = options.output / "accuracy" / f"{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(table([result]))
        if options.ship:
            ship(name, reports[0])
    if options.report:
        results = load_results(options.output)
        print(table(results))
        trainings = sum(len(result["seeds"]) for result in results)
        for position, readings in hardest(results).items():
            print(f"test digit {position} is misread by {len(readings)} of {trainings} trainings")


if __name__ == "__main__":
    main()
