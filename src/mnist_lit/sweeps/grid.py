"""``python train.py -m``: every combination of the values given, each a job in its own folder."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict

from mnist_lit.errors import ConfigError, RunError, reason
from mnist_lit.evaluation.origin import override
from mnist_lit.sweeps import results
from mnist_lit.sweeps.results import identity
from mnist_lit.text import show
from mnist_lit.training import job
from mnist_lit.training.hydra import check, free

# Launchers whose jobs may have several processes: theirs is started with a command of its own.
SEVERAL = ("Processes", "SlurmLauncher")


@dataclass(frozen=True)
class _Planned:
    """A job, where it lies, and what it is launched with; nothing if it need not be."""

    folder: Path
    job: job.Job
    overrides: list[str]
    goes_on: bool = False


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

    def run(self, arguments: Sequence[str]) -> None:
        """Check all jobs, run those that are to be run, and write what they came to.

        Raises:
            UserError: A job cannot be run; none has been started.
            RunError: A job has failed or missed a requirement.
        """
        wanted = Path(self.config.hydra.sweep.dir).expanduser()
        grid = self._grid(arguments)
        named = any(
            word.startswith("hydra.sweep.dir=") for word in self.config.hydra.overrides.hydra
        )
        found = results.jobs(wanted) if named else {}
        folder = free("hydra.sweep.dir", wanted, named).resolve()
        with flag_override(self.config.hydra, "readonly", False):
            self.config.hydra.sweep.dir = str(folder)
        places = {folder / path.relative_to(wanted): one for path, one in found.items()}
        planned = self._plan(grid, places)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        todo = [one for one in planned if one.overrides]
        for one in todo:
            if one.folder in places and not one.goes_on:
                shutil.rmtree(one.folder)
            job.write(one.folder, one.job)
        done = f", {len(planned) - len(todo)} of them done or under way"
        jobs = f"{len(planned)} job" + "s" * (len(planned) > 1)
        show(f"{jobs}{done * (len(todo) < len(planned))}: {folder}")
        try:
            if todo:
                self.launcher.launch([one.overrides for one in todo], initial_job_idx=0)
        except Exception as error:  # of a launcher, as when one of its workers is killed
            show(f"error: hydra/launcher: {reason(error)}")
        finally:
            show(results.write(folder))
            everything = results.gather(folder)
            mine = [one for one in everything if one.folder in {p.folder for p in planned}]
            states = [one.state for one in results.unfinished(mine)]
            if {*states} - {results.MISSED}:
                again = override("hydra.sweep.dir", folder)
                show(f"the same command with {again} goes on with what is not finished")
        if states:
            each = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
            raise RunError(f"of {jobs} {each}")

    def _grid(self, arguments: Sequence[str]) -> list[tuple[list[str], dict[str, Any]]]:
        """Return the overrides of every job and its config, checked."""
        parser = OverridesParser.create(self.loader)
        given = parser.parse_overrides(list(arguments))
        for one in given:
            if one.is_sweep_override() and not one.is_discrete_sweep():
                raise ConfigError(
                    f"{one.input_line}: a grid needs values to choose from, as choice(…) or "
                    "range(…); an interval is searched: hparams_search=default"
                )
        [combinations] = BasicSweeper.split_arguments(given, None)
        grid: list[tuple[list[str], dict[str, Any]]] = []
        for number, words in enumerate(combinations):
            # Its place in the grid, which is not that among the jobs that are still to be run.
            overrides = [word.replace("${hydra:job.num}", str(number)) for word in words]
            composed = self._compose(overrides, number)
            self._check_processes(composed)
            grid.append((overrides, identity(check(composed))))
        first: dict[str, list[str]] = {}
        for overrides, config in grid:
            if (other := first.setdefault(_key(config), overrides)) is not overrides:
                raise ConfigError(
                    f"{' '.join(overrides)}: the same training as {' '.join(other)}; a sweep needs "
                    "jobs that differ"
                )
        return grid

    def _plan(
        self,
        grid: Sequence[tuple[list[str], dict[str, Any]]],
        found: dict[Path, job.Job],
    ) -> list[_Planned]:
        known = {_key(one.config): folder for folder, one in found.items()}
        numbers = count(max((one.number for one in found.values()), default=-1) + 1)
        planned: dict[Path, _Planned] = {}
        for overrides, config in grid:
            old = known.get(_key(config))
            number = next(numbers) if old is None else found[old].number
            folder = old or self._folder(overrides, number)
            if folder in planned:
                raise ConfigError(
                    f"hydra.sweep.subdir: two jobs would have the folder {folder.name}"
                )
            if old is None and folder.exists() and any(folder.iterdir()):
                raise ConfigError(f"{folder}: holds something else; give another hydra.sweep.dir")
            said = [word for word in overrides if not word.startswith("hydra.")]
            planned[folder] = self._planned(
                folder, job.Job(number, said, config), overrides, found.get(folder)
            )
        return list(planned.values())

    def _planned(
        self, folder: Path, new: job.Job, overrides: list[str], old: job.Job | None
    ) -> _Planned:
        if old is not None and (old.state == "finished" or job.is_running(folder)):
            return _Planned(folder, old, [])
        sweep = Path(self.config.hydra.sweep.dir)
        words = [
            *overrides,
            override("hydra.sweep.dir", sweep),
            override("hydra.sweep.subdir", folder.relative_to(sweep)),
        ]
        last = folder / "checkpoints" / "last.ckpt"
        goes_on = old is not None and old.state in ("running", "stopped") and last.is_file()
        if goes_on:
            new = replace(new, state="stopped")  # and goes on, should it not come to its start
        return _Planned(
            folder, new, [*words, override("ckpt_path", last)] if goes_on else words, goes_on
        )

    def _folder(self, overrides: list[str], number: int) -> Path:
        return Path(
            self.config.hydra.sweep.dir, str(self._compose(overrides, number).hydra.sweep.subdir)
        )

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        composed = self.loader.load_sweep_config(self.config, overrides)
        with open_dict(composed):
            composed.hydra.job.num = composed.hydra.job.id = number
        return composed

    def _check_processes(self, composed: DictConfig) -> None:
        strategy = str(composed.trainer.get("strategy", ""))
        launcher = str(composed.hydra.launcher._target_).rpartition(".")[2]
        if strategy.startswith("ddp") and launcher not in SEVERAL:
            raise ConfigError(
                f"trainer.strategy={strategy}: {launcher} trains a job in one process; "
                "hydra/launcher=processes can train it in several, and submitit_slurm with "
                "tasks_per_node"
            )


def _key(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
