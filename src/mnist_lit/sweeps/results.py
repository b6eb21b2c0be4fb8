"""What the jobs of a sweep came to: a table, ``results.csv`` and ``results.html`` in its folder.

Imports torch only to draw.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mnist_lit.config.schema import Config
from mnist_lit.errors import ConfigError, UserError
from mnist_lit.evaluation.provenance import flat
from mnist_lit.files import write_text
from mnist_lit.text import for_terminal
from mnist_lit.training import job

# Where a job lies, what it went on from and who watches it are not what it is.
NOT_COMPARED = ("run_dir", "ckpt_path", "logger")
# Jobs that differ in these alone are the same setting, repeated.
REPEATS = ("seed", "data.fold", "data.split_seed")
CONFIG = "multirun.yaml"
WRITTEN = (CONFIG, "results.csv", "results.html")
OURS = "hydra_plugins.mnist_lit_sweeps.Sweep"  # stands in every CONFIG of this project's
MISSED = "missed requirements"
COLUMNS = (
    *("best_val_accuracy", "last_val_accuracy", "best_val_loss", "test_accuracy"),
    *("best_epoch", "epochs", "parameters", "passed"),
)


def refuse_others(sweep: Path, names: Iterable[str] = WRITTEN) -> None:
    """Raise :class:`ConfigError` if a folder has one of the names, and is no sweep of ours."""
    there, config = [name for name in names if (sweep / name).exists()], sweep / CONFIG
    if there and not (config.is_file() and OURS in config.read_text(errors="replace")):
        raise ConfigError(f"{sweep / there[0]}: not of a sweep; give another hydra.sweep.dir")


def identity(config: Config) -> dict[str, Any]:
    """Return what makes a job this one and no other, by keys as ``optimizer.lr``."""
    plain = config.model_dump()
    return flat({key: value for key, value in plain.items() if key not in NOT_COMPARED})


def jobs(sweep: Path) -> dict[Path, job.Job]:
    """Return the jobs of a sweep by their folders, in the order of their numbers.

    A sweep within it has jobs of its own.
    """
    inner = [file.parent for file in sweep.glob(f"*/**/{CONFIG}")]
    folders = [file.parent for file in sweep.glob(f"*/**/{job.FILE}")]
    own = [one for one in folders if not any(one.is_relative_to(other) for other in inner)]
    found = {folder: job.read(folder) for folder in own}
    there = [(folder, one) for folder, one in found.items() if one is not None]
    return dict(sorted(there, key=lambda pair: pair[1].number))


@dataclass(frozen=True)
class Result:
    """A job, and the ``report.json`` of one that is finished."""

    folder: Path
    job: job.Job

    @cached_property
    def report(self) -> dict[str, Any]:
        """What the training came to; empty of one that is not finished."""
        if self.job.state != "finished":
            return {}
        file = self.folder / "report.json"
        try:
            found: dict[str, Any] = json.loads(file.read_bytes())
        except ValueError as error:
            raise ConfigError(
                f"{file}: not as a run leaves it: {error}; remove the folder to train the job again"
            ) from None
        return found

    @property
    def objective(self) -> str:
        """What the sweep looks at: the job's ``optimized_metric``."""
        return str(self.job.config["optimized_metric"])

    @property
    def value(self) -> float:
        """What the objective came to; NaN where it is not known."""
        stage, _, name = self.objective.partition("/")
        found = self.report.get("val_metrics", {}) if stage == "val" else self.report
        value = found.get(name or stage)
        return math.nan if value is None else float(value)

    @property
    def seconds(self) -> float:
        """How long it was trained."""
        return float(self.report.get("wall_seconds", math.nan))

    @property
    def state(self) -> str:
        """How it stands, in a word."""
        if self.job.state == "running" and not job.is_running(self.folder):
            return "killed"
        missed = self.report and not self.report["passed"]
        return MISSED if missed and self.job.config["requirements.enforce"] else self.job.state

    @property
    def why(self) -> str:
        """Why there is no result, or it is not good enough."""
        missed = self.report.get("requirements", {}) if self.state == MISSED else {}
        names = [name for name, check in missed.items() if not check["passed"]]
        return ", ".join(names) if names else self.job.error or ""


