"""The trials of a search, in Optuna's terms: which are left, and what they came to."""

import csv
import io
import math
import shlex
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_lit.evaluation import figures
from mnist_lit.evaluation.page import embedded, filled
from mnist_lit.files import write_text
from mnist_lit.text import for_terminal
from mnist_lit.training.study import repeat_trial

SHOWN = 10  # of the best trials


def missing(study: optuna.Study, wanted: int) -> int:
    """Return how many trials are to be started; one that is tried again counts once."""
    waiting = [one for one in _all(study) if one.state is TrialState.WAITING]
    return wanted - len(_counted(study)) + len(waiting)


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    again = {one.system_attrs["retry_history"][-1] for one in _all(study) if _is_again(one)}
    return [one for one in _all(study) if one.number not in again]


def _is_again(trial: FrozenTrial) -> bool:
    return bool(trial.system_attrs.get("retry_history"))


def elsewhere(study: optuna.Study) -> bool:
    """Say whether trials are running; asked where none of them is this process's."""
    return any(one.state is TrialState.RUNNING for one in _all(study))


def running_on(study: optuna.Study, host: str) -> list[tuple[int, Path]]:
    """Return number and folder of the trials that were begun on a machine and have not ended."""
    found = []
    for one in _all(study):
        place = one.user_attrs.get("place", "")
        if one.state is TrialState.RUNNING and place.startswith(f"{host}:"):
            found.append((one.number, Path(place.removeprefix(f"{host}:"))))
    return found


def take_back(study: optuna.Study, number: int) -> None:
    """End a trial that no process trains any more; its parameters will be tried again."""
    if _all(study)[number].state is TrialState.RUNNING:
        study.tell(number, state=TrialState.FAIL)
        repeat_trial(study, _all(study)[number])


def ended(study: optuna.Study) -> int:
    """Return how many trials have ended; one that is tried again has not."""
    return sum(one.state.is_finished() for one in _counted(study))


def count(study: optuna.Study) -> str:
    """Say how many trials are in which state; one that was tried again is counted once."""
    states = [one.state.name.lower() for one in _counted(study)]
    return ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states)) or "no trials"


def best(study: optuna.Study) -> str:
    """Return the best value so far."""
    done = _done(study)
    return f"{done[0].value:.4f}, #{done[0].number}" if done else "none"


def shown(params: dict[str, Any]) -> dict[str, str]:
    """Return values as a person reads them."""
    return {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in params.items()}


def write(study: optuna.Study, folder: Path, command: Sequence[str]) -> str:
    """Write ``results.csv`` and ``results.html`` into a search's folder; return the table as text.

    Args:
        study: With its trials.
        folder: Of the search.
        command: The words that train a trial again, but for its parameters.
    """
    names = list(dict.fromkeys(name for one in _all(study) for name in one.params))
    write_text(folder / "results.csv", _csv(study, names))
    done = _done(study)[:SHOWN]
    rows = [["trial", "value", *names]]
    rows += [
        [str(one.number), f"{one.value:.4f}", *(shown(one.params).get(n, "–") for n in names)]
        for one in done
    ]
    again = [
        [str(one.number), (shlex.join([*command, *(f"{k}={v}" for k, v in one.params.items())]),)]
        for one in done
    ]
    failed = [
        [
            str(one.number),
            " ".join(f"{k}={v}" for k, v in shown(one.params).items()),
            one.user_attrs.get("error", "killed"),
        ]
        for one in _counted(study)
        if one.state is TrialState.FAIL
    ]
    text = f"{study.study_name}: {count(study)}"
    page = filled(
        "sweeps/sweep.html",
        title=f"Search {study.study_name}",
        lines=[
            f"{count(study)}. A value is the mean of a trial's trainings.",
            "The best of many trials is optimistic: confirm it on splits and seeds that the search "
            "has not seen.",
        ],
        tables={
            "The best": rows,
            "Train one of them again, and test it": [["trial", "command"], *again],
            "Failed": [["trial", "parameters", "why"], *failed],
        },
        figures={name: embedded(content) for name, content in _figures(study).items()},
    )
    write_text(folder / "results.html", page)
    lines = [text, *("  ".join(map(for_terminal, row)) for row in rows)]
    lines += [f"  failed: {' '.join(map(for_terminal, row))}" for row in failed]
    if done:
        lines.append(f"the best again: {again[0][1][0]}")
    return "\n".join([*lines, f"{folder / 'results.html'}, results.csv beside it"])


def _csv(study: optuna.Study, names: Sequence[str]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", "state", "value", *names, "reports", "seconds", "why", "place"])
    for one in _all(study):
        seconds = round(one.duration.total_seconds(), 1) if one.duration else ""
        why = one.user_attrs.get("error") or one.user_attrs.get("pruned", "")
        value = "" if one.value is None or one.state is TrialState.FAIL else one.value
        params = [one.params.get(name, "") for name in names]
        rest = len(one.intermediate_values), seconds, why, one.user_attrs.get("place", "")
        rows.writerow([one.number, one.state.name.lower(), value, *params, *rest])
    return text.getvalue()


def _figures(study: optuna.Study) -> dict[str, bytes]:
    from optuna.visualization import matplotlib as draw

    if not _done(study):
        return {}
    drawn = {}
    for name, plot in (
        ("History", draw.plot_optimization_history),
        ("Importances", draw.plot_param_importances),
        ("Values of each parameter", draw.plot_slice),
        ("Epochs", draw.plot_intermediate_values),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these are experimental, and have few trials
            # Of too few trials, or of equal values, Optuna raises several kinds.
            with suppress(Exception):
                axes = plot(study)
                figure: Any = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
                figure.set_size_inches(9, 4.5)
                figure.set_layout_engine("constrained")
                drawn[name] = figures.png(figure)
    return drawn


def _all(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)


def _done(study: optuna.Study) -> list[FrozenTrial]:
    done = [one for one in _all(study) if one.state is TrialState.COMPLETE]
    return sorted(done, key=lambda one: -(one.value if one.value is not None else -math.inf))
