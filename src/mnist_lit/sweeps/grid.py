"""``python train.py -m``: every combination of the values given, each a job in its own folder."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict

from mnist_lit.config.check import parse
from mnist_lit.errors import ConfigError, RunError, reason
from mnist_lit.evaluation.provenance import flat, override
from mnist_lit.files import write_text
from mnist_lit.sweeps import results
from mnist_lit.sweeps.results import identity
from mnist_lit.text import show
from mnist_lit.training import job
from mnist_lit.training.hydra import check, free

# Launchers whose jobs may have several processes: theirs is started with a command of its own.
SEVERAL = ("Processes", "SlurmLauncher")
MOST = 10_000  # jobs of a sweep, and values of a key


@dataclass(frozen=True)
class _Planned:
    """A job, its place in the sweep's folder, its overrides, and its state if it is to be run."""

    place: Path
    job: job.Job
    overrides: list[str]
    before: str | None = "new"


class Grid:
    """Runs every combination of the values given; the same command again goes on.

    A job is known by its config, whatever its number: a finished one is kept, a stopped one goes
    on from its last epoch, a failed one begins anew, and a grid may grow. Jobs fail alone.

    Args:
        config: What Hydra composed for the sweep.
        loader: Composes the jobs.
        launcher: Runs them.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
        self.config, self.loader, self.launcher = config, loader, launcher
        self.built: set[str] = set()
        # With the files that hydra.searchpath adds.
        _, self.files = cast(ConfigLoaderImpl, loader)._parse_overrides_and_create_caching_repo(
            config.hydra.job.config_name, list(config.hydra.overrides.hydra)
        )
        self.chosen = lru_cache(50)(lambda *words: loader.load_sweep_config(config, list(words)))

    def run(self, arguments: Sequence[str]) -> None:
        """Check all jobs, run those that are to be run, and write what they came to.

        Raises:
            UserError: A job cannot be run; none has been started.
            RunError: A job has failed or missed a requirement.
        """
        wanted = Path(self.config.hydra.sweep.dir).expanduser()
        hydras = self.config.hydra.overrides.hydra
        self.named = any(word.startswith("hydra.sweep.dir=") for word in hydras)
        if self.named:
            results.refuse_others(wanted)
        planned = self._plan(arguments, wanted, results.jobs(wanted) if self.named else {})
        folder = free("hydra.sweep.dir", wanted, self.named).resolve()
        with flag_override(self.config.hydra, "readonly", False):
            self.config.hydra.sweep.dir = str(folder)
        write_text(folder / results.CONFIG, OmegaConf.to_yaml(self.config))
        todo = [_prepared(folder, one) for one in planned if one.before is not None]
        done = f", {len(planned) - len(todo)} of them done or under way"
        jobs = f"{len(planned)} job" + "s" * (len(planned) > 1)
        show(f"{jobs}{done * (len(todo) < len(planned))}: {folder}")
        try:
            if todo:
                self.launcher.launch(todo, initial_job_idx=0)
        except Exception as error:  # of a launcher, as when one of its workers is killed
            show(f"error: hydra/launcher: {reason(error)}")
        finally:
            show(results.write(folder))
            mine = {folder / one.place for one in planned}
            everything = [one for one in results.gather(folder) if one.folder in mine]
            states = [one.state for one in results.unfinished(everything)]
            if {*states} - {results.MISSED}:
                again = override("hydra.sweep.dir", folder)
                show(f"the same command with {again} goes on with what is not finished")
        if states:
            each = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
            raise RunError(f"of {jobs} {each}")

    def _jobs(self, arguments: Sequence[str]) -> list[list[str]]:
        """Return the overrides of every job."""
        parser = OverridesParser.create(self.loader)
        given = {one.get_key_element(): one for one in parser.parse_overrides(list(arguments))}
        swept = [one for one in given.values() if one.is_sweep_override()]
        for one in swept:
            if not one.is_discrete_sweep():
                raise ConfigError(
                    f"{one.input_line}: a grid needs values to choose from, as choice(…) or "
                    "range(…); an interval is searched: hparams_search=default"
                )
        if (number := math.prod(len(values(one)) for one in swept)) > MOST:
            words = " ".join(str(one.input_line) for one in swept)
            raise ConfigError(f"{words}: these are {number:,} jobs; at most {MOST:,} are possible")
        [combinations] = BasicSweeper.split_arguments(list(given.values()), None)
        # A job's place in the grid, which is not that among the jobs that are still to be run.
        return [
            [word.replace("${hydra:job.num}", str(number)) for word in words]
            for number, words in enumerate(combinations)
        ]

    def _plan(
        self, arguments: Sequence[str], root: Path, found: Mapping[Path, job.Job]
    ) -> list[_Planned]:
        """Return every job, checked, with what is to become of it."""
        jobs = self._jobs(arguments)
        if any("scheduler.interval" in one.config for one in found.values()):
            raise ConfigError(
                f"hydra.sweep.dir={root}: begun with the config of an earlier version, whose keys "
                "were others; finish it with that version, or give another folder"
            )
        known = {_key(one.config): (folder, one) for folder, one in found.items()}
        numbers = count(max((one.number for one in found.values()), default=-1) + 1)
        planned: dict[str, _Planned] = {}
        if len(jobs) > 20:
            show(f"checking {len(jobs):,} jobs …")
        for number, overrides in enumerate(jobs):
            composed = self._compose(overrides, number)
            config = self._checked(composed)
            if (key := _key(config)) in planned:
                raise ConfigError(
                    f"{' '.join(overrides)}: the same training as "
                    f"{' '.join(planned[key].overrides)}; a sweep needs jobs that differ"
                )
            folder, old = known.get(key, (None, None))
            said = [word for word in overrides if not word.startswith("hydra.")]
            new = job.Job(old.number if old else next(numbers), said, config)
            if folder is None or old is None:
                planned[key] = _Planned(self._place(composed, new.number, root), new, overrides)
            else:
                kept = old.state == "finished" or job.is_running(folder)
                before = None if kept else old.state
                planned[key] = _Planned(folder.relative_to(root), new, overrides, before)
        for one, two in pairwise(sorted(one.place for one in planned.values())):
            if one == two or one in two.parents:
                raise ConfigError(f"hydra.sweep.subdir: two jobs would have the folder {one}")
        return list(planned.values())

    def _place(self, composed: DictConfig, number: int, root: Path) -> Path:
        """Return where a new job lies in the sweep's folder."""
        with flag_override(composed.hydra, "readonly", False):
            composed.hydra.job.num = composed.hydra.job.id = number
        given, sweep = composed.hydra.sweep.subdir, root.resolve()
        folder = Path(sweep, given).resolve()
        if sweep not in folder.parents:
            raise ConfigError(f"hydra.sweep.subdir={given}: not a folder within {sweep}")
        if self.named and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: holds something else; give another hydra.sweep.dir")
        return folder.relative_to(sweep)

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """Compose a job as Hydra does, but read the files once for each choice of groups."""
        given = OverridesParser.create().parse_overrides(list(overrides))
        values = [
            one
            for one in given
            if isinstance(one.value(), dict) or not self.files.group_exists(one.key_or_group)
        ]
        composed = self.chosen(*(one.input_line for one in given if one not in values)).copy()
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        with open_dict(composed):
            composed.hydra.overrides.task = list(overrides)
            composed.hydra.job.num = composed.hydra.job.id = number
            composed.hydra.job.override_dirname = get_overrides_dirname(
                given, **composed.hydra.job.config.override_dirname
            )
        return composed

    def _checked(self, composed: DictConfig) -> dict[str, Any]:
        """Return what makes a job this one; of jobs that differ in seeds alone one is built."""
        HydraConfig.instance().set_config(composed)
        run = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        run.run_dir = "not made yet"
        config = parse(run)
        setting = _key(flat(config.model_dump(exclude={"seed": True, "data": {"split_seed"}})))
        if setting not in self.built:
            self._check_processes(composed)
            check(composed)
            self.built.add(setting)
        return identity(config)

    def _check_processes(self, composed: DictConfig) -> None:
        strategy = str(composed.trainer.get("strategy", ""))
        launcher = str(composed.hydra.launcher._target_).rpartition(".")[2]
        if strategy.startswith("ddp") and launcher not in SEVERAL:
            raise ConfigError(
                f"trainer.strategy={strategy}: {launcher} trains a job in one process; "
                "hydra/launcher=processes can train it in several, and submitit_slurm with "
                "tasks_per_node"
            )
        nodes = composed.trainer.get("num_nodes") or 1
        if nodes != 1 and launcher != "SlurmLauncher":
            raise ConfigError(
                f"trainer.num_nodes={nodes}: {launcher} trains a job on this machine alone; "
                "hydra/launcher=submitit_slurm can train it on several"
            )


