import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from .conftest import PROJECT

# Four epochs of a few batches; the real recipe, images and entry point.
TRIAL = (
    *("quick", "--holdout", "--seeds", "2", "--jobs", "1", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=4", "data.train_size=2560", "logger=none", "callbacks=plain"),
)


def start(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "benchmarks/accuracy.py", *TRIAL, "--output", str(folder)]
    return subprocess.Popen(command, cwd=PROJECT, text=True, start_new_session=True)


def line(folder: Path) -> dict[str, object]:
    lines = (folder / "holdout.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    found: dict[str, object] = json.loads(lines[0])
    return found


def test_a_killed_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    broken = start(tmp_path / "broken")
    deadline = time.monotonic() + 200
    while not list((tmp_path / "broken").glob("runs/*/seed-0/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert broken.poll() is None
        time.sleep(0.01)
    # The whole process group, as when a machine goes down.
    subprocess.run(["kill", f"-{signal.SIGKILL}", "--", f"-{broken.pid}"], check=True)
    broken.wait()
    assert not list((tmp_path / "broken").glob("runs/*/seed-0/report.json"))
    assert start(tmp_path / "broken").wait() == whole.wait() == 0
    for key in ("val_accuracy", "val_loss", "parameters", "mean_train_loss"):
        assert line(tmp_path / "broken")[key] == line(tmp_path / "whole")[key]
    log = next((tmp_path / "broken").glob("runs/*/seed-0/log.txt")).read_text(encoding="utf-8")
    assert log.count("epoch  1/4") == 1
