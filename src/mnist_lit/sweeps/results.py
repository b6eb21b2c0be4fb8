"""The results of a sweep: a table, ``results.csv`` and ``results.html`` in its folder."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import t

from mnist_lit.checkpoints.read import read_file
from mnist_lit.errors import CheckpointError
from mnist_lit.evaluation import requirements
from mnist_lit.evaluation.figures import LIGHT, Points, defaults, overlay, plot, png, points
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.page import filled
from mnist_lit.files import write_text
from mnist_lit.folders import shown
from mnist_lit.sweeps.job import Job, jobs, tally
from mnist_lit.text import for_csv, for_terminal

# Jobs that differ only in these are repetitions of one setting.
REPEATS = ("seed", "data.fold", "data.split_seed")
MOST, SHOWN = 40, 5  # settings that are compared, and those whose epochs are drawn
COLUMNS = (
    *("best_val_accuracy", "last_val_accuracy", "best_val_loss", "test_accuracy"),
    *("best_epoch", "epochs", "parameters", "passed"),
)


def publish(
    folder: Path,
    title: str,
    lines: Sequence[str],
    tables: Mapping[str, Sequence[Sequence[Any]]],
    rows: Sequence[Sequence[Any]],
    drawn: Mapping[str, Figure],
    after: Sequence[str],
) -> str:
    """Write ``results.csv`` and ``results.html`` into a folder; return the text to print.

    Args:
        folder: The folder of a sweep or a search.
        title: Title of the page.
        lines: Lines above the tables.
        tables: Rows by the title of the table, heads first. A cell is a text, or a tuple of one
            command.
        rows: All jobs or trials, heads first. The first value of each row is the folder.
        drawn: Figures by their titles.
        after: Lines to print after the first table.
    """
    text, heads = io.StringIO(), rows[0]
    csv.writer(text, lineterminator="\n").writerows(map(for_csv, row) for row in rows)
    write_text(folder / "results.csv", text.getvalue())
    every = [[_link(folder, str(row[0])), *map(short, row[1:], heads[1:])] for row in rows[1:]]
    tables = {**tables, "All": [heads, *every]}
    pictures = {name: png(figure) for name, figure in drawn.items()}
    page = filled("sweeps/sweep.html", title=title, lines=lines, tables=tables, figures=pictures)
    write_text(folder / "results.html", page)
    cells = [[for_terminal(cell) for cell in row] for row in next(iter(tables.values()))]
    widths = [max(map(len, column)) + 1 for column in zip(*cells, strict=True)]
    printed = [" ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return "\n".join([*printed, *after, f"{shown(folder / 'results.html')}, results.csv beside it"])


def worded(key: str) -> str:
    """Return a key of a report as text for a person, as ``last val accuracy``."""
    return re.sub(r"_metrics\.|[_/]", " ", key)


def short(value: Any, key: str = "") -> str:
    """Return a value, of a key of a report, as text for a person; accuracies in per cent."""
    if isinstance(value, float):
        return format(value, ".2%" if "accuracy" in key else ".1f" if key == "seconds" else ".5g")
    return requirements.shown(value) if key in COLUMNS else str(value)


def _link(folder: Path, place: str) -> Any:
    """Return a cell with a link to the page in a folder, or to the folder, if it exists."""
    found = [to for to in (f"{place}/report.html", place) if (folder / to).exists()]
    return {"to": found[0], "text": place} if found else place


@dataclass(frozen=True)
class Setting:
    """The finished jobs that differ only in seed or fold.

    Attributes:
        varied: The other varied overrides, as ``{"optimizer": "sgd"}``.
        jobs: The jobs, at least one.
        values: The value of each job that the ranking uses.
    """

    varied: dict[str, str]
    jobs: list[Job] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def varied(found: Sequence[Job]) -> list[str]:
    """Return the keys in which the jobs' overrides differ, in the order they were given."""
    keys = dict.fromkeys(key for one in found for key in one.said)
    return [key for key in keys if len({one.said.get(key) for one in found}) > 1]


def settings(found: Sequence[Job]) -> list[Setting]:
    """Return the settings with a finished job, best first."""
    keys = [key for key in varied(found) if key not in REPEATS]
    each: dict[tuple[str, ...], Setting] = {}
    for one in found:
        if not math.isnan(value := one.value(one.ranked_by)):
            words = {key: one.said.get(key, "–") for key in keys}
            setting = each.setdefault(tuple(words.values()), Setting(words))
            setting.jobs.append(one)
            setting.values.append(value)
    lower = bool(found) and found[0].ranked_by.endswith("loss")
    return sorted(each.values(), key=lambda one: mean(one.values) if lower else -mean(one.values))


