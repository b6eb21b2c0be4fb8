"""``python train.py hparams_search=NAME``: Optuna proposes the trials, processes train them."""

import json
import math
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict

from mnist_lit.errors import ConfigError, RunError, need
from mnist_lit.evaluation.provenance import flat, override
from mnist_lit.files import write_text
from mnist_lit.sweeps import results
from mnist_lit.sweeps.grid import values
from mnist_lit.sweeps.processes import Processes
from mnist_lit.sweeps.results import identity
from mnist_lit.text import masked, show
from mnist_lit.training import job
from mnist_lit.training.hydra import check

HOPELESS = 3  # trials of which none succeeds


class PrunedError(Exception):
    """A trial that was ended early."""


@dataclass(frozen=True)
class Parameter:
    """What is searched: a key with its values.

    Attributes:
        name: The key.
        distribution: What Optuna takes its values from.
        examples: Values at the ends, to be checked before anything is trained.
    """

    name: str
    distribution: Any
    examples: Sequence[Any]


class Search:
    """A search that can be killed, repeated, and helped by other machines.

    Its keys are ``search.*``. The trials are kept in a database. Of one that is killed the
    parameters are tried again; one that fails is listed, and the search goes on.

    Args:
        config: What Hydra composed for the sweep.
        loader: Composes the trainings.
        launcher: Runs them; of processes alone.

    Raises:
        ConfigError: The launcher is another.
    """

    search: Any  # the keys, once they are checked
    repeated: Any  # where `search.over` starts

    def __init__(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
        self.config, self.loader = config, loader
        if not isinstance(launcher, Processes):
            raise ConfigError(
                f"hydra/launcher: {type(launcher).__name__} does not train the trials of a search; "
                "hydra/launcher=processes does, and the same command on another machine helps"
            )
        self.launcher = launcher
        self.succeeded: list[bool] = []  # of each trial that has ended here

    def run(self, arguments: Sequence[str]) -> None:
        """Run trials until the study has enough of them, and write what they came to.

        Raises:
            UserError: The search cannot be run; nothing has been started.
            RunError: The trials have all failed.
        """
        need("optuna", "search")
        from mnist_lit.sweeps import trials
        from mnist_lit.training.study import opened_study, quiet_optuna

        self.folder = Path(self.config.hydra.sweep.dir).expanduser().resolve()
        with flag_override(self.config.hydra, "readonly", False):
            self.config.hydra.sweep.dir = str(self.folder)
        numbered = [place.name for place in self.folder.glob("[0-9]*") if place.name.isdecimal()]
        results.refuse_others(self.folder, [*results.WRITTEN, "study.db", *numbered])
        self.fixed, self.parameters = self._space(arguments)
        self.base = self._checked([])
        self.search = self.base.search
        self.repeated = flat(self.base.model_dump()).get(self.search.over)
        if type(self.repeated) is not int:
            raise ConfigError(
                f"search.over={self.search.over}: a key with a whole number is expected, as seed"
            )
        for one in self.parameters:
            for value in one.examples:
                self._checked([f"{one.name}={value}"])
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = self.search.repeats * self.base.trainer["max_epochs"]
        with opened_study(self.search, steps) as self.study:
            self._belong()
            begun = len(self.study.get_trials(deepcopy=False))
            if taken := [name for name in numbered if int(name) >= begun]:
                raise ConfigError(
                    f"{self.folder / taken[0]}: not of the study {self.search.study}, which has "
                    f"{begun} trials; give another search.study, or another hydra.sweep.dir"
                )
            write_text(self.folder / results.CONFIG, OmegaConf.to_yaml(self.config))
            show(
                f"study {self.search.study} in {masked(self.search.storage)}: "
                f"{trials.count(self.study)}; {self.search.n_trials} wanted. "
                "Its trainings look at held-out images and do not test (test=false)."
            )
            try:
                with quiet_optuna():
                    self._train_all()
            finally:
                show(trials.write(self.study, self.folder, self._again()))
                if trials.missing(self.study, self.search.n_trials) > 0:
                    show("the same command goes on with what is missing")
            if not any(self.succeeded) and (self.succeeded or trials.best(self.study) == "none"):
                first = f"first {number} " if (number := len(self.succeeded)) > 1 else ""
                raise RunError(
                    f"the {first}trials have all failed; mend the cause, and raise search.n_trials "
                    "or give the search a new name: search.study=NAME"
                )

    def _belong(self) -> None:
        """See that the trials of the study differ only in what is searched.

        Raises:
            ConfigError: It was begun with other options.
        """
        from optuna.distributions import check_distribution_compatibility

        from mnist_lit.training.resume import differing, options_of

        options = {
            **options_of(self.base),
            **{f"search.{key}": getattr(self.search, key) for key in ("repeats", "over")},
            "optimized_metric": self.base.optimized_metric,
        }
        options = json.loads(json.dumps(options))  # as the database gives them back
        begun = self.study.user_attrs.get("options")
        if begun is None:
            self.study.set_user_attr("options", begun := options)
        searched = {one.name for one in self.parameters}
        searched |= {name for one in self.study.get_trials(deepcopy=False) for name in one.params}
        here, there = (
            {key: value for key, value in one.items() if key not in searched}
            for one in (options, begun)
        )
        if words := differing(here, there):
            raise ConfigError(
                f"search.study={self.search.study}: {words}; the trials of a study differ only in "
                "what is searched: give the options that it was begun with, or another name"
            )
        for one in self.parameters:
            for trial in self.study.get_trials(deepcopy=False):
                was = trial.distributions.get(one.name, one.distribution)
                try:
                    check_distribution_compatibility(was, one.distribution)
                except ValueError:
                    raise ConfigError(
                        f"search.study={self.search.study}: {one.name} was {was}, and now is "
                        f"{one.distribution}; give another name"
                    ) from None

    def _again(self) -> list[str]:
        """Return the words that train a trial again, but for its parameters."""
        of_the_search = ("hparams_search=", "search.", "hydra")
        said = [word for word in self.fixed if not word.startswith(of_the_search)]
        named = any(word.startswith("data=") for word in said)
        return ["python", "train.py", *said, *([] if named else ["data=mnist_holdout"])]

    def _space(self, arguments: Sequence[str]) -> tuple[list[str], list[Parameter]]:
        """Tell what is fixed from what is searched."""
        searched = self.config.search
        written = OmegaConf.to_yaml(searched)
        if masked(written) != written:
            raise ConfigError(
                "search.storage: a password in a file would go into the folder of every training; "
                "give the address on the command line, or as ${oc.env:NAME}"
            )
        parser = OverridesParser.create(self.loader)
        params = [f"{key}={value}" for key, value in (searched.params or {}).items()]
        # What the command line says of a key counts, be it one value or many.
        said = {one.get_key_element(): one for one in parser.parse_overrides([*params, *arguments])}
        space = [parameter(one) for one in said.values() if one.is_sweep_override()]
        if not space:
            raise ConfigError(
                "nothing to search: give values to choose from, as "
                "'optimizer.lr=tag(log, interval(0.01, 1))'"
            )
        return [str(one.input_line) for one in said.values() if not one.is_sweep_override()], space

    def _checked(self, overrides: Sequence[str]) -> Any:
        """Return the config of a training, composed and checked."""
        with self.launcher.composing:
            composed = self.loader.load_sweep_config(self.config, [*self.fixed, *overrides])
            with open_dict(composed):
                composed.hydra.job.num = composed.hydra.job.id = 0
            config = check(composed).config
        data, metric = config.data, config.optimized_metric
        if metric == "test_accuracy" or config.test:
            key = "test=true" if config.test else f"optimized_metric={metric}"
            raise ConfigError(f"{key}: a search does not look at test images")
        if data.get("validation") == "test" and data.get("folds") is None:
            raise ConfigError(
                "data.validation=test: a search does not look at test images; data=mnist_holdout "
                "and data=idx_holdout hold training images out"
            )
        return config

    def _train_all(self) -> None:
        from mnist_lit.sweeps import trials

        deadline = time.monotonic() + (self.search.timeout or math.inf)
        self.running: dict[Future[float], Any] = {}
        self.ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()
        pool = ThreadPoolExecutor(self.launcher.n_jobs)
        try:
            while True:
                self._take_back()
                left = trials.missing(self.study, self.search.n_trials)
                hopeless = len(self.succeeded) >= HOPELESS and not any(self.succeeded)
                on = time.monotonic() < deadline and not hopeless
                while on and left > 0 and len(self.running) < self.launcher.n_jobs:
                    trial = self.study.ask()
                    self.running[pool.submit(self._objective, trial)] = trial
                    left -= 1
                if not self.running:
                    if not (on and trials.elsewhere(self.study)):
                        break
                    time.sleep(1)  # others train the last ones, or have been killed
                for future in wait(self.running, 1, FIRST_COMPLETED)[0]:
                    self._tell(self.running[future], future)
                    del self.running[future]
        except BaseException:
            self.launcher.stop()
            for trial in self.running.values():  # the same command tries them again
                trials.take_back(self.study, trial.number)
            raise
        finally:
            self.ended.set()
            pool.shutdown(cancel_futures=True)

    def _objective(self, trial: Any) -> float:
        """Train a trial, once or several times; returns the mean."""
        chosen = [
            f"{one.name}={trial._suggest(one.name, one.distribution)}" for one in self.parameters
        ]
        place = self.folder / str(trial.number)
        place.mkdir(parents=True, exist_ok=True)
        values: list[float] = []
        with FileLock(place / ".search"):
            # Said once the lock is held, by which another worker here knows that it runs.
            trial.set_user_attr("place", f"{socket.gethostname()}:{place}")
            for number in range(self.search.repeats):
                values.append(self._train(trial, chosen, place, values, number))
                if self._pruned(trial) or self._prune(trial, values):
                    raise PrunedError
        return sum(values) / len(values)

    def _train(
        self, trial: Any, chosen: list[str], place: Path, earlier: list[float], number: int
    ) -> float:
        folder = place / str(number) if self.search.repeats > 1 else place
        repeated = [f"{self.search.over}={self.repeated + number}"] if number else []
        config = identity(self._checked([*chosen, *repeated]))
        words = [*chosen, *repeated]
        job.write(folder, job.Job(trial.number, [*self.fixed, *words], config))
        [result] = self.launcher.launch(
            [
                [
                    *(*self.fixed, *words, f"search.trial={trial.number}"),
                    f"search.earlier=[{','.join(map(str, earlier))}]",
                    override("hydra.sweep.dir", self.folder),
                    override("hydra.sweep.subdir", folder.relative_to(self.folder)),
                ]
            ],
            initial_job_idx=trial.number,
        )
        if result.status is not JobStatus.COMPLETED:
            raise result._return_value
        return float(result.return_value)

    def _pruned(self, trial: Any) -> str:
        """Return what a trial was ended after, by its training or between two; else nothing."""
        # The trial's own attributes are those of when it began.
        found: str = self.study.get_trials(deepcopy=False)[trial.number].user_attrs.get(
            "pruned", ""
        )
        return found

    def _prune(self, trial: Any, values: list[float]) -> bool:
        """Say whether a trial is to be ended between two of its trainings."""
        if len(values) == self.search.repeats or not trial.should_prune():
            return False
        trial.set_user_attr("pruned", f"training {len(values)} of {self.search.repeats}")
        return True

    def _tell(self, trial: Any, future: "Future[float]") -> None:
        from optuna.trial import TrialState

        from mnist_lit.sweeps import trials

        error = future.exception()
        self.succeeded.append(error is None or isinstance(error, PrunedError))
        if error is None:
            self.study.tell(trial, future.result())
            said = f"{future.result():.4f}"
        elif isinstance(error, PrunedError):
            self.study.tell(trial, state=TrialState.PRUNED)
            said = f"pruned after {self._pruned(trial)}"
        else:
            said = job.line(error)
            trial.set_user_attr("error", said)
            self.study.tell(trial, state=TrialState.FAIL)
            said = f"failed: {said}"
        words = " ".join(f"{name}={value}" for name, value in trials.shown(trial.params).items())
        show(
            f"{trials.ended(self.study)} of {self.search.n_trials}: #{trial.number} {said}  {words}"
            f"  (best {trials.best(self.study)})"
        )

    def _take_back(self) -> None:
        """Have repeated what was killed: here at once, elsewhere after a minute without a sign."""
        import optuna

        from mnist_lit.sweeps import trials

        for number, place in trials.running_on(self.study, socket.gethostname()):
            try:
                with FileLock(place / ".search", timeout=0):
                    if number not in {one.number for one in self.running.values()}:
                        trials.take_back(self.study, number)
            except (Timeout, OSError):  # it runs; or the folder is gone
                continue
        optuna.storages.fail_stale_trials(self.study)

    def _beat(self) -> None:
        from mnist_lit.training.study import BEAT

        while not self.ended.wait(BEAT):
            with suppress(Exception):  # the search itself says that the storage is gone
                for trial in list(self.running.values()):
                    self.study._storage.record_heartbeat(trial._trial_id)


def parameter(given: Override) -> Parameter:
    """Translate a sweep of Hydra's grammar to a distribution: interval, range or choice."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    name = given.get_key_element()
    sweep: Any = given.value()
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        step = None
        low, high = cast("tuple[float, float]", (sweep.start, sweep.end))
    elif isinstance(sweep, RangeSweep) and not sweep.shuffle:
        whole = sweep.range()
        numbers = whole if isinstance(whole, range) and whole else values(given)
        low, high, step = numbers[0], numbers[-1], sweep.step
    else:
        values(given)
        choices = list(given.sweep_string_iterator())
        return Parameter(name, CategoricalDistribution(choices), choices)
    if not low < high or (log and low <= 0):
        above = ", and both above 0" if log else ""
        raise ConfigError(f"{given.input_line}: the second number should be above the first{above}")
    if isinstance(low, int) and isinstance(high, int):
        return Parameter(name, IntDistribution(low, high, log, int(step or 1)), (low, high))
    return Parameter(name, FloatDistribution(float(low), float(high), log, step), (low, high))
