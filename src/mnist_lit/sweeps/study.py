"""The Optuna study of a search: its trials in a database, and their results.

Akiba et al., Optuna: A next-generation hyperparameter optimization framework, 2019.
"""

import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
from matplotlib.figure import Figure
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import NullPool, make_url
from sqlalchemy.exc import SQLAlchemyError

from mnist_lit.config.schema import Search
from mnist_lit.errors import ConfigError, UserError, reason
from mnist_lit.evaluation.figures import LIGHT, defaults, logarithmic, overlay, plot
from mnist_lit.sweeps.job import tally
from mnist_lit.sweeps.results import publish, short, worded
from mnist_lit.text import masked
from mnist_lit.training.rundir import refuse_journal

# Seconds between heartbeats, and without one until a trial counts as killed.
BEAT, STALE = 15, 60
SHOWN = 10  # best trials in the table


@contextmanager
def opened_study(
    search: Search, steps: int, begun: bool = False
) -> Iterator[tuple[optuna.Study, RDBStorage]]:
    """Yield the study of a search, and its storage.

    Args:
        search: The keys of the search.
        steps: Number of values that a trial reports.
        begun: Whether the storage must exist; else it is made if needed.

    Raises:
        ConfigError: The storage cannot be reached, now or later, or has been altered.
    """
    # The search itself prints a line for every trial.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # In the first epochs, while the learning rate rises, an accuracy predicts little.
    spared = max(2, steps // search.repeats // 4)
    pruners: dict[str, Any] = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=spared),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=2, max_resource=steps),
    }
    # A pooled connection would keep using a file that has been removed.
    file = {"connect_args": {"timeout": 60}, "poolclass": NullPool}
    url = search.storage
    with warnings.catch_warnings():
        # Optuna warns about its own heartbeats, which are experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with")
        try:
            refuse_journal(Path(make_url(url).database or ""))
            storage = RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True, **(file if url.startswith("sqlite") else {})},
                heartbeat_interval=BEAT,
                grace_period=STALE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
                skip_table_creation=begun,
            )
            try:
                study = optuna.create_study(
                    storage=storage,
                    study_name=search.study,
                    direction="maximize",
                    sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
                    pruner=pruners[search.pruner](),
                    load_if_exists=True,
                )
                yield study, storage
            finally:
                storage.remove_session()
                storage.engine.dispose()
        except UserError:
            raise
        except (SQLAlchemyError, StorageInternalError, ImportError, ValueError) as error:
            # ImportError: driver; ValueError: Optuna reads a text where it wrote a number
            words = f"search.storage={url}: cannot be used: {reason(error.__cause__ or error)}"
            raise ConfigError(masked(words)) from None


class ReportTrial(pl.Callback):
    """Reports every epoch's validation accuracy to a search, and stops if the trial is pruned.

    If a trial has several trainings, the reported value is the mean of the finished ones and of the
    current epoch.

    Args:
        search: The keys of the search.
        trial: The number of the trial.
        earlier: The results of its earlier trainings.
    """

    def __init__(self, search: dict[str, Any], trial: int, earlier: list[float]) -> None:
        self.search, self.trial, self.earlier = Search(**search), trial, earlier

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and stop all processes of a training if its trial is pruned."""
        stop = False
        if trainer.is_global_zero:
            epochs = trainer.max_epochs or 1
            step = len(self.earlier) * epochs + trainer.current_epoch + 1
            steps = self.search.repeats * epochs
            values = [*self.earlier, float(trainer.callback_metrics["val/accuracy"])]
            with opened_study(self.search, steps, begun=True) as (study, storage):
                trial = optuna.Trial(study, trial_id(study, storage, self.trial))
                trial.report(sum(values) / len(values), step=step)
                stop = step < steps and trial.should_prune()
                if stop:
                    trial.set_user_attr("pruned", f"epoch {step} of {steps}")
        trainer.should_stop = trainer.strategy.broadcast(stop) or trainer.should_stop


def trial_id(study: optuna.Study, storage: RDBStorage, number: int) -> int:
    """Return the id in the storage of a trial, given its number."""
    known = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(known, number)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials, without killed ones that are repeated."""
    histories = map(RetryHeartbeatStaleTrialCallback.retry_history, study.trials)
    again = {number for history in histories for number in history}
    return [one for one in study.trials if one.number not in again]


def begun(study: optuna.Study) -> int:
    """Return the number of started trials, without those that wait for a repetition."""
    return sum(one.state is not TrialState.WAITING for one in counted(study))


def take_back(study: optuna.Study, number: int) -> None:
    """End a trial that no process trains any more; it will be repeated."""
    if study.trials[number].state is TrialState.RUNNING:
        study.tell(number, state=TrialState.FAIL)
        RetryHeartbeatStaleTrialCallback()(study, study.trials[number])


def count(study: optuna.Study) -> str:
    """Return the number of trials in each state; a repeated trial counts once."""
    return tally(one.state.name.lower() for one in counted(study)) or "no trials"


