"""The folder of a run: which process has it and, of a sweep's job, how it stands (``job.json``).

Imports nothing heavy.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from filelock import BaseFileLock, FileLock, Timeout

from mnist_lit.errors import ConfigError, StoppedError, UserError, reason
from mnist_lit.files import UNFINISHED, write_text
from mnist_lit.validation import validated

FILE = "job.json"
OURS = ".mnist-lit"  # a folder in that of a run, made before anything else; it holds the lock
# What a run writes beside it, and what Hydra writes for it first.
WRITTEN = (
    *("checkpoints", "figures", "tensorboard", "wandb", "mlflow.db", "metrics.csv", "hparams.yaml"),
    *("report.html", "report.json", "run.log", "packages.txt", "changes.diff", f"{UNFINISHED}*"),
)
HYDRAS = ".hydra"
ENDS_WITH_STDIN = "MNIST_LIT_ENDS_WITH_STDIN"  # set by a sweep for the processes of its jobs
State = Literal["waiting", "running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """One training of a sweep.

    Attributes:
        number: Within the sweep; a sweep that grows keeps the numbers it has given.
        overrides: What the sweep says of it, as ``optimizer=sgd``.
        config: All that makes it this job and no other, by keys as ``optimizer.lr``.
        state: How it stands. One that is ``running`` may have been killed.
        error: Why it failed or stopped, in a line.
    """

    number: int
    overrides: list[str]
    config: dict[str, Any]
    state: State = "waiting"
    error: str | None = None


def read(folder: Path) -> Job | None:
    """Return the job whose folder this is, if it is one's.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        content = (folder / FILE).read_bytes()
        found: Job = validated(Job, content)
    except FileNotFoundError:
        return None
    except (OSError, ConfigError) as error:
        raise ConfigError(
            f"{folder / FILE}: not of a job of a sweep: {reason(error)}; give another folder or, "
            "if it was one, remove it to train the job again"
        ) from None
    if found.state == "finished" and not (folder / "report.json").is_file():
        return replace(found, state="stopped", error="its report.json has been removed")
    return found


def write(folder: Path, job: Job) -> None:
    """Write ``job.json``."""
    write_text(folder / FILE, json.dumps(asdict(job), indent=1) + "\n")


def is_running(folder: Path) -> bool:
    """Say whether a process trains there now; one that was killed does not."""
    try:
        if (folder / OURS).is_dir():
            with FileLock(folder / OURS / "lock", timeout=0):
                pass
    except Timeout:
        return True
    except OSError:  # something that is no lock of ours; to claim the folder says what
        return False
    return False


def is_first() -> bool:
    """Say whether this is the first process of a training, or the only one."""
    ranks = ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def goes_on(folder: Path, ckpt_path: str | None) -> bool:
    """Say whether a run is resumed in its own folder."""
    begun = Path(ckpt_path or "").resolve()
    here = folder.resolve()
    return bool(ckpt_path) and begun in (here, here / "checkpoints" / "last.ckpt")


def claim(
    folder: Path, ckpt_path: str | None = None, key: str = "run_dir"
) -> AbstractContextManager[Any]:
    """Make the folder of a run, which ``key`` names, and lock it until the context is left.

    The process that has it may claim it again. Of several processes of a run the first claims.

    Raises:
        ConfigError: Another process trains there, another run or a file lies there that this one
            would replace, or it cannot be made.
    """
    lock = _lock(folder)
    if lock.is_locked or not is_first():
        return lock.acquire() if lock.is_locked else nullcontext()
    try:
        if folder.is_dir() and not is_running(folder) and not goes_on(folder, ckpt_path):
            _refuse(folder, key)
        (folder / OURS).mkdir(parents=True, exist_ok=True)
        return lock.acquire()
    except Timeout:
        raise ConfigError(f"{key}={folder}: another process trains there") from None
    except OSError as error:
        raise ConfigError(
            f"{key}={folder}: cannot be made: {error.strerror}; give another folder"
        ) from None


def _refuse(folder: Path, key: str) -> None:
    """Raise if something would be lost there, unless it is of a job that has been made ready."""
    ours, job = (folder / OURS).is_dir(), read(folder)
    if job is not None and job.state == "waiting":
        return
    begun = (folder / "report.json").is_file() or any((folder / "checkpoints").glob("[!.]*"))
    if begun and (ours or (folder / HYDRAS / "overrides.yaml").is_file()):
        raise ConfigError(
            f"{key}={folder}: another run lies there; give another folder, or go on with that "
            f"run: ckpt_path={folder}"
        )
    # From Python a run may have the folder of another program of Hydra's.
    names = WRITTEN if key == "run_dir" else (HYDRAS, *WRITTEN)
    theirs = [path.name for name in names for path in folder.glob(name)]
    if theirs and not ours:
        raise ConfigError(
            f"{key}={folder}: it is no run of mnist-lit and holds {theirs[0]}, a name that a run "
            "writes; give another folder"
        )


def end_with_stdin() -> None:
    """End as by SIGTERM when standard input ends, if the sweep that started this asks for it."""
    if os.environ.pop(ENDS_WITH_STDIN, None):
        threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def recorded(folder: Path, ckpt_path: str | None = None) -> Iterator[None]:
    """Claim the folder of a run, which it gives up; of a job, keep how it stands meanwhile."""
    with claim(folder, ckpt_path) as lock:
        job, state, said = read(folder) if lock is not None else None, "finished", None
        try:
            if job is not None:
                write(folder, replace(job, state="running", error=None))
            yield
        except BaseException as error:
            stopped = isinstance(error, StoppedError) or not isinstance(error, Exception)
            state, said = "stopped" if stopped else "failed", line(error)
            raise
        finally:
            if job is not None:
                write(folder, replace(job, state=cast(State, state), error=said))
            if lock is not None:
                lock.release(force=True)  # also what was claimed before Hydra wrote its files


def line(error: BaseException) -> str:
    """Return what an error says, in a line."""
    known = isinstance(error, UserError)
    return str(error) if known else f"{type(error).__name__}: {reason(error)}"


def _lock(folder: Path) -> BaseFileLock:
    # The system takes it from a process that dies. A process has one a folder, which counts.
    return FileLock(folder.resolve() / OURS / "lock", timeout=0, is_singleton=True)
