import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import PROJECT

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


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a program."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return import_module


def test_the_docs_have_the_table_that_the_results_give(benchmarks: Callable[[str], Any]) -> None:
    accuracy = benchmarks("accuracy")
    table = accuracy.table(accuracy.load_results(accuracy.RESULTS))
    assert len(table.splitlines()) == 9
    assert table in (PROJECT / "docs/results.md").read_text(encoding="utf-8")


def test_pictures_show_what_is_shipped(benchmarks: Callable[[str], Any]) -> None:
    pictures = benchmarks("pictures")
    assert {path.stem for path in pictures.FOLDER.glob("*.png")} == set(pictures.PICTURES)
    for name, picture in pictures.PICTURES.items():
        with Image.open(pictures.FOLDER / f"{name}.png") as made:
            assert made.info[pictures.KEY] == pictures.digests(picture.sources), (
                f"{name}.png shows others than the shipped ones: python benchmarks/pictures.py"
            )


@pytest.mark.parametrize("name", ["overview", "hardest"])
def test_a_picture_is_made_with_its_digests(
    benchmarks: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pictures = benchmarks("pictures")
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    pictures.save(name)
    with Image.open(tmp_path / f"{name}.png") as made:
        assert made.info[pictures.KEY] == pictures.digests(pictures.PICTURES[name].sources)
        assert (np.asarray(made.convert("L")) < 128).mean() > 0.002


def test_the_interval_is_that_of_students_t(benchmarks: Callable[[str], Any]) -> None:
    values = [0.9959, 0.9964, 0.9962]
    low, high = benchmarks("accuracy").interval(values)
    # 4.3027 is the two-sided 95 % point for two degrees of freedom; 0.000252 the deviation.
    assert (low + high) / 2 == pytest.approx(sum(values) / 3)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.00025166 / 3**0.5, rel=1e-3)
