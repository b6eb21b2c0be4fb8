import json
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tests.conftest import PROJECT

# Four epochs of a few batches; the real recipe, images and entry point.
TRIAL = (
    *("quick", "--holdout", "--seeds", "2", "--jobs", "1", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=4", "data.train_size=2560", "logger=none", "callbacks=plain"),
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
    while not list(tmp_path.glob("runs/*/seed-0/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert broken.poll() is None
        time.sleep(0.01)
    # The whole process group, as when a machine goes down.
    subprocess.run(["kill", f"-{signal.SIGKILL}", "--", f"-{broken.pid}"], check=True)
    broken.wait()
    assert not list(tmp_path.glob("runs/*/seed-0/report.json"))
    assert start(tmp_path).wait() == 0
    assert len(line(tmp_path)["val_accuracy"]) == 2
    log = next(tmp_path.glob("runs/*/seed-0/log.txt")).read_text(encoding="utf-8")
    assert [log.count(f"epoch  {epoch}/4") for epoch in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_the_readme_has_the_table_that_the_results_give(tmp_path: Path) -> None:
    copytree(PROJECT / "benchmarks/results/accuracy", tmp_path / "accuracy")
    command = [sys.executable, "benchmarks/accuracy.py", "--report", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    *table, hardest = done.stdout.splitlines()
    assert len(table) == 2 + len(list((tmp_path / "accuracy").iterdir()))
    assert "\n".join(table) in readme
    assert hardest.split()[0].isdigit()
    for name in ("accuracy.png", "hardest.png"):
        assert (tmp_path / name).stat().st_size > 5_000, name


def test_the_interval_is_that_of_students_t(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    values = [0.9959, 0.9964, 0.9962]
    low, high = import_module("accuracy").interval(values)
    # 4.3027 is the two-sided 95 % point for two degrees of freedom; 0.000252 the deviation.
    assert (low + high) / 2 == pytest.approx(sum(values) / 3)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.00025166 / 3**0.5, rel=1e-3)
