"""What the jobs of a sweep came to: a table, ``results.csv`` and ``results.html`` in its folder."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.stats import t

from mnist_lit.checkpoints.read import read_file
from mnist_lit.errors import CheckpointError
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.page import embedded, filled
from mnist_lit.files import write_text
from mnist_lit.sweeps.job import Job, jobs
from mnist_lit.text import for_terminal

# Jobs that differ in these alone are the same setting, repeated.
REPEATS = ("seed", "data.fold", "data.split_seed")
COLUMNS = (
    *("best_val_accuracy", "last_val_accuracy", "best_val_loss", "test_accuracy"),
    *("best_epoch", "epochs", "parameters", "passed"),
)
SHOWN = 5  # settings whose epochs are drawn


def publish(
    folder: Path,
    title: str,
    lines: Sequence[str],
    rows: Sequence[Sequence[Any]],
    tables: Mapping[str, Sequence[Sequence[Any]]],
    drawn: Mapping[str, bytes],
    notes: Sequence[str],
) -> str:
    """Write ``results.csv`` and ``results.html`` into a folder; return what to print of them.

    Args:
        folder: Of a sweep or a search.
        title: Of the page.
        lines: What stands above the tables.
        rows: Of ``results.csv``, heads first.
        tables: Rows by their titles, heads first. A cell is a text, a link (``{"to": …, "text":
            …}``) or a command (a tuple of one text).
        drawn: Pictures by their titles, as PNG.
        notes: Lines that are printed below the first table.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / "results.csv", text.getvalue())
    pictures = {name: embedded(content) for name, content in drawn.items()}
    page = filled("sweeps/sweep.html", title=title, lines=lines, tables=tables, figures=pictures)
    write_text(folder / "results.html", page)
    first = [[for_terminal(cell) for cell in row] for row in next(iter(tables.values()))]
    widths = [max(map(len, column)) for column in zip(*first, strict=True)]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in first
    ]
    where = f"{folder / 'results.html'}, results.csv beside it"
    return "\n".join([*aligned, *notes, where])


@dataclass(frozen=True)
class Setting:
    """The finished jobs that differ in seed or fold alone.

    Attributes:
        varied: What the sweep varies beside these, as ``{"optimizer": "sgd"}``.
        jobs: One or more.
    """

    varied: dict[str, str]
    jobs: list[Job]

    @property
    def name(self) -> str:
        """What sets it apart."""
        return " ".join(f"{k}={v}" for k, v in self.varied.items()) or "all jobs"

    @property
    def values(self) -> list[float]:
        """The objective of each job."""
        return [one.value for one in self.jobs]

    @property
    def center(self) -> float:
        """The mean of the values."""
        return mean(self.values)


def varied(found: Sequence[Job]) -> list[str]:
    """Return the keys in which the jobs' overrides differ, in the order they were given."""
    keys = dict.fromkeys(key for one in found for key in one.said)
    return [key for key in keys if len({one.said.get(key) for one in found}) > 1]


def settings(found: Sequence[Job]) -> list[Setting]:
    """Return the settings with a finished job, best first."""
    keys = [key for key in varied(found) if key not in REPEATS]
    each: dict[tuple[str, ...], Setting] = {}
    for one in found:
        if not math.isnan(one.value):
            words = {key: one.said.get(key, "–") for key in keys}
            each.setdefault(tuple(words.values()), Setting(words, [])).jobs.append(one)
    lower = bool(found) and found[0].objective.endswith("loss")
    return sorted(each.values(), key=lambda one: one.center if lower else -one.center)


