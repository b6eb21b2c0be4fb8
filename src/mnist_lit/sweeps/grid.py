"""``python train.py -m``: a job in its own folder for every combination of the values."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import compress, count, islice, pairwise, product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, flag_override

from mnist_lit.errors import ConfigError, RunError, reason
from mnist_lit.evaluation.provenance import flat, override
from mnist_lit.folders import shown
from mnist_lit.sweeps import job
from mnist_lit.sweeps.job import Job
from mnist_lit.text import show
from mnist_lit.training.hydra import build_run, free, is_named, parsed
from mnist_lit.training.rundir import ERROR, JOB, OURS

# Launchers that start each job by its own command, so that a job may have several processes.
SEVERAL = ("Processes", "SlurmLauncher")
MOST = 10_000  # jobs of a sweep, and values of a key


class Grid:
    """Runs every combination of the values; the same command resumes it.

    The config identifies a job, not its number: a finished job is kept, a stopped one is resumed
    after its last epoch, a failed one starts again, and a grid may grow. If a job fails, the others
    continue.

    Args:
        config: The config that Hydra composed for the sweep.
        loader: Composes the config of each job.
        launcher: Runs the jobs.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
        self.config, self.loader, self.launcher = config, loader, launcher
        self.built: set[str] = set()
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def run(self, given: Mapping[str, Override]) -> None:
        """Check all jobs, run the unfinished ones, and write the results.

        Args:
            given: The overrides by their keys.

        Raises:
            UserError: A job cannot be run; none has been started.
            RunError: A job has failed or missed a requirement.
        """
        wanted = Path(self.config.hydra.sweep.dir).expanduser().resolve()
        self.named = is_named(self.config, "hydra.sweep.dir")
        if self.named:
            job.refuse_others(wanted)
        found = job.jobs(wanted) if self.named else []
        planned = self._plan(given, wanted, found)
        folder = wanted if self.named else free(wanted)
        if len(job.jobs(folder)) > len(found):
            raise ConfigError(f"{folder}: another sweep has just begun there; start this one again")
        job.write_config(folder, self.config)
        planned = [replace(one, folder=folder / one.folder) for one in planned]
        words = [words for one in planned if (words := _prepared(folder, one))]
        done = f", {len(planned) - len(words)} of them done or under way"
        many = f"{len(planned)} job" + "s" * (len(planned) > 1)
        show(f"{many}{done * (len(words) < len(planned))}: {shown(folder)}")
        try:
            if words:
                self.launcher.launch(words, initial_job_idx=0)
        except Exception as error:  # from a launcher, for example if one of its workers is killed
            show(f"error: hydra/launcher: {reason(error)}")
        finally:
            from mnist_lit.sweeps import results

            show(results.write(folder))
            bad = [state for one in planned if (state := one.state) != "finished"]
            if {*bad} - {job.MISSED}:
                again = shlex.quote(override("hydra.sweep.dir", shown(folder)))
                show(f"to run the others, repeat the command with {again}")
        if bad:
            raise RunError(f"of {many} {job.tally(bad)}")

    def _plan(self, given: Mapping[str, Override], root: Path, found: Sequence[Job]) -> list[Job]:
        """Return every job, checked, with its place in the sweep's folder."""
        every = combinations(given.values())
        varied = [one.is_sweep_override() for one in given.values()]
        known = {_key(one.config): one for one in found}
        numbers = count(max((one.number for one in found), default=-1) + 1)
        planned: dict[str, Job] = {}
        if len(every) > 20:
            show(f"checking {len(every):,} jobs …")
        for place, overrides in enumerate(every):
            composed = self._composed(overrides, place)
            config = self._checked(composed)
            if (key := _key(config)) in planned:
                words = f"the same training as {' '.join(planned[key].overrides)}"
                raise ConfigError(f"{' '.join(overrides)}: {words}; a sweep needs jobs that differ")
            if key in known:
                number, folder = known[key].number, known[key].folder.relative_to(root)
            else:
                number = next(numbers)
                folder = self._place(composed, number, root)
            label = f"{place + 1} of {len(every)}  {' '.join(compress(overrides, varied))}"
            planned[key] = Job(folder, number, overrides, config, label.rstrip())
        for outer, inner in pairwise(sorted(one.folder for one in planned.values())):
            if outer == inner or outer in inner.parents:
                raise ConfigError(f"hydra.sweep.subdir: two jobs would have the folder {outer}")
        return list(planned.values())

    def _composed(self, overrides: Sequence[str], place: int) -> DictConfig:
        """Compose the config of a job; only once for jobs that differ only in the seed."""
        others = tuple(word for word in overrides if not word.startswith("seed="))
        named = "override_dirname" in str(OmegaConf.to_container(self.config.hydra.sweep))
        if named or others not in self.composed:
            numbered = [*overrides, f"hydra.job.num={place}", f"hydra.job.id={place}"]
            self.composed[others] = self.loader.load_sweep_config(self.config, numbered)
        composed = self.composed[others]  # no job keeps it
        for word in {*overrides} - {*others}:
            composed.seed = OverridesParser.create().parse_override(word).value()
        with flag_override(composed.hydra, "readonly", False):
            composed.hydra.job.num = composed.hydra.job.id = place
        return composed

    def _place(self, composed: DictConfig, number: int, root: Path) -> Path:
        """Return the place of a new job in the sweep's folder."""
        with flag_override(composed.hydra, "readonly", False):
            composed.hydra.job.num = composed.hydra.job.id = number
        given, sweep = composed.hydra.sweep.subdir, root.resolve()
        folder = Path(sweep, given).resolve()
        inside = folder.parts[len(sweep.parts) :]
        if sweep not in folder.parents or {*inside} & {*job.WRITTEN, JOB}:
            words = f"not a folder within {sweep}, beside the files that a sweep writes"
            raise ConfigError(f"hydra.sweep.subdir={given}: {words}")
        if self.named and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: holds something else; give another hydra.sweep.dir")
        return folder.relative_to(sweep)

    def _checked(self, composed: DictConfig) -> dict[str, Any]:
        """Return the identity of a job; of jobs that differ only in seeds, only one is built."""
        config = parsed(composed)
        setting = _key(flat(config.model_dump(exclude={"seed": True, "data": {"split_seed"}})))
        if setting not in self.built:
            strategy = str(composed.trainer.get("strategy", ""))
            launcher = type(self.launcher).__name__
            if strategy.startswith("ddp") and launcher not in SEVERAL:
                words = f"{launcher} trains a job in one process; take hydra/launcher=processes"
                raise ConfigError(f"trainer.strategy={strategy}: {words}")
            build_run(composed)
            self.built.add(setting)
        return job.identity(config)


