"""A job of a sweep: which it is and how it stands, as ``job.json`` in its folder.

Imports nothing heavy.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from mnist_lit.errors import ConfigError, StoppedError, UserError, reason
from mnist_lit.files import write_text

FILE = "job.json"
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


_adapter = cache(TypeAdapter)  # slow to make, and only a sweep needs it


def read(folder: Path) -> Job | None:
    """Return the job whose folder this is, if it is one's.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        content = (folder / FILE).read_bytes()
        found = _adapter(Job).validate_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{folder / FILE}: cannot be read: {reason(error)}; remove the folder to train this "
            "job again"
        ) from None
    if found.state == "finished" and not (folder / "report.json").is_file():
        return replace(found, state="stopped", error="its report.json has been removed")
    return found


def write(folder: Path, job: Job) -> None:
    """Write ``job.json``."""
    write_text(folder / FILE, json.dumps(asdict(job), indent=1) + "\n")


def is_running(folder: Path) -> bool:
    """Say whether a process trains the job now; one that was killed does not."""
    try:
        with _lock(folder):
            return False
    except Timeout:
        return True


def is_first() -> bool:
    """Say whether this is the first process of a training, or the only one."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def end_with_stdin() -> None:
    """End as by SIGTERM when standard input ends, if the sweep that started this asks for it."""
    if os.environ.pop(ENDS_WITH_STDIN, None):
        threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Keep how a job stands while it is trained; a run that is no job's has nothing to keep.

    Raises:
        ConfigError: Another process trains it.
    """
    job = read(folder) if is_first() else None
    if job is None:
        yield
        return
    try:
        with _lock(folder):
            write(folder, replace(job, state="running", error=None))
            try:
                yield
            except BaseException as error:
                stopped = isinstance(error, StoppedError) or not isinstance(error, Exception)
                write(
                    folder,
                    replace(job, state="stopped" if stopped else "failed", error=line(error)),
                )
                raise
            write(folder, replace(job, state="finished", error=None))
    except Timeout:
        raise ConfigError(f"{folder}: another process trains this job") from None


def line(error: BaseException) -> str:
    """Return what an error says, in a line."""
    known = isinstance(error, UserError)
    return str(error) if known else f"{type(error).__name__}: {reason(error)}"


def _lock(folder: Path) -> FileLock:
    # The system takes it from a process that dies.
    return FileLock(folder / ".lock", timeout=0)