def _key(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def values(given: Override) -> list[Any]:
    """Return the values of a sweep; raises :class:`ConfigError` if there are none or too many."""
    sweep: Any = given.value()
    each = sweep.range() if isinstance(sweep, RangeSweep) else given.sweep_iterator()
    found = list(islice(each, MOST + 1))
    if not 0 < len(found) <= MOST:
        many = f"more than {MOST:,}" if found else "no"
        raise ConfigError(f"{given.input_line}: {many} values; give from 1 to {MOST:,}")
    return found


def _prepared(sweep: Path, one: _Planned) -> list[str]:
    """Make a job's folder ready, and return what the job is launched with.

    What a job that begins anew has left keeps lying there, under another name.
    """
    folder = sweep / one.place
    words = [
        *one.overrides,
        override("hydra.sweep.dir", sweep),
        override("hydra.sweep.subdir", one.place),
    ]
    last = folder / "checkpoints" / "last.ckpt"
    if one.before in ("running", "stopped") and last.is_file():
        job.write(folder, replace(one.job, state="stopped"))  # should it not come to its start
        return [*words, override("ckpt_path", last)]
    if one.before in ("running", "stopped", "failed"):
        aside = (folder.with_name(f"{folder.name}-old-{number}") for number in count(1))
        kept = folder.rename(next(path for path in aside if not path.exists()))
        (kept / job.FILE).rename(kept / f"old-{job.FILE}")  # no longer a job of this sweep
    job.write(folder, one.job)
    return words
