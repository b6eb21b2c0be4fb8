"""The pages of a sweep and of a search: tables and figures, in one file each."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mnist_lit.checkpoints.read import read_file
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.page import embedded, filled
from mnist_lit.sweeps.results import Result, Setting, said, settings, table, unfinished, varied

SHOWN = 5  # settings whose epochs are drawn


def of_sweep(sweep: Path, results: Sequence[Result]) -> str:
    """Return the page of a sweep."""
    found, keys = settings(results), varied(results)
    left = [
        [
            {"to": str(one.folder.relative_to(sweep)), "text": str(one.job.number)},
            one.state,
            _words(one, keys),
            one.why,
        ]
        for one in unfinished(results)
    ]
    runs = [
        [
            {"to": f"{one.folder.relative_to(sweep)}/report.html", "text": str(one.job.number)},
            _words(one, keys),
            *(f"{one.report[key]:.2%}" for key in ("best_val_accuracy", "last_val_accuracy")),
            f"{one.seconds:.0f}",
        ]
        for one in results
        if one.report
    ]
    heads = ["job", "overrides", "best validation", "last validation", "seconds"]
    drawn = {"Settings": compared(found), "Epochs of the best": epochs(found)} if found else {}
    lines = [f"{len(results)} jobs, {len(runs)} finished, {len(left)} without a good result."]
    if found:
        lines.append(
            "Values are the jobs' " + found[0].results[0].objective + "; ± is the standard "
            "deviation over seeds or folds, bars in the figure are 95 % intervals of the mean."
        )
        lines.append(f"Protocol: {found[0].results[0].report['protocol']}.")
    return filled(
        "sweeps/sweep.html",
        title=f"Sweep {sweep.name}",
        lines=lines,
        tables={
            "Settings, best first": table(results),
            "Without a good result": [["job", "state", "overrides", "why"], *left],
            "Jobs": [heads, *runs],
        },
        figures={name: embedded(figures.png(figure)) for name, figure in drawn.items()},
    )


def _words(one: Result, keys: Sequence[str]) -> str:
    return " ".join(f"{key}={value}" for key, value in said(one).items() if key in keys)


def compared(found: Sequence[Setting]) -> Figure:
    """Plot every job's value and each setting's mean with its 95 % interval."""
    figure = Figure(figsize=(9, 0.4 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(found)):
        axes.plot(one.values, [place] * len(one.values), "o", color="0.7", ms=4)
        half = 0.0 if math.isnan(one.interval) else one.interval
        axes.errorbar(one.mean, place, xerr=half or None, fmt="D", color="C0", capsize=3, ms=5)
    axes.set_yticks(range(len(found)), [one.name for one in reversed(found)])
    objective = found[0].results[0].objective
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
    axes = figure.subplots()
    positive = True
    for place, one in enumerate(found[:SHOWN]):
        for number, result in enumerate(one.results):
            kept = read_file(result.folder / "checkpoints" / "last.ckpt")
            rows = History.of(kept["callbacks"]["History"]).validated
            wrong = [100 * (1 - row.val_accuracy) for row in rows]
            positive = positive and all(wrong)
            axes.plot(
                [row.epoch for row in rows],
                wrong,
                "o-",
                ms=3,
                color=f"C{place}",
                alpha=0.7,
                label=one.name if number == 0 else None,
            )
    if positive:
        axes.set_yscale("log")
        figures.label_log(axes.yaxis)
    axes.set(xlabel="epoch", ylabel="% of validation images wrong")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
