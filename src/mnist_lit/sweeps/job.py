"""The jobs of a sweep or a search: trainings in folders of their own, and how each stands.

What makes it this job is in ``job.json``; how it stands is told from what the run left beside it.
Imports nothing heavy.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf, flag_override

from mnist_lit.config.schema import Config
from mnist_lit.errors import ConfigError, line
from mnist_lit.evaluation.provenance import flat, override
from mnist_lit.files import write_text
from mnist_lit.training import rundir
from mnist_lit.validation import PLAIN, validated

CONFIG = "multirun.yaml"
WRITTEN = (CONFIG, "results.csv", "results.html")  # into the folder of a sweep
OURS = "hydra_plugins.mnist_lit_sweeps.Sweep"  # stands in every CONFIG of this project's
MISSED = "missed requirements"


@dataclass(frozen=True)
class Job:
    """One training of a sweep or a search.

    Attributes:
        folder: Where it is trained.
        number: Within the sweep; a sweep that grows keeps the numbers it has given.
        overrides: What the sweep says of it, as ``optimizer=sgd``.
        config: All that makes it this job and no other, by keys as ``optimizer.lr``.
    """

    __pydantic_config__: ClassVar[Any] = PLAIN

    folder: Path
    number: int
    overrides: list[str]
    config: dict[str, Any]

    def write(self) -> None:
        """Make the folder and, in it, ``job.json``."""
        (self.folder / rundir.OURS).mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_text(self.folder / rundir.JOB, json.dumps(kept, indent=1) + "\n")

    def words(self, sweep: Path) -> list[str]:
        """Return what the job is launched with, in the folder of its sweep."""
        place = override("hydra.sweep.subdir", self.folder.relative_to(sweep))
        return [*self.overrides, override("hydra.sweep.dir", sweep), place]

    @property
    def report(self) -> dict[str, Any]:
        """What the training came to, ``report.json``; empty of one that is not finished."""
        file = self.folder / "report.json"
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
        return found

    @property
    def state(self) -> str:
        """How it stands, in a word; one that was killed is ``stopped``."""
        if self.report:
            missed = not self.report["passed"] and self.config["requirements.enforce"]
            return MISSED if missed else "finished"
        if rundir.is_running(self.folder):
            return "running"
        if self.error:
            return "failed"
        return "stopped" if (self.folder / "run.log").is_file() else "waiting"

    @property
    def error(self) -> str:
        """Why it failed, in a line."""
        file = self.folder / rundir.ERROR
        return str(json.loads(file.read_bytes())) if file.is_file() else ""

    @property
    def why(self) -> str:
        """Why there is no result, or it is not good enough."""
        if self.state != MISSED:
            return self.error
        checks = self.report["requirements"].items()
        return ", ".join(name for name, check in checks if not check["passed"])

    @property
    def objective(self) -> str:
        """What the sweep looks at: the job's ``optimized_metric``."""
        return str(self.config["optimized_metric"])

    @property
    def value(self) -> float:
        """What the objective came to; NaN where it is not known."""
        stage, _, name = self.objective.partition("/")
        found = self.report.get("val_metrics", {}) if stage == "val" else self.report
        value = found.get(name or stage)
        return math.nan if value is None or not math.isfinite(value) else float(value)

    @property
    def said(self) -> dict[str, str]:
        """The overrides by their keys."""
        return dict(word.lstrip("+~").partition("=")[::2] for word in self.overrides)


def read(folder: Path) -> Job:
    """Return the job whose folder this is.

    Raises:
        ConfigError: It is not a job's, or not as a training leaves it.
    """
    file = folder / rundir.JOB
    try:
        found: Job = validated(Job, {**json.loads(file.read_bytes()), "folder": folder})
        file = folder / "report.json"
        if report := found.report:  # what a sweep takes from it is there
            _ = found.why, found.value, report["protocol"], report["wall_seconds"] / 1
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        words = f"not what a job of this version leaves: {line(error)}"
        raise ConfigError(f"{file}: {words}; move it away, or give another folder") from None
    return found


def identity(config: Config) -> dict[str, Any]:
    """Return what makes a job this one and no other, by keys as ``optimizer.lr``."""
    # Where a job lies, what it went on from and who watches it are not what it is.
    return flat(config.model_dump(exclude={"run_dir", "ckpt_path", "logger"}))


def jobs(sweep: Path) -> list[Job]:
    """Return the jobs of a sweep in the order of their numbers.

    A sweep within it has jobs of its own. A link leads to no job.
    """
    sweep = sweep.resolve()
    inner = [file.parent for file in sweep.glob(f"*/**/{CONFIG}")]
    files = [file for file in sweep.glob(f"*/**/{rundir.JOB}") if file.resolve() == file]
    own = [file.parent for file in files if not any(file.is_relative_to(other) for other in inner)]
    return sorted(map(read, own), key=lambda one: one.number)


def write_config(sweep: Path, config: DictConfig) -> None:
    """Write the config of a sweep into its folder, which the config then names."""
    with flag_override(config.hydra, "readonly", False):
        config.hydra.sweep.dir = str(sweep)
    write_text(sweep / CONFIG, OmegaConf.to_yaml(config))


def refuse_others(sweep: Path, names: Iterable[str] = WRITTEN) -> None:
    """Raise :class:`ConfigError` if a folder has one of the names, and is no sweep of ours."""
    there, config = [name for name in names if (sweep / name).exists()], sweep / CONFIG
    if there and not (config.is_file() and OURS in config.read_text(errors="replace")):
        raise ConfigError(f"{sweep / there[0]}: not of a sweep; give another hydra.sweep.dir")
