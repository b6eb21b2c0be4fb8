"""Accuracy of a recipe over seeds, through ``python train.py`` itself.

python benchmarks/accuracy.py final --seeds 10         # on the 60,000: results/accuracy/final.json
python benchmarks/accuracy.py final --holdout optimizer.lr=0.3        # a trial: a line of the log
python benchmarks/accuracy.py --report                 # the table of docs/results.md

Each seed is a process with one thread, several at a time. A killed benchmark goes on where it was:
finished seeds are kept, and unfinished ones are resumed from their last epoch.

The accuracy that counts is that of the last epoch, which nothing selected. With ``--ship`` seed 0
of a measured experiment is put into the package, for ``mnist_lit.load_pretrained``; nothing else
changes the weights there. With ``--holdout`` every seed keeps 5,000 other training images out
(``data.split_seed`` is the seed); what its report says of the test images is neither read nor
logged. One line for each trial goes to ``results/holdout.jsonl``, whatever came of it.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf
from scipy.stats import t as students_t
from tqdm import tqdm

from mnist_lit import compose
from mnist_lit.config.check import parse
from mnist_lit.config.lines import errors_as_lines

# What needs torch is imported where it is used: most of the time this waits for its processes.
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KEPT = (
    *("seed", "last_val_accuracy", "last_val_loss", "best_val_accuracy", "best_val_loss"),
    *("best_epoch", "last_train_loss", "passed", "wall_seconds", "git_commit"),
)
# What others report for one network: from, to how many parameters and how many %.
PUBLIC_MARKS = (
    ("many restarts", (697, 697), (99.03, 99.03)),
    ("75 epochs", (1_936, 1_936), (99.1, 99.1)),
    ("picked by test accuracy", (7_000, 9_000), (99.4, 99.5)),
    ("150 epochs", (1_000_000, 1_500_000), (99.7, 99.8)),
)


@dataclass(frozen=True)
class Recipe:
    """A named experiment, perhaps with changes, under one protocol; runs are kept in a folder."""

    experiment: str
    overrides: tuple[str, ...]
    holdout: bool
    runs: Path

    def arguments(self, seed: int) -> list[str]:
        """Return what ``train.py`` is given."""
        split = ["data=mnist_holdout", f"data.split_seed={seed}"] if self.holdout else []
        return [f"experiment={self.experiment}", *split, *self.overrides, f"seed={seed}"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the composed config, without what differs from seed to seed."""
        composed = compose(*self.arguments(0), "run_dir=unused")
        config = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(config, dict)
        for differs in ("seed", "run_dir"):
            del config[differs]
        return {str(key): value for key, value in config.items()}

    def folder(self, seed: int) -> Path:
        """Return where a seed is trained; another config has another folder."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        return self.runs / f"{self.experiment}-{digest[:10]}" / f"seed-{seed}"


def train_seed(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train one seed, or what is left of it, and return its report."""
    folder = recipe.folder(seed)
    report = folder / "report.json"
    if not report.is_file():
        last = folder / "checkpoints" / "last.ckpt"
        resume = [f"ckpt_path={last}"] if last.is_file() else []
        command = [sys.executable, "train.py", *recipe.arguments(seed), *resume]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a") as log:
            # It exits with 1 where a requirement is missed, which is a result like any other.
            subprocess.run(
                [*command, f"hydra.run.dir={folder}"],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        if not report.is_file():
            raise SystemExit(f"error: {shlex.join(command)} failed; see {folder / 'log.txt'}")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def measure(recipes: Sequence[Recipe], seeds: int, jobs: int) -> Iterator[tuple[Recipe, list[Any]]]:
    """Train all seeds of all recipes, several at a time; yields each recipe when it is done."""
    reports: dict[Recipe, list[Any]] = {recipe: [] for recipe in recipes}
    with errors_as_lines():
        for recipe in recipes:
            parse(OmegaConf.create({**recipe.config, "seed": 0, "run_dir": "unused"}))
    with ThreadPoolExecutor(jobs) as pool:
        tasks = {
            pool.submit(train_seed, recipe, seed): recipe
            for recipe in recipes
            for seed in range(seeds)
        }
        try:
            for task in tqdm(as_completed(tasks), total=len(tasks), unit="seed", disable=None):
                recipe = tasks[task]
                reports[recipe].append(task.result())
                if len(reports[recipe]) == seeds:
                    yield recipe, sorted(reports[recipe], key=lambda report: report["seed"])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean (Student's t)."""
    half = students_t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def summarise(recipe: Recipe, reports: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """Gather the seeds of a recipe."""
    last = [report["last_val_accuracy"] for report in reports]
    first = reports[0]
    return {
        "experiment": recipe.experiment,
        "command": command,
        "date": date.today().isoformat(),
        "protocol": first["protocol"],
        "device": first["device"],
        "precision": first["precision"],
        "versions": first["versions"],
        "parameters": first["parameters"],
        "epochs": first["epochs"],
        "last_val_accuracy": {
            "n": len(last),
            "mean": mean(last),
            "standard_deviation": stdev(last),
            "interval_95": interval(last),
            "lowest": min(last),
        },
        "pass_rate": mean(report["passed"] for report in reports),
        "seeds": [
            {**{key: report[key] for key in KEPT}, "mistakes": mistakes(recipe, report["seed"])}
            for report in reports
        ],
        "config": recipe.config,
    }


def mistakes(recipe: Recipe, seed: int) -> list[tuple[int, int]]:
    """Return the positions of the test digits that a seed's last epoch reads wrong, and as what."""
    from mnist_lit import MNISTDataModule
    from mnist_lit.checkpoints import pretrained
    from mnist_lit.evaluation.evaluate import evaluate

    last = recipe.folder(seed) / "checkpoints" / "last.ckpt"
    found = evaluate(pretrained.load(last).network, MNISTDataModule().images("test"))
    wrong = (found.predictions != found.labels).nonzero().flatten()
    return list(zip(wrong.tolist(), found.predictions[wrong].tolist(), strict=True))


def trial(recipe: Recipe, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the line that a trial leaves in the log."""
    return {
        "experiment": recipe.experiment,
        "overrides": list(recipe.overrides),
        "date": date.today().isoformat(),
        "parameters": reports[0]["parameters"],
        "mean_val_accuracy": mean(report["last_val_accuracy"] for report in reports),
        "mean_val_loss": mean(report["last_val_loss"] for report in reports),
        "mean_train_loss": mean(report["last_train_loss"] for report in reports),
        "val_accuracy": [report["last_val_accuracy"] for report in reports],
        "val_loss": [report["last_val_loss"] for report in reports],
        "wall_seconds": mean(report["wall_seconds"] for report in reports),
        "git_commit": reports[0]["git_commit"],
    }


def put_into_package(recipe: Recipe, report: dict[str, Any]) -> None:
    """Ship the last epoch of a seed, with what was measured of it."""
    from mnist_lit.checkpoints import pretrained

    measured = {
        "experiment": recipe.experiment,
        "seed": report["seed"],
        "epoch": report["epochs"],
        "parameters": report["parameters"],
        "protocol": report["protocol"],
        "test_correct": round(report["last_val_accuracy"] * report["test_total"]),
        "test_total": report["test_total"],
    }
    last = recipe.folder(report["seed"]) / "checkpoints" / "last.ckpt"
    pretrained.ship(recipe.experiment, last, measured)


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read what has been measured, most parameters first."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("accuracy/*.json"))]
    return sorted(found, key=lambda result: (-result["parameters"], result["experiment"]))


def table(results: Sequence[dict[str, Any]]) -> str:
    """Lay the results out as ``docs/results.md`` has them."""
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
    """Return the test digits that most trainings read wrong, most first, and each as what.

    These are at least nine of ten of all seeds of all experiments.
    """
    found: dict[int, list[int]] = {}
    trainings = [seed for result in results for seed in result["seeds"]]
    for training in trainings:
        for position, reading in training["mistakes"]:
            found.setdefault(position, []).append(reading)
    most = {p: readings for p, readings in found.items() if len(readings) >= 0.9 * len(trainings)}
    return dict(sorted(most.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def command_line() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", help="names in conf/experiment")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 (default: 10)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at once (default: cores)")
    parser.add_argument("--holdout", action="store_true", help="a trial on held-out images")
    parser.add_argument("--ship", action="store_true", help="put seed 0 into the package")
    parser.add_argument("--report", action="store_true", help="print the table")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Measure what the command line names, or print what has been measured."""
    parser = command_line()
    options = parser.parse_intermixed_args()
    names = [word for word in options.experiments if "=" not in word]
    overrides = tuple(word for word in options.experiments if "=" in word)
    if options.seeds < 2:
        parser.error("--seeds: at least 2 are needed to say how far they spread")
    if options.ship and options.holdout:
        parser.error("--ship: only what was measured on the test images is shipped")
    if overrides and not options.holdout:
        parser.error(f"{overrides[0]}: only a trial (--holdout) may change an experiment")
    if not names and not options.report:
        parser.error("name an experiment of conf/experiment, or ask for --report")
    recipes = [Recipe(name, overrides, options.holdout, options.output / "runs") for name in names]
    options.output.mkdir(parents=True, exist_ok=True)
    for recipe, reports in measure(recipes, options.seeds, options.jobs):
        if options.holdout:
            line = trial(recipe, reports)
            with (options.output / "holdout.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            tqdm.write(
                f"{recipe.experiment} {shlex.join(recipe.overrides)}: held-out accuracy "
                f"{line['mean_val_accuracy']:.3%}, loss {line['mean_val_loss']:.4f}"
            )
        else:
            command = f"python benchmarks/accuracy.py {recipe.experiment} --seeds {options.seeds}"
            result = summarise(recipe, reports, command)
            path = options.output / "accuracy" / f"{recipe.experiment}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
            tqdm.write(table([result]))
            if options.ship:
                put_into_package(recipe, reports[0])
    if options.report:
        results = load_results(options.output)
        print(table(results))
        trainings = sum(len(result["seeds"]) for result in results)
        for position, readings in hardest(results).items():
            print(
                f"test digit {position} is read wrong by {len(readings)} of {trainings} trainings"
            )


if __name__ == "__main__":
    main()