def _key(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def combinations(given: Iterable[Override]) -> list[list[str]]:
    """Return the overrides of every job.

    Raises:
        ConfigError: There are none or too many, or an interval has no values to choose from.
    """
    choices = [
        [f"{one.get_key_element()}={value}" for value in values(one)]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in given
    ]
    if (number := math.prod(map(len, choices))) > MOST:
        words = " ".join(str(one.input_line) for one in given if one.is_sweep_override())
        raise ConfigError(f"{words}: these are {number:,} jobs; at most {MOST:,} are possible")
    # A job's place in the whole grid, not among the unfinished jobs.
    return [
        [word.replace("${hydra:job.num}", str(place)) for word in words]
        for place, words in enumerate(product(*choices))
    ]


def values(given: Override) -> list[str]:
    """Return the values of a sweep, in Hydra's grammar.

    Raises:
        ConfigError: There are none or too many, or it is an interval.
    """
    if given.is_interval_sweep():
        words = "a grid needs values to choose from; an interval needs hparams_search="
        raise ConfigError(f"{given.input_line}: {words}")
    sweep: Any = given.value()
    # Iterating over a shuffled range would first make all its values.
    each = sweep.range() if given.is_range_sweep() else given.sweep_iterator()
    number = len(list(islice(each, MOST + 1)))
    if not 0 < number <= MOST:
        many = f"more than {MOST:,}" if number else "no"
        raise ConfigError(f"{given.input_line}: {many} values; give from 1 to {MOST:,}")
    return list(given.sweep_string_iterator())


def _prepared(sweep: Path, one: Job) -> list[str] | None:
    """Prepare a job's folder; returns the overrides to launch it with, None if it must not run.

    If a job starts again, its old files are moved to a folder beside its own.
    """
    if one.state not in ("waiting", "stopped", "failed"):
        return None
    one.refuse_links()
    (one.folder / OURS).mkdir(parents=True, exist_ok=True)
    # Since the state was read, another sweep may have started or finished the job.
    with suppress(Timeout), FileLock(one.folder / OURS / "lock", timeout=0):
        if one.report:
            return None
        words, last = one.words(sweep), one.folder / "checkpoints" / "last.ckpt"
        if last.is_file() and not one.error:
            words.append(override("ckpt_path", last))
        elif one.error or (one.folder / "run.log").is_file():
            aside = free(one.folder.with_name(f"{one.folder.name}-old"))
            (aside / OURS).mkdir()
            # Its record and lock stay. The error goes last, because it marks the job as failed.
            for left in [*one.folder.iterdir(), one.folder / ERROR]:
                if left.name not in (OURS, JOB) and left.exists():
                    left.rename(aside / left.relative_to(one.folder))
        one.write()
        return words
    return None