@defaults
def write(sweep: Path) -> str:
    """Write ``results.csv`` and ``results.html``, and return the table as text."""
    found = jobs(sweep)
    keys, each = varied(found), settings(found)
    rows: list[list[Any]] = [["folder", "state", *keys, *COLUMNS, "seconds", "why"]]
    left = []
    for one in found:
        place, state, why, report = one.folder.relative_to(sweep), one.state, one.why, one.report
        words = [one.said.get(key, "") for key in keys]
        values = [report.get(name, "") for name in (*COLUMNS, "wall_seconds")]
        rows.append([place, state, *words, *values, why])
        if state not in ("finished", "waiting"):
            left.append(f"  {shown(one.folder)}: {one.label}  {state}: {why}".rstrip(": "))
    drawn = {}
    lines = [f"{len(found)} jobs: {tally(one.state for one in found)}."]
    if each:
        first = each[0].jobs[0]
        what = f"{worded(first.ranked_by)}, ± the standard deviation over seeds or folds."
        how = "Bars are 95% intervals of the mean; fewer than three jobs have none."
        lines += [what, how, f"Protocol: {first.report['protocol']}."]
        drawn = {f"{worded(first.ranked_by)} of the settings": compared(each)}
        drawn["validation error of the best"] = epochs(each)
    tables = {"Settings, best first": table(each) if each else []}
    return publish(sweep, f"Sweep {sweep.name}", lines, tables, rows, drawn, left)


def table(found: Sequence[Setting]) -> list[list[str]]:
    """Return the rows of the printed table, heads first: one per setting."""
    name = worded(found[0].jobs[0].ranked_by)
    share, unit, digits = (100, ", %", 3) if "accuracy" in name else (1, "", 4)
    rows = [[*found[0].varied, "n", f"{name}{unit}", "s each"]]
    for one in found:
        spread = f" ± {share * stdev(one.values):.{digits}f}" if len(one.jobs) > 1 else ""
        value = f"{share * mean(one.values):.{digits}f}{spread}"
        seconds = f"{mean(each.report['wall_seconds'] for each in one.jobs):.0f}"
        rows.append([*one.varied.values(), str(len(one.jobs)), value, seconds])
    return rows


def compared(found: Sequence[Setting]) -> Figure:
    """Plot every job's value and each setting's mean with its 95% interval, by Student's t.

    With two jobs, the interval is wider than the range of an accuracy and shows nothing.
    """
    shown, accuracy = found[:MOST], "accuracy" in found[0].jobs[0].ranked_by
    share, unit = (100, "%") if accuracy else (1, "")
    figure, (axes,) = plot(height=0.42 * len(shown) + 0.7)
    for place, one in enumerate(shown):
        values, bar = [share * value for value in one.values], None
        axes.plot(values, [place] * len(values), "o", color=LIGHT["quiet"], ms=4, alpha=0.5)
        if len(values) > 2:
            half = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
            bar = [[min(half, mean(values))], [min(half, 100 - mean(values))]] if accuracy else half
        axes.errorbar(mean(values), place, xerr=bar, fmt="D", color=LIGHT["mark"], capsize=3, ms=5)
        setting = " ".join(f"{key}={value}" for key, value in one.varied.items()) or "all jobs"
        words = for_terminal(f"{place + 1}  {setting}", 66)
        axes.text(0.02, place - 0.3, words, size=8, transform=axes.get_yaxis_transform())
    axes.set(ylim=(len(shown) - 0.5, -0.8), yticks=[])
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(f"{{x:g}}{unit}")
    return figure


def epochs(found: Sequence[Setting]) -> Figure:
    """Plot the validation error of every job of the best settings against the epoch."""
    lines: dict[str, list[Points]] = {f"{n}": [] for n, _ in enumerate(found[:SHOWN], 1)}
    for setting, drawn in zip(found, lines.values(), strict=False):
        for one in setting.jobs:
            with suppress(CheckpointError):  # the checkpoint has been removed
                kept = read_file(one.folder / "checkpoints" / "last.ckpt")
                drawn.append(points(History.of(kept), "val_accuracy"))
    figure, (axes,) = plot(names=lines)
    overlay(axes, "% of the images", lines)
    return figure
