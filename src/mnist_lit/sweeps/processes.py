"""``hydra/launcher=processes``: every job of a sweep is a ``python train.py`` of its own."""

import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig
from tqdm import tqdm

from mnist_lit.errors import ConfigError, RunError
from mnist_lit.evaluation.provenance import override
from mnist_lit.text import LONGEST_LINE, for_terminal
from mnist_lit.training import job

PATIENCE = 60  # seconds that a job has to end when it is told to


@dataclass(frozen=True)
class _Task:
    number: int
    overrides: Sequence[str]
    folder: Path
    epochs: int

    @property
    def done(self) -> int:
        """How many epochs the log tells of."""
        with suppress(OSError):
            lines = (self.folder / "run.log").read_text(encoding="utf-8", errors="replace")
            return min(self.epochs, lines.count("\nepoch "))
        return 0


class Processes(Launcher):
    """Runs jobs as processes of this machine, several at a time.

    What a job prints goes to ``output.log`` in its folder. When the sweep ends, so do its jobs.

    Args:
        n_jobs: How many run at the same time; None for one a GPU or, without any, one a core.
        devices: ``CUDA_VISIBLE_DEVICES`` of each of them, as ``[0, 1]`` or ``["0,1", "2,3"]``;
            None for all that there are, if ``n_jobs`` is None too.
    """

    def __init__(
        self, n_jobs: int | None = None, devices: Sequence[int | str] | None = None
    ) -> None:
        most = len(devices) if devices else math.inf
        if n_jobs is not None and not 1 <= n_jobs <= most:
            words = f"from 1 to {most}, the number of devices" if devices else "at least 1"
            raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: should be {words}")
        self.given = n_jobs, devices
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        # Hydra composes with global state, and a search launches from several threads.
        self.composing = threading.Lock()
        self.slots: SimpleQueue[str | None] = SimpleQueue()

    @cached_property
    def n_jobs(self) -> int:
        """How many jobs run at the same time; each takes a slot."""
        n_jobs, devices = self.given
        if n_jobs is None and devices is None:
            import torch

            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            devices = visible.split(",") if visible else range(torch.cuda.device_count())
        number = n_jobs or len(devices or ()) or os.cpu_count() or 1
        for place in range(number):
            self.slots.put(str(devices[place]) if devices else None)
        return number

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep what jobs are composed with."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and return when the last has ended; each says a line."""
        pairs = zip(itertools.count(initial_job_idx), job_overrides)
        tasks = [self._task(number, overrides) for number, overrides in pairs]
        pool = ThreadPoolExecutor(self.n_jobs)
        ends = [pool.submit(self._run, task) for task in tasks]
        try:
            self._watch(tasks, ends)
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return [end.result() for end in ends]

    def stop(self) -> None:
        """Tell the jobs that still run to end, and see that they do."""
        self.stopped = True
        ending = list(self.running)
        for process in ending:
            process.terminate()
        deadline = time.monotonic() + PATIENCE
        for process in ending:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _watch(self, tasks: Sequence[_Task], ends: Sequence["Future[JobReturn]"]) -> None:
        # A search launches its trainings one by one, and says of each what came of it.
        many = len(tasks) > 1
        given = {word.lower() for word in self.config.hydra.overrides.task}
        left = dict(zip(ends, tasks, strict=True))
        with tqdm(
            total=sum(task.epochs for task in tasks),
            unit=" epochs",
            leave=False,
            disable=not (many and sys.stdout.isatty()),
            file=sys.stdout,
        ) as bar:
            while left:
                for end in wait(left, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    task = left.pop(end)
                    if many:
                        said = [
                            w for w in filter_overrides(task.overrides) if w.lower() not in given
                        ]
                        words = " ".join(w for w in said if not w.startswith("ckpt_path="))
                        what = f"#{task.number}  {words}  {_outcome(end.result())}"
                        line = f"{len(tasks) - len(left)} of {len(tasks)}: {what}"
                        tqdm.write(for_terminal(line, LONGEST_LINE), file=sys.stdout)
                        sys.stdout.flush()
                if not bar.disable:
                    bar.n = sum(task.done for task in tasks)
                    bar.refresh()

    def _task(self, number: int, overrides: Sequence[str]) -> _Task:
        said = [word for word in overrides if word.startswith("hydra.sweep.")]
        places = {one.key_or_group: one for one in OverridesParser.create().parse_overrides(said)}
        folder = Path(*(str(places[f"hydra.sweep.{key}"].value()) for key in ("dir", "subdir")))
        record = job.read(folder)
        epochs = record.config["trainer.max_epochs"] if record is not None else 0
        return _Task(number, overrides, folder, epochs)

    def _run(self, task: _Task) -> JobReturn:
        task.folder.mkdir(parents=True, exist_ok=True)
        slot = self.slots.get()
        try:
            with (
                (task.folder / "output.log").open("ab") as log,
                subprocess.Popen(
                    self._command(task),
                    env=self._environment(slot),
                    # Its end tells the job that the sweep is gone, even by kill -9.
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C comes here alone, and is handed on
                ) as process,
            ):
                self.running.add(process)
                if self.stopped:
                    process.terminate()
                code = process.wait()
                self.running.discard(process)
        finally:
            self.slots.put(slot)
        return self._returned(task, code)

    def _returned(self, task: _Task, code: int) -> JobReturn:
        from mnist_lit.sweeps.results import Result

        result = JobReturn(list(task.overrides), working_dir=str(task.folder))
        record = job.read(task.folder)
        if record is not None and record.state == "finished":
            result.status = JobStatus.COMPLETED
            result.return_value = Result(task.folder, record).value
        else:
            result.status = JobStatus.FAILED
            said = record.error if record is not None else None
            result.return_value = RunError(said or _last_line(task.folder / "output.log", code))
        return result

    def _command(self, task: _Task) -> list[str]:
        return [
            *_program(),
            *self.config.hydra.overrides.hydra,
            *task.overrides,
            override("hydra.run.dir", task.folder),
            f"hydra.job.num={task.number}",
            "hydra.mode=RUN",
        ]

    def _environment(self, slot: str | None) -> dict[str, str]:
        # What a distributed training of this process left would send the job's to its place.
        left = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        environment = {key: value for key, value in os.environ.items() if key not in left}
        threads = max(1, (os.cpu_count() or 1) // self.n_jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment[job.ENDS_WITH_STDIN] = "1"
        if slot is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot
        return environment


def _outcome(ended: JobReturn) -> str:
    if ended.status is JobStatus.COMPLETED:
        return f"{ended.return_value:.4f}"
    return f"failed: {ended._return_value}"


def _program() -> list[str]:
    """Return this program's command line without its overrides and without ``-m``."""
    script = Path(sys.argv[0])
    is_ours = script.is_file() and script.suffix == ".py" and script.stem != "__main__"
    program = [str(script.resolve())] if is_ours else ["-m", "mnist_lit", "train"]
    said = get_args_parser().parse_args(sys.argv[1:])
    flags = {"--config-path": said.config_path, "--config-name": said.config_name}
    flags["--config-dir"] = said.config_dir
    return [sys.executable, *program, *itertools.chain(*((k, v) for k, v in flags.items() if v))]


def _last_line(path: Path, code: int) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"exit code {code}: {said.strip()}"
