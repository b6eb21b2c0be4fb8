"""``hydra/launcher=processes``: each job of a sweep is its own ``python train.py`` process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from mnist_lit.errors import ConfigError, RunError
from mnist_lit.evaluation.provenance import override
from mnist_lit.sweeps import job
from mnist_lit.training import rundir

# An override of every job.
ENDS_WITH_STDIN = "+hydra.callbacks.sweep._target_=mnist_lit.sweeps.processes.EndsWithStdin"


class EndsWithStdin(Callback):
    """Ends a job by SIGTERM when its standard input closes, because its sweep has ended."""

    def __init__(self) -> None:
        if rundir.is_first():
            threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        os.read(0, 1)  # the sweep never writes to it
        os.kill(os.getpid(), signal.SIGTERM)


class Processes(Launcher):
    """Runs jobs as processes of this machine, several at a time.

    The output of a job goes to ``output.log`` in its folder. When the sweep ends, its jobs end.

    Args:
        n_jobs: Number of jobs at the same time; None for one per GPU or, without a GPU, per core.
        devices: ``CUDA_VISIBLE_DEVICES`` of the jobs in turn, as ``[0, 1]`` or ``["0,1", "2,3"]``;
            None for all GPUs, if ``n_jobs`` is None too.
    """

    def __init__(
        self, n_jobs: int | None = None, devices: Sequence[int | str] | None = None
    ) -> None:
        if n_jobs is not None and n_jobs < 1:
            raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: should be at least 1")
        self.wanted, self.devices = n_jobs, devices
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.slots: SimpleQueue[str | None] = SimpleQueue()

    @cached_property
    def n_jobs(self) -> int:
        """The number of jobs at the same time; each takes a slot."""
        devices = self.devices
        if self.wanted is None and devices is None:
            import torch

            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            devices = visible.split(",") if visible else range(torch.cuda.device_count())
        number = self.wanted or len(devices or ()) or os.cpu_count() or 1
        for place in range(number):
            self.slots.put(str(devices[place % len(devices)]) if devices else None)
        return number

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep the config of the sweep."""
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs, and return when all have ended."""
        with self.pool() as pool:
            numbered = enumerate(job_overrides, initial_job_idx)
            wait([pool.submit(self.train, *one) for one in numbered])
        return []  # the results are in the folders of the jobs

    @contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        """Yield a pool with a thread per slot; an exception ends all jobs after their step."""
        pool = ThreadPoolExecutor(self.n_jobs)
        try:
            yield pool
        except BaseException:
            self.stopped = True
            for process in list(self.running):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def train(self, number: int, overrides: Sequence[str]) -> float:
        """Run a job in its own process when a slot is free; return the value of its objective.

        Raises:
            RunError: The job has failed.
        """
        said = [word for word in overrides if word.startswith("hydra.sweep.")]
        places = {one.key_or_group: one for one in OverridesParser.create().parse_overrides(said)}
        folder = Path(*(str(places[f"hydra.sweep.{key}"].value()) for key in ("dir", "subdir")))
        run = [override("hydra.run.dir", folder), f"hydra.job.num={number}", "hydra.mode=RUN"]
        words = [*self.config.hydra.overrides.hydra, *overrides, *run, ENDS_WITH_STDIN]
        slot = self.slots.get()
        threads = max(1, (os.cpu_count() or 1) // self.n_jobs)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        if slot is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot
        try:
            with (
                rundir.announced(folder),
                (folder / "output.log").open("ab") as log,
                subprocess.Popen(
                    [*self._program(), *words],
                    env=environment,
                    # It closes when the sweep ends, even by kill -9, and the job notices.
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # only this process gets Ctrl-C, and stops the jobs
                ) as process,
            ):
                self.running.add(process)
                if self.stopped:
                    process.terminate()
                code = process.wait()
                self.running.discard(process)
                if self.stopped:
                    raise KeyboardInterrupt  # the job has not failed
                return came_to(folder, code)
        finally:
            self.slots.put(slot)

    def _program(self) -> list[str]:
        """Return this program's command line without its overrides and without ``-m``."""
        script = Path(sys.argv[0])
        if script.is_file():
            program = [str(script.resolve()), *([] if script.suffix == ".py" else ["train"])]
        else:  # such as mnist-lit.exe; without `pop` the files of the working folder come first
            code = "import sys; sys.path.pop(0); from mnist_lit.cli import main; main()"
            program = ["-c", code, "train"]
        sources = {one.provider: one.path for one in self.config.hydra.runtime.config_sources}
        flags = [f"--config-path={sources['main']}"]
        flags.append(f"--config-name={self.config.hydra.job.config_name}")
        if "command-line" in sources:
            flags.append(f"--config-dir={sources['command-line']}")
        return [sys.executable, *program, *flags]


def came_to(folder: Path, code: int) -> float:
    """Return the value of a job's objective, after its process ended with an exit code.

    Raises:
        RunError: The job has failed.
    """
    ended = job.read(folder)
    if ended.report:
        return ended.value(ended.objective)
    if ended.error:
        raise RunError(ended.error)
    said = (folder / "output.log").read_text(encoding="utf-8", errors="replace").split("\n")
    last = next(filter(str.strip, reversed(said)), "it said nothing")
    raise RunError(f"exit code {code}: {last.strip()}")
