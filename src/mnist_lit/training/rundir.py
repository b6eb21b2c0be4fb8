"""The folder of a run: its lock, and the error of a failed run.

Imports nothing heavy.
"""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mnist_lit.errors import ConfigError, StoppedError, line
from mnist_lit.files import UNFINISHED, write_text
from mnist_lit.folders import shown
from mnist_lit.text import show

OURS = ".mnist-lit"  # the first thing that is made in a run's folder; it holds the lock
ERROR = f"{OURS}/error.json"  # one line: why the run failed
# The other files of a run; Hydra writes its own first.
WRITTEN = (
    *("checkpoints", "figures", "tensorboard", "wandb", "mlflow.db*", "metrics.csv"),
    *("hparams.yaml", "report.html", "report.json", "run.log", "packages.txt", "changes.diff"),
    f"{UNFINISHED}*",
)
HYDRAS = ".hydra"
SWEEPER = "hydra_plugins.mnist_lit_sweeps.Sweep"  # of this project; the only one that is used
JOB = "job.json"  # in the folder of a sweep's job: its identity
# The end of a journal that names another file, which SQLite removes; one database writes none.
NAMING = bytes.fromhex("d9d505f920a163d7")


def is_running(folder: Path) -> bool:
    """Return whether a process trains there now; a killed one does not."""
    lock = folder / OURS / "lock"
    try:
        # FileLock empties the target of a link.
        if lock.parent.is_dir() and not (lock.parent.is_symlink() or lock.is_symlink()):
            with FileLock(lock, timeout=0):
                pass
    except OSError as error:  # also if it is no lock file; `claim` then gives the reason
        return isinstance(error, Timeout)
    return False


def in_a_sweep() -> bool:
    """Return whether this run is a job of a sweep."""
    return HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().job, "num")


@contextmanager
def announced(folder: Path) -> Iterator[None]:
    """Print a line at the start and at the end of a job, if its sweep has given it a label."""
    label = json.loads((folder / JOB).read_bytes())["label"]
    if not label or not is_first():
        yield
        return
    show(label)
    try:
        yield
    except Exception as error:
        show(f"{label}  failed: {line(error)}")
        raise
    report = json.loads((folder / "report.json").read_bytes())
    show(f"{label}  {report['last_val_accuracy']:.2%}  {report['wall_seconds']:.0f} s")


def missed(report: Mapping[str, Any]) -> str:
    """Return the titles of the requirements that a finished run has missed."""
    checks = report["requirements"].values()
    return ", ".join(check["title"] for check in checks if not check["passed"])


def is_first() -> bool:
    """Return whether this is the first process of a training, or the only one."""
    ranks = ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def goes_on(folder: Path, ckpt_path: str | None) -> bool:
    """Return whether a run is resumed in its own folder."""
    begun = Path(ckpt_path or "").resolve()
    here = folder.resolve()
    return bool(ckpt_path) and begun in (here, here / "checkpoints" / "last.ckpt")


