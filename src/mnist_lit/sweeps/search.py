"""``python train.py hparams_search=NAME``: Optuna proposes the trials, processes train them."""

import math
import socket
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna import TrialPruned, distributions
from optuna.trial import TrialState

from mnist_lit.errors import ConfigError, RunError, line
from mnist_lit.evaluation.provenance import flat
from mnist_lit.sweeps import study
from mnist_lit.sweeps.grid import values
from mnist_lit.sweeps.job import WRITTEN, Job, identity, refuse_others, write_config
from mnist_lit.sweeps.processes import Processes
from mnist_lit.sweeps.results import short
from mnist_lit.text import masked, show
from mnist_lit.training.hydra import build_run
from mnist_lit.training.resume import differing, options_of
from mnist_lit.validation import validated

HOPELESS = 3  # failed trials without a success, which end the search
REPORT = "mnist_lit.sweeps.study.ReportTrial"  # a callback of every training


class Search:
    """A search that can be killed, repeated, and helped by other machines.

    Its keys are ``search.*``. A database has the trials. A killed trial is repeated with the same
    parameters. A failed trial is listed, and the search continues.

    Args:
        config: The config that Hydra composed for the sweep.
        loader: Composes the config of each training.
        launcher: Runs the trainings; it must be ``processes``.

    Raises:
        ConfigError: It is another launcher.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
        self.config, self.loader = config, loader
        if not isinstance(launcher, Processes):
            words = f"{type(launcher).__name__} does not train the trials of a search"
            raise ConfigError(f"hydra/launcher: {words}; hydra/launcher=processes does")
        self.launcher = launcher
        self.running: dict[Future[float], tuple[optuna.Trial, str]] = {}
        self.succeeded: list[bool] = []  # for each trial that has ended in this process

    def run(self, given: Mapping[str, Override]) -> None:
        """Run trials until the study has enough of them, and write the results.

        Args:
            given: The overrides by their keys.

        Raises:
            UserError: The search cannot be run; nothing has been started.
            RunError: The trials have all failed.
        """
        self.folder = Path(self.config.hydra.sweep.dir).expanduser().resolve()
        numbered = [place.name for place in self.folder.glob("[0-9]*") if place.name.isdecimal()]
        refuse_others(self.folder, self.config.search.study, [*WRITTEN, *numbered])
        self.fixed, self.space = self._space(given)
        self.base = self._checked([])
        self.search = self.base.search
        if {"", ".", ".."} & {*self.search.study.split("/")}:
            raise ConfigError(f"search.study={self.search.study}: the name of a folder is expected")
        over = self.search.over
        self.repeated: Any = flat(self.base.model_dump()).get(over)
        if type(self.repeated) is not int:
            raise ConfigError(f"search.over={over}: a key with a whole number is expected, as seed")
        for name, one in self.space.items():
            for value in getattr(one, "choices", None) or (one.low, one.high):
                self._checked([f"{name}={value}"])
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = self.search.repeats * self.base.trainer["max_epochs"]
        with study.opened_study(self.search, steps) as (self.study, self.storage):
            self._belong()
            begun = len(self.study.trials)
            if taken := [name for name in numbered if int(name) >= begun]:
                words = f"not of the study {self.search.study}, which has {begun} trials"
                raise ConfigError(f"{self.folder / taken[0]}: {words}; give another search.study")
            write_config(self.folder, self.config)
            many = f"{study.count(self.study)}; {self.search.n_trials} wanted"
            show(f"study {self.search.study} in {masked(self.search.storage)}: {many}")
            show("Trials validate on held-out training images and never read the test images.")
            try:
                self._train_all()
            finally:
                show(study.write(self.study, self.folder, self._again(), self.space))
                if study.begun(self.study) < self.search.n_trials:
                    show("repeat the same command to run the others")
            if not any(self.succeeded) and (self.succeeded or not study.best_first(self.study)):
                words = "mend the cause, and raise search.n_trials or give another search.study"
                raise RunError(f"the trials have all failed; {words}")

    def _belong(self) -> None:
        """Check that the trials of the study differ only in the searched keys.

        Raises:
            ConfigError: The study was started with other options.
        """
        options = options_of(self.base) | {"optimized_metric": self.base.optimized_metric}
        options |= {f"search.{key}": getattr(self.search, key) for key in ("repeats", "over")}
        if "options" not in self.study.user_attrs:
            self.study.set_user_attr("options", options)
        at = f"search.study={self.search.study}"
        begun = validated(dict[str, Any], self.study.user_attrs["options"], f"{at}: options")
        for key in self.space:
            options.pop(key, None)
            begun.pop(key, None)
        if words := differing(options, begun):
            words += "; give the options that it was begun with, or another name"
            raise ConfigError(f"{at}: {words}")
        for one in self.study.trials:
            for name in self.space.keys() & one.distributions.keys():
                was, now = one.distributions[name], self.space[name]
                try:
                    distributions.check_distribution_compatibility(was, now)
                except ValueError:
                    words = f"{name} was {was}, and now is {now}; give another name"
                    raise ConfigError(f"{at}: {words}") from None
            study.params(one, self.space)

    def _again(self) -> list[str]:
        """Return the command that trains a trial again, without its parameters."""
        of_the_search = ("hparams_search=", "search.", "hydra")
        said = [word for word in self.fixed if not word.startswith(of_the_search)]
        named = any(word.startswith("data=") for word in said)
        return ["python", "train.py", *said, *([] if named else ["data=mnist_holdout"])]

    def _space(self, given: Mapping[str, Override]) -> tuple[list[str], dict[str, Any]]:
        """Split the overrides into fixed ones and the search space."""
        written = OmegaConf.to_yaml(self.config.search)
        if masked(written) != written:
            words = "give a password on the command line, or as ${oc.env:NAME}; files are copied"
            raise ConfigError(f"search.storage: {words}")
        space = {name: distribution(one) for name, one in given.items() if one.is_sweep_override()}
        if not space:
            words = "give values to choose from, as 'optimizer.lr=tag(log, interval(0.01, 1))'"
            raise ConfigError(f"nothing to search: {words}")
        return [str(one.input_line) for one in given.values() if not one.is_sweep_override()], space

    def _checked(self, overrides: Sequence[str]) -> Any:
        """Return the config of a training, composed and checked."""
        every = [*self.fixed, *overrides, "hydra.job.num=0", "hydra.job.id=0"]
        config = build_run(self.loader.load_sweep_config(self.config, every)).config
        validates = config.data.get("validation") == "test" and config.data.get("folds") is None
        if config.test or validates:
            said = "test=true" if config.test else "data.validation=test"
            words = "a search does not look at test images; data=mnist_holdout holds others out"
            raise ConfigError(f"{said}: {words}")
        return config

    def _train_all(self) -> None:
        """Train as many trials at a time as the launcher has slots, and send heartbeats.

        If the search is stopped, the same command repeats the running trials.
        """
        deadline = time.monotonic() + (self.search.timeout or math.inf)
        optuna.storages.fail_stale_trials(self.study)
        # One that was killed before its first heartbeat would count as running for ever.
        self._beat(one.number for one in self.study.get_trials(states=(TrialState.RUNNING,)))
        try:
            with self.launcher.pool() as pool:
                while True:
                    optuna.storages.fail_stale_trials(self.study)
                    hopeless = len(self.succeeded) >= HOPELESS and not any(self.succeeded)
                    over = hopeless or time.monotonic() > deadline
                    free = self.launcher.n_jobs - len(self.running)
                    missing = self.search.n_trials - study.begun(self.study)
                    for _ in range(0 if over else min(free, missing)):
                        trial = self.study.ask(self.space)
                        place = f"{study.begun(self.study)} of {self.search.n_trials}"
                        label = f"{place}  trial {trial.number}  {study.shown(trial.params)}"
                        show(label)
                        self.running[pool.submit(self._train, trial)] = trial, label
                    if not self.running:
                        if over or not self.study.get_trials(states=(TrialState.RUNNING,)):
                            return
                        time.sleep(1)  # other workers train the last trials, or have been killed
                    self._beat(trial.number for trial, _ in self.running.values())
                    for training in wait(self.running, study.BEAT, FIRST_COMPLETED).done:
                        self._end(training)
        finally:
            for trial, _ in self.running.values():
                study.take_back(self.study, trial.number)

    def _beat(self, trials: Iterable[int]) -> None:
        """Record that these trials are running."""
        for number in trials:
            self.storage.record_heartbeat(study.trial_id(self.study, self.storage, number))

    def _end(self, training: Future[float]) -> None:
        """Tell the study the result of a trial."""
        trial, label = self.running[training]
        name = self.base.optimized_metric
        value, state = None, TrialState.FAIL
        try:
            value = training.result()
            state, said = TrialState.COMPLETE, short(value, name)
        except TrialPruned as pruned:
            state, said = TrialState.PRUNED, f"pruned after {pruned}"
        except Exception as error:
            trial.set_user_attr("error", line(error))
            said = f"failed: {line(error)}"
        took = self.study.tell(trial, value, state).duration
        assert took is not None
        del self.running[training]
        self.succeeded.append(state is not TrialState.FAIL)
        first = study.best_first(self.study)[:1]
        best = [f"  (best {short(one.values[0], name)}, trial {one.number})" for one in first]
        show("".join([f"{label}  {said}  {took.total_seconds():.0f} s", *best]))

    def _train(self, trial: optuna.Trial) -> float:
        """Train a trial, once or several times; returns the mean."""
        place = self.folder / str(trial.number)
        trial.set_user_attr("place", f"{socket.gethostname()}:{place}")
        if place.exists() and any(place.iterdir()):
            raise ConfigError(f"{place}: not of this trial; give another hydra.sweep.dir")
        params = study.params(trial, self.space)
        came_to: list[float] = []
        report = f"_target_: {REPORT}, search: ${{search}}, trial: {trial.number}"
        for number in range(self.search.repeats):
            changed = dict(params)
            if number:
                changed[self.search.over] = self.repeated + number
            words = [*self.fixed, *(f"{name}={value}" for name, value in changed.items())]
            folder = place / str(number) if self.search.repeats > 1 else place
            one = Job(folder, trial.number, words, {**identity(self.base), **changed}, label="")
            one.write()
            node = f"callbacks.search={{{report}, earlier: {came_to}}}"
            came_to.append(self.launcher.train(trial.number, [*one.words(self.folder), node]))
            # The attributes of `trial` are from its start; the study has the current ones.
            pruned = self.study.trials[trial.number].user_attrs.get("pruned")
            if pruned is not None:
                raise TrialPruned(pruned)
        return statistics.mean(came_to)


def distribution(given: Override) -> distributions.BaseDistribution:
    """Translate Hydra's interval, range or choice sweep to a distribution of Optuna."""
    sweep: Any = given.value()
    log = "log" in getattr(sweep, "tags", ())
    if given.is_interval_sweep():
        low, high, step = sweep.start, sweep.end, None
    elif given.is_range_sweep() and not sweep.shuffle:
        whole = sweep.range()
        numbers = whole if isinstance(whole, range) and whole else [*map(float, values(given))]
        low, high, step = numbers[0], numbers[-1], sweep.step
    else:
        return distributions.CategoricalDistribution(values(given))
    if not low < high or (log and low <= 0):
        above = ", and both above 0" if log else ""
        raise ConfigError(f"{given.input_line}: the second number should be above the first{above}")
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log, int(step or 1))
    return distributions.FloatDistribution(float(low), float(high), log, step)
