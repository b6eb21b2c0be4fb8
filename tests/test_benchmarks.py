import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mnist_lit.training import rundir
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow

# Four epochs of a few batches; the real recipe, images and entry point.
TRIAL = (
    *("nano", "--holdout", "--seeds", "2", "--jobs", "1", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=4", "data.train_size=1280", "logger=none", "callbacks=plain"),
    "trainer.limit_val_batches=1",
)


def start(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "benchmarks/accuracy.py", *TRIAL, "--output", str(folder)]
    return subprocess.Popen(command, cwd=PROJECT, text=True, start_new_session=True)


def line(folder: Path) -> dict[str, Any]:
    lines = (folder / "holdout.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    found: dict[str, Any] = json.loads(lines[0])
    return found


def test_a_killed_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    broken = start(tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/*/0/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert broken.poll() is None
        time.sleep(0.01)
    os.killpg(broken.pid, signal.SIGKILL)
    broken.wait()
    [seed] = tmp_path.glob("runs/*/0")
    # The job sees the end of its standard input when the sweep is gone.
    while rundir.is_running(seed):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (seed / "report.json").exists()
    assert start(tmp_path).wait() == 0
    assert len(line(tmp_path)["val_accuracy"]) == 2
    log = (seed / "output.log").read_text(encoding="utf-8")
    assert [log.count(f"epoch  {epoch}/4") for epoch in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_the_interval_is_that_of_students_t(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    values = [0.9959, 0.9964, 0.9962]
    low, high = import_module("accuracy").interval(values)
    # 4.3027 is the two-sided 95 % point for two degrees of freedom; 0.000252 the deviation.
    assert (low + high) / 2 == pytest.approx(sum(values) / 3)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.00025166 / 3**0.5, rel=1e-3)