def write(sweep: Path) -> str:
    """Write ``results.csv`` and ``results.html``, and return the table as text."""
    found = jobs(sweep)
    keys, each = varied(found), settings(found)
    rows = [["folder", "state", *keys, *COLUMNS, "seconds", "why"]]
    left: list[list[Any]] = [["job", "state", "overrides", "why"]]
    done: list[list[Any]] = [["job", "overrides", "best validation", "last validation", "seconds"]]
    notes = []
    for one in found:
        place, number = str(one.folder.relative_to(sweep)), str(one.number)
        words = " ".join(f"{key}={one.said[key]}" for key in keys if key in one.said)
        values = [one.report.get(name, "") for name in (*COLUMNS, "wall_seconds")]
        said = [one.said.get(key, "") for key in keys]
        rows.append([place, one.state, *said, *values, one.why])
        if one.state != "finished":
            left.append([{"to": place, "text": number}, one.state, words, one.why])
            notes.append(f"  job {place}: {', '.join(filter(None, [one.state, one.why]))}")
        if one.report:
            link = {"to": f"{place}/report.html", "text": number}
            shares = [f"{value:.2%}" for value in values[:2]]
            done.append([link, words, *shares, f"{one.report['wall_seconds']:.0f}"])
    good, bad, drawn = len(done[1:]), len(left[1:]), {}
    lines = [f"{len(found)} jobs, {good} finished, {bad} without a good result."]
    if each:
        first = each[0].jobs[0]
        lines.append(
            f"Values are the jobs' {first.objective}; ± is the standard deviation over seeds or "
            "folds, bars in the figure are 95 % intervals of the mean."
        )
        lines.append(f"Protocol: {first.report['protocol']}.")
        plots = {"Settings": compared, "Epochs of the best": epochs}
        drawn = {name: figures.png(plot(each)) for name, plot in plots.items()}
    tables = {"Settings, best first": table(each), "Without a good result": left, "Jobs": done}
    return publish(sweep, f"Sweep {sweep.name}", lines, rows, tables, drawn, notes)


def table(found: Sequence[Setting]) -> list[list[str]]:
    """Return the rows that a person reads, their heads first: one of each setting."""
    if not found:
        return []
    name = found[0].jobs[0].objective
    share = 100 if "accuracy" in name else 1
    unit, digits = (", %", 3) if share == 100 else ("", 4)
    rows = [[*found[0].varied, "n", f"{name}{unit}", "best", "s each"]]
    for one in found:
        best = min(one.values) if name.endswith("loss") else max(one.values)
        spread = f" ± {share * stdev(one.values):.{digits}f}" if len(one.jobs) > 1 else ""
        seconds = mean(each.report["wall_seconds"] for each in one.jobs)
        numbers = [f"{share * one.center:.{digits}f}{spread}", f"{share * best:.{digits}f}"]
        rows.append([*one.varied.values(), str(len(one.values)), *numbers, f"{seconds:.0f}"])
    return rows


def compared(found: Sequence[Setting]) -> Figure:
    """Plot every job's value and each setting's mean with its 95 % interval, by Student's t."""
    figure = Figure(figsize=(9, 0.4 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(found)):
        number, half = len(one.values), None
        axes.plot(one.values, [place] * number, "o", color="0.7", ms=4)
        if number > 1:
            half = t.ppf(0.975, number - 1) * stdev(one.values) / math.sqrt(number)
        axes.errorbar(one.center, place, xerr=half, fmt="D", color="C0", capsize=3, ms=5)
    axes.set_yticks(range(len(found)), [one.name for one in reversed(found)])
    objective = found[0].jobs[0].objective
    axes.set_xlabel(objective)
    if "accuracy" in objective:  # an interval of few values may go beyond what there is
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, 0), min(high, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3, axis="x")
    return figure


def epochs(found: Sequence[Setting]) -> Figure:
    """Plot the validation error of every job of the best settings against the epoch."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes, shares = figure.subplots(), []
    for place, setting in enumerate(found[:SHOWN]):
        for one in setting.jobs:
            with suppress(CheckpointError):  # somebody has removed it
                kept = read_file(one.folder / "checkpoints" / "last.ckpt")
                rows = History.of(kept["callbacks"]["History"]).validated
                wrong = [100 * (1 - row.val_accuracy) for row in rows]
                shares += wrong
                axes.plot([row.epoch for row in rows], wrong, "o-", ms=3, color=f"C{place}")
        axes.plot([], color=f"C{place}", label=setting.name)
    if all(shares):
        axes.set_yscale("log")
        figures.label_log(axes.yaxis)
    axes.set(xlabel="epoch", ylabel="% of validation images wrong")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