def claim(
    folder: Path, ckpt_path: str | None = None, key: str = "run_dir", auto: bool = False
) -> AbstractContextManager[Any]:
    """Make the folder of a run, and lock it until the context is left; ``key`` is for messages.

    With ``auto``, a run that was killed in its first epoch starts again, and its ``best.ckpt`` gets
    another name.

    The process that has the lock may claim it again. Only the first process of a run locks it.

    Raises:
        ConfigError: Another process trains there, the run is finished, the folder has another run,
            a file that this run would replace or a link that it would follow, or it cannot be made.
    """
    folder = folder.resolve()  # `missing/..` would be another folder once `missing` is made
    at = f"{key}={shown(folder)}"
    # The system releases the lock of a dead process. A process has one counting lock per folder.
    lock = FileLock(folder / OURS / "lock", timeout=0, is_singleton=True)
    if lock.is_locked or not is_first():
        return lock.acquire() if lock.is_locked else nullcontext()
    try:
        refuse_links(folder)
        resumes = goes_on(folder, ckpt_path)
        if resumes and (folder / "report.json").is_file():
            raise ConfigError(f"{at}: this run is finished")
        _refuse_others(folder, at, resumes, auto)
        (folder / OURS).mkdir(parents=True, exist_ok=True)
        claimed = lock.acquire()
        last, best = (folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
        if auto and best.exists() and not last.exists():
            names = (best.with_name(f"best.ckpt.old{number or ''}") for number in count())
            best.rename(next(name for name in names if not os.path.lexists(name)))
        return claimed
    except Timeout:
        raise ConfigError(f"{at}: another process trains there") from None
    except OSError as error:
        words = f"cannot be made: {error.strerror}; give another folder"
        raise ConfigError(f"{at}: {words}") from None


def refuse_links(
    folder: Path, names: Iterable[str] = (OURS, HYDRAS, JOB, "output.log", *WRITTEN)
) -> None:
    """Raise ``ConfigError`` if one of the names is a link or a pipe."""
    places = ("*", *(f"{inner}/*" for inner in (OURS, HYDRAS, "figures", "tensorboard")))
    for path in (path for place in places for path in folder.glob(place)):
        written = path.parent != folder or any(path.match(name) for name in names)
        linked = path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)
        if written and (linked or not (path.is_file() or path.is_dir())):
            words = "is a link or a pipe, and a run writes there; remove it"
            raise ConfigError(f"{shown(path)}: {words}")


def refuse_journal(database: Path) -> None:
    """Raise ``ConfigError`` if the journal of a database makes SQLite remove another file."""
    file = Path(f"{database.resolve()}-journal")
    with suppress(OSError), file.open("rb") as journal:  # there is none, or a shorter one
        journal.seek(-len(NAMING), os.SEEK_END)
        if journal.read() == NAMING:
            raise ConfigError(f"{file}: SQLite would remove a file that it names; move it away")


def _refuse_others(folder: Path, at: str, resumes: bool, auto: bool) -> None:
    """Raise if the run would replace files there. A running one is left to the lock."""
    # An empty folder may be the user's. Some versions of filelock remove the lock of a stopped job.
    ours = any((folder / OURS).glob("*")) or (folder / JOB).is_file()
    if is_running(folder):  # this may make the lock
        return
    if (folder / JOB).is_file() and not (resumes or in_a_sweep()):
        raise ConfigError(f"{at}: a job of a sweep lies there; give another folder")
    kept = {path.name for path in (folder / "checkpoints").glob("[!.]*.ckpt")}
    if auto and ours:
        kept.discard("best.ckpt")
    begun = bool(kept) or (folder / "report.json").is_file()
    if begun and not resumes and (ours or (folder / HYDRAS / "overrides.yaml").is_file()):
        resume = shlex.quote(f"ckpt_path={shown(folder)}")
        words = f"give another folder, or resume that run: {resume}"
        raise ConfigError(f"{at}: another run lies there; {words}")
    # From Python, a run may use the folder of another Hydra program.
    names = WRITTEN if at.startswith("run_dir=") else (HYDRAS, *WRITTEN)
    theirs = [path.name for name in names for path in folder.glob(name)]
    if resumes:  # in its checkpoints; the folder may have lost its lock
        theirs = [name for name in theirs if name != "checkpoints"]
        ours = (folder / OURS).is_dir()
    if theirs and not ours:
        words = f"holds {theirs[0]}, a name that a run writes; give another folder"
        raise ConfigError(f"{at}: it is no run of mnist-lit and {words}")


@contextmanager
def recorded(folder: Path, ckpt_path: str | None = None) -> Iterator[None]:
    """Claim the folder of a run, and release it at the end; write the error of a failed run."""
    with claim(folder, ckpt_path) as lock:
        try:
            if lock is not None:
                (folder / ERROR).unlink(missing_ok=True)
            yield
        except Exception as error:
            if lock is not None and not isinstance(error, StoppedError):
                with suppress(OSError):  # a full disk; the error says so
                    write_text(folder / ERROR, json.dumps(line(error)))
            raise
        finally:
            if lock is not None:
                lock.release(force=True)  # also the claim from before Hydra wrote its files