def best_first(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials with a value, best first."""
    done = study.get_trials(states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda one: one.values, reverse=True)


def params(trial: FrozenTrial | optuna.Trial, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a trial: numbers and listed choices.

    Raises:
        ConfigError: Another is there; a text could name a class to import.
    """
    given = trial.params
    for name, value in given.items():
        choices = getattr(space.get(name), "choices", None)
        number = name in space and isinstance(value, int | float)
        if not (number if choices is None else value in choices):
            words = "is not of this search; give the options that it was begun with, or another"
            raise ConfigError(f"trial {trial.number}: its {name} {words} search.study")
    return given


def shown(params: dict[str, Any]) -> str:
    """Return parameters as text for a person."""
    return " ".join(f"{name}={short(value)}" for name, value in params.items())


def write(
    study: optuna.Study, folder: Path, command: Sequence[str], space: Mapping[str, Any]
) -> str:
    """Write ``results.csv`` and ``results.html`` into a search's folder; return the table as text.

    Args:
        study: The study.
        folder: The folder of the search.
        command: The command that trains a trial again, without its parameters.
        space: The distributions of the searched keys.

    Raises:
        ConfigError: A trial has other parameters.
    """
    trials, kept = study.trials, {one.number for one in counted(study)}
    names = list(dict.fromkeys(name for one in trials for name in params(one, space)))
    heads = ["trial", "state", "value", *names, "reports", "seconds", "why", "place"]
    rows: list[list[Any]] = [heads]
    failed = []
    for one in trials:
        state = one.state.name.lower() if one.number in kept else "retried"
        seconds = round(one.duration.total_seconds(), 1) if one.duration else ""
        why = one.user_attrs.get("error") or one.user_attrs.get("pruned", "")
        value = "" if one.value is None else one.value
        values = [one.params.get(name, "") for name in names]
        rest = [len(one.intermediate_values), seconds, why, one.user_attrs.get("place", "")]
        rows.append([one.number, state, value, *values, *rest])
        if state == "fail":
            failed.append(f"  failed: {one.number} {shown(one.params)} {why or 'killed'}")
    name = study.user_attrs.get("options", {}).get("optimized_metric", "value")
    best = [["trial", worded(name), *names]]
    commands: list[list[Any]] = [["trial", "command"]]
    for one in best_first(study)[:SHOWN]:
        values = [short(one.params.get(name, "–")) for name in names]
        best.append([str(one.number), short(one.value, name), *values])
        words = [*command, *(f"{name}={value}" for name, value in params(one, space).items())]
        commands.append([str(one.number), (shlex.join(words),)])
    drawn = _figures(study, name) if best[1:] else {}
    lines = [
        f"{count(study)}. A value is the mean of a trial's trainings; pruned trials are gray.",
        "The best of many trials is optimistic: confirm it on other splits and seeds.",
    ]
    tables = {"The best": best, "Train one of them again, and test it": commands}
    after = [*failed, *(f"the best again: {row[1][0]}" for row in commands[1:2])]
    said = publish(folder, f"Search {study.study_name}", lines, tables, rows, drawn, after)
    return f"{study.study_name}: {count(study)}\n{said}"


@defaults
def _figures(study: optuna.Study, objective: str) -> dict[str, Figure]:
    shares: dict[str, float] = {}
    with warnings.catch_warnings(), suppress(Exception):
        # For too few trials or equal values, Optuna raises various exceptions.
        warnings.simplefilter("ignore")  # about few trials
        shares = optuna.importance.get_param_importances(study)
    valued = [one for one in study.trials if one.values is not None]
    drawn = {}
    for name in ["trial", *dict.fromkeys(name for one in valued for name in one.params)]:
        decides = f", which decides {shares[name]:.0%}" if name in shares else ""
        having = [one for one in valued if name in ("trial", *one.params)]
        drawn[f"{worded(objective)} by {name}{decides}"] = _values(having, objective, name)
    drawn["validation error of all trials"] = _reports(study.trials, best_first(study)[0])
    return drawn


def _values(trials: Sequence[FrozenTrial], objective: str, name: str) -> Figure:
    """Plot the values of trials against a parameter, or against their numbers.

    The axis of an accuracy is logarithmic in the error. Pruned trials are gray, with the value of
    their last epoch.
    """
    figure, (axes,) = plot(height=2.2)
    accuracy, each = "accuracy" in objective, [one.values[0] for one in trials]
    # A logarithmic axis has no 0.
    heights = [max(0.01, 100 * (1 - value)) for value in each] if accuracy else each
    colours = [LIGHT["mark" if one.state is TrialState.COMPLETE else "quiet"] for one in trials]
    axes.scatter([one.params.get(name, one.number) for one in trials], heights, 16, colours)
    if name == "trial":
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    if any(getattr(one.distributions.get(name), "log", False) for one in trials):
        logarithmic(axes.xaxis)
    if accuracy:
        logarithmic(axes.yaxis)
        axes.yaxis.set_major_formatter(lambda height, _: f"{100 - height:.4g}%")
        axes.invert_yaxis()
    return figure


def _reports(trials: Sequence[FrozenTrial], best: FrozenTrial) -> Figure:
    """Plot the validation error of every trial against the epoch; the best has a colour."""
    figure, (axes,) = plot(names=[f"#{best.number}"])
    for one in [*trials, best]:
        each = one.intermediate_values
        line = [*each], [100 * (1 - value) for value in each.values()]
        axes.plot(*line, color=LIGHT["quiet"], lw=0.4)
    overlay(axes, "% of the images", {f"#{best.number}": [line]})
    return figure
