"""The jobs of a sweep or a search: trainings in their own folders, and their states.

``job.json`` identifies a job; the files of its run show its state. Imports nothing heavy.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf, flag_override

from mnist_lit.config.schema import Config
from mnist_lit.errors import ConfigError, line
from mnist_lit.evaluation.provenance import flat, override
from mnist_lit.files import write_text
from mnist_lit.folders import shown
from mnist_lit.training import rundir
from mnist_lit.validation import PLAIN, validated

CONFIG = "multirun.yaml"
WRITTEN = (CONFIG, "results.csv", "results.html", "study.db", "mlflow.db")  # in a sweep's folder
MISSED = "missed requirements"


@dataclass(frozen=True)
class Job:
    """One training of a sweep or a search.

    Attributes:
        folder: Its folder.
        number: Its number in the sweep; it stays the same if the sweep grows.
        overrides: Its overrides, as ``optimizer=sgd``.
        config: Its identity: config values by keys as ``optimizer.lr``.
        label: Its place in the sweep and varied overrides, as ``2 of 4  optimizer=sgd``; or empty.
    """

    __pydantic_config__: ClassVar[Any] = PLAIN

    folder: Path
    number: int
    overrides: list[str]
    config: dict[str, Any]
    label: str = ""

    def refuse_links(self) -> None:
        """Raise ``ConfigError`` if the job would write through a link in its sweep's folder."""
        if self.folder.resolve() != self.folder:
            raise ConfigError(f"{self.folder}: is a link, and a job writes there; remove it")
        rundir.refuse_links(self.folder)

    def write(self) -> None:
        """Make the folder and, in it, ``job.json``; raises ``ConfigError`` if one is a link."""
        self.refuse_links()
        (self.folder / rundir.OURS).mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_text(self.folder / rundir.JOB, json.dumps(kept, indent=1) + "\n")

    def words(self, sweep: Path) -> list[str]:
        """Return the overrides that launch the job in its sweep's folder."""
        place = override("hydra.sweep.subdir", self.folder.relative_to(sweep))
        return [*self.overrides, override("hydra.sweep.dir", sweep), place]

    @property
    def report(self) -> dict[str, Any]:
        """The content of ``report.json``; empty if the training is not finished."""
        file = self.folder / "report.json"
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
        return found

    @property
    def state(self) -> str:
        """The state in one word; a killed job is ``stopped``."""
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
        """The reason of its failure in one line, or an empty string."""
        file = self.folder / rundir.ERROR
        return str(json.loads(file.read_bytes())) if file.is_file() else ""

    @property
    def why(self) -> str:
        """The reason why the job failed, or the requirements that it missed."""
        return rundir.missed(self.report) if self.state == MISSED else self.error

    @property
    def objective(self) -> str:
        """The objective of a search: ``optimized_metric`` as a key for ``value``."""
        return str(self.config["optimized_metric"]).replace("/", "_metrics.")

    @property
    def ranked_by(self) -> str:
        """The key by which a sweep ranks: the objective, but of the last epoch."""
        return re.sub("^(best_)?val_", "last_val_", self.objective)

    def value(self, key: str) -> float:
        """Return a number of the report by its key, as ``val_metrics.f1``; NaN if there is none."""
        value = flat(self.report).get(key)
        return math.nan if value is None or not math.isfinite(value) else float(value)

    @property
    def said(self) -> dict[str, str]:
        """The overrides by their keys."""
        return dict(word.lstrip("+~").partition("=")[::2] for word in self.overrides)


def tally(states: Iterable[str]) -> str:
    """Return the number of each state, as ``2 finished, 1 failed``."""
    return ", ".join(f"{number} {state}" for state, number in Counter(states).items())


def read(folder: Path) -> Job:
    """Return the job of a folder.

    Raises:
        ConfigError: A file in the folder is not as a job of this version leaves it.
    """
    file = folder / rundir.JOB
    try:
        found: Job = validated(Job, {**json.loads(file.read_bytes()), "folder": folder})
        file = folder / rundir.ERROR
        _ = found.error
        file = folder / "report.json"
        if report := found.report:  # it has all that a sweep needs
            _ = found.why, found.value(found.ranked_by)
            _ = report["protocol"], report["wall_seconds"] / 1
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        words = f"not what a job of this version leaves: {line(error)}"
        raise ConfigError(f"{file}: {words}; move it away, or give another folder") from None
    return found


def identity(config: Config) -> dict[str, Any]:
    """Return the identity of a job: config values by keys as ``optimizer.lr``."""
    # Output folder, checkpoint and loggers are not part of it.
    return flat(config.model_dump(exclude={"run_dir", "ckpt_path", "logger"}))


def jobs(sweep: Path) -> list[Job]:
    """Return the jobs of a sweep in the order of their numbers.

    A sweep inside this one has its own jobs. A link or a pipe is no job.
    """
    sweep = sweep.resolve()
    inner = [file.parent for file in sweep.glob(f"*/**/{CONFIG}")]
    files = [
        file
        for file in sweep.glob(f"*/**/{rundir.JOB}")
        if file.is_file() and file.resolve() == file
    ]
    own = [file.parent for file in files if not any(file.is_relative_to(other) for other in inner)]
    return sorted(map(read, own), key=lambda one: one.number)


def write_config(sweep: Path, config: DictConfig) -> None:
    """Write the config of a sweep, with its folder, into that folder."""
    with flag_override(config.hydra, "readonly", False):
        config.hydra.sweep.dir = str(sweep)
    write_text(sweep / CONFIG, OmegaConf.to_yaml(config))


def refuse_others(sweep: Path, study: str | None = None, names: Iterable[str] = WRITTEN) -> None:
    """Raise ``ConfigError`` if a folder has one of the names but is not this sweep's, or a link.

    Args:
        sweep: The folder.
        study: The study of a search; None for a grid.
        names: The names that the sweep writes.
    """
    rundir.refuse_links(sweep, [f"{name}*" for name in WRITTEN])  # also the journal of a database
    there, config = [name for name in names if (sweep / name).exists()], sweep / CONFIG
    if there and not (config.is_file() and rundir.SWEEPER in config.read_text(errors="replace")):
        at = shown(sweep / there[0])
        raise ConfigError(f"{at}: not of a sweep; give another hydra.sweep.dir")
    if there and (name := OmegaConf.select(OmegaConf.load(config), "search.study")) != study:
        words = f"the study {name}" if name else "a grid"
        raise ConfigError(f"{sweep}: {words} lies there; give another hydra.sweep.dir")