@dataclass(frozen=True)
class Setting:
    """The finished jobs that differ in seed or fold alone.

    Attributes:
        varied: What the sweep varies beside these, as ``{"optimizer": "sgd"}``.
        results: One or more.
    """

    varied: dict[str, str]
    results: list[Result]

    @property
    def name(self) -> str:
        """What sets it apart."""
        return " ".join(f"{k}={v}" for k, v in self.varied.items()) or "all jobs"

    @property
    def values(self) -> list[float]:
        """The objective of each job."""
        return [one.value for one in self.results]

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of the values; NaN of one alone."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def interval(self) -> float:
        """Half the 95 % interval of the mean, by Student's t; NaN of one value."""
        from scipy.stats import t

        number = len(self.values)
        if number < 2:
            return math.nan
        return float(t.ppf(0.975, number - 1)) * self.deviation / math.sqrt(number)


def gather(sweep: Path) -> list[Result]:
    """Return all jobs of a sweep."""
    return [Result(folder, one) for folder, one in jobs(sweep).items()]


def varied(results: Sequence[Result]) -> list[str]:
    """Return the keys in which the jobs' overrides differ, in the order they were given."""
    each = [said(one) for one in results]
    keys = dict.fromkeys(key for one in each for key in one)
    return [key for key in keys if len({one.get(key) for one in each}) > 1]


def settings(results: Sequence[Result]) -> list[Setting]:
    """Return the settings with a finished job, best first."""
    keys = [key for key in varied(results) if key not in REPEATS]
    found: dict[tuple[str, ...], Setting] = {}
    for one in results:
        if not math.isnan(one.value):
            words = {key: said(one).get(key, "–") for key in keys}
            found.setdefault(tuple(words.values()), Setting(words, [])).results.append(one)
    lower = bool(results) and results[0].objective.endswith("loss")
    return sorted(found.values(), key=lambda one: one.mean if lower else -one.mean)


def write(sweep: Path) -> str:
    """Write ``results.csv`` and ``results.html``, and return the table as text."""
    results = gather(sweep)
    write_text(sweep / "results.csv", _csv(sweep, results))
    lines = _aligned(table(results))
    for one in unfinished(results):
        words = ", ".join(filter(None, [one.state, one.why]))
        lines.append(f"  job {_place(sweep, one)}: {words}")
    try:
        from mnist_lit.sweeps import page

        write_text(sweep / "results.html", page.of_sweep(sweep, results))
    except UserError as error:
        return "\n".join([*lines, f"results.html: {error}"])
    return "\n".join([*lines, f"{sweep / 'results.html'}, results.csv beside it"])


def table(results: Sequence[Result]) -> list[list[str]]:
    """Return the rows that a person reads, their heads first: one of each setting."""
    found = settings(results)
    if not found:
        return []
    name = found[0].results[0].objective
    share = 100 if "accuracy" in name else 1
    unit, digits = (", %", 3) if share == 100 else ("", 4)
    rows = [[*found[0].varied, "n", f"{name}{unit}", "best", "s each"]]
    for one in found:
        low = name.endswith("loss")
        best = min(one.values) if low else max(one.values)
        spread = f" ± {share * one.deviation:.{digits}f}" if len(one.values) > 1 else ""
        rows.append(
            [
                *one.varied.values(),
                str(len(one.values)),
                f"{share * one.mean:.{digits}f}{spread}",
                f"{share * best:.{digits}f}",
                f"{statistics.mean(r.seconds for r in one.results):.0f}",
            ]
        )
    return rows


def unfinished(results: Sequence[Result]) -> list[Result]:
    """Return the jobs that have no result, or one that misses what is required."""
    return [one for one in results if one.state != "finished"]


def _csv(sweep: Path, results: Sequence[Result]) -> str:
    keys = varied(results)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["folder", "state", *keys, *COLUMNS, "seconds", "why"])
    for one in results:
        words = [said(one).get(key, "") for key in keys]
        found = [one.report.get(name, "") for name in COLUMNS]
        time = one.report.get("wall_seconds", "")
        rows.writerow([_place(sweep, one), one.state, *words, *found, time, one.why])
    return text.getvalue()


def said(one: Result) -> dict[str, str]:
    """Return the overrides of a job by their keys."""
    return dict(word.lstrip("+~").partition("=")[::2] for word in one.job.overrides)


def _place(sweep: Path, one: Result) -> str:
    return str(one.folder.relative_to(sweep))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    rows = [[for_terminal(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
