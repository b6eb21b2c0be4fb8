"""Grids: jobs that fail, stop and are added, and what is left of them."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mnist_lit import MNISTDataModule
from mnist_lit.data.memory import folds
from mnist_lit.training import job
from tests.conftest import PROJECT, TINY, Here, run_train

BASIC = "hydra/launcher=basic"
BOOM = ("callbacks.boom._target_=tests.own.Boom",)
LAUNCHERS = {
    "basic": None,
    "processes": None,
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


def states(sweep: Path) -> dict[str, str]:
    return {
        file.parent.name: json.loads(file.read_text())["state"]
        for file in sorted(sweep.glob("*/job.json"))
    }


def rows(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_that_fail_end_no_others(launcher: str, here: Here, tmp_path: Path) -> None:
    package = LAUNCHERS[launcher]
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    epochs = (1, 8, 9) if launcher == "basic" else (1, 8)
    words = [
        *("-m", *TINY, *BOOM, f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep"),
        f"callbacks.boom.epoch={','.join(map(str, epochs))}",
    ]
    # The shape checks of the tests cannot be sent to another process.
    done = here(*words) if package is None else run_train(*words, cwd=tmp_path)
    assert done.returncode == 1
    expected = {str(epoch): "failed" if epoch == 1 else "finished" for epoch in epochs}
    jobs, bad = len(expected), 1
    found = rows(tmp_path / "sweep")
    assert {row["callbacks.boom.epoch"]: row["state"] for row in found} == expected
    assert found[0]["why"].startswith("ZeroDivisionError: a defect")
    assert done.stderr.endswith(f"error: of {jobs} jobs {bad} failed\n")
    assert "the same command with hydra.sweep.dir=" in done.stdout
    assert 'raise ZeroDivisionError("a defect' in (tmp_path / "sweep/0/run.log").read_text()
    page = (tmp_path / "sweep/results.html").read_text()
    assert page.count("ZeroDivisionError") == bad
    assert "callbacks.boom.epoch=8" in page


def test_a_grid_goes_on_where_it_was_stopped_and_may_grow(here: Here, tmp_path: Path) -> None:
    stop = ("callbacks.stop._target_=tests.own.CtrlC", "callbacks.stop.folder='1'")
    options = ("-m", *TINY, BASIC, *stop, "trainer.max_epochs=3", "callbacks.stop.once=stopped")
    grid = (*options, "seed=0,1,2", "hydra.sweep.dir=sweep")
    sweep = tmp_path / "sweep"
    stopped = here(*grid)
    assert stopped.returncode == 1
    assert states(sweep) == {"0": "finished", "1": "stopped", "2": "waiting"}
    assert [row["state"] for row in rows(sweep)] == ["finished", "stopped", "waiting"]
    before = (sweep / "0/report.json").stat().st_mtime_ns

    again = here(*grid)
    assert again.returncode == 0, again.stderr
    assert states(sweep) == {"0": "finished", "1": "finished", "2": "finished"}
    assert (sweep / "0/report.json").stat().st_mtime_ns == before
    words = [(sweep / number / ".hydra/overrides.yaml").read_text() for number in "12"]
    assert ["last.ckpt" in one for one in words] == [True, False], "the stopped one goes on"

    undisturbed = here(*options, "seed=1", "hydra.sweep.dir=undisturbed")
    assert undisturbed.returncode == 0
    ours, theirs = (
        torch.load(tmp_path / place / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for place in ("sweep/1", "undisturbed/0")
    )
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name])

    grown = here(*options, "model=nano,micro", "seed=1,0", "hydra.sweep.dir=sweep")
    assert grown.returncode == 0, grown.stderr
    assert grown.stdout.splitlines()[1].startswith("4 jobs, 2 of them done or under way: ")
    found = rows(sweep)
    assert [row["seed"] for row in found] == ["0", "1", "2", "1", "0"], "jobs keep their numbers"
    assert [row["model"] for row in found] == ["nano"] * 3 + ["micro"] * 2
    table = grown.stdout[grown.stdout.rindex("model  ") :].splitlines()
    assert table[0].split() == ["model", "n", "best_val_accuracy,", "%", "best", "s", "each"]
    assert {line.split()[0]: line.split()[1] for line in table[1:3]} == {"nano": "3", "micro": "2"}


def test_a_failed_job_begins_anew_and_nothing_else_is_removed(here: Here, tmp_path: Path) -> None:
    grid = ("-m", *TINY, BASIC, *BOOM, "callbacks.boom.epoch=1,8", "hydra.sweep.dir=sweep")
    assert here(*grid).returncode == 1
    (tmp_path / "sweep/0/left.txt").touch()
    (tmp_path / "sweep/1/notes.txt").touch()
    assert here(*grid).returncode == 1
    assert not (tmp_path / "sweep/0/left.txt").exists()
    assert (tmp_path / "sweep/1/notes.txt").exists()
    (tmp_path / "mine/0").mkdir(parents=True)
    (tmp_path / "mine/0/thesis.txt").touch()
    refused = here("-m", *TINY, BASIC, "seed=0,1", "hydra.sweep.dir=mine")
    assert refused.stderr.endswith("mine/0: holds something else; give another hydra.sweep.dir\n")
    assert [path.name for path in (tmp_path / "mine/0").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=0,0"], "seed=0: the same training as .*seed=0; a sweep needs jobs that differ"),
        (["logger=none,csv"], "the same training as"),
        (["optimizer.lr=interval(0.1,1)"], "a grid needs values to choose from"),
        (
            ["seed=0,1", "trainer=ddp"],
            "trainer.strategy=ddp: BasicLauncher trains a job in one pro",
        ),
        (
            ["seed=0,1", "hydra.sweep.subdir=x"],
            "hydra.sweep.subdir: two jobs would have the folder x",
        ),
        (
            ["data.fold=0,1"],
            "data.folds=None data.fold=0: both are needed, as data.folds=5 data.fold=",
        ),
        (
            ["data.folds=3", "data.fold=2,3"],
            "data.folds=3 data.fold=3: the fold is counted from 0 to 2",
        ),
    ],
)
def test_what_is_no_grid_is_refused_in_a_line(
    arguments: list[str], words: str, here: Here, tmp_path: Path
) -> None:
    done = here("-m", *TINY, BASIC, "hydra.sweep.dir=sweep", *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert re.search(words, done.stderr), done.stderr
    assert not list(tmp_path.glob("sweep/*/*"))


def test_folds_cut_the_training_images_into_parts(here: Here, tmp_path: Path) -> None:
    data = MNISTDataModule(folds=3, fold=0)
    labels = data.images("train").labels
    parts = folds(labels, 3, seed=0)
    assert torch.equal(torch.bincount(parts), torch.tensor([20_000] * 3))
    each = torch.stack([torch.bincount(labels[parts == part]) for part in range(3)])
    assert (each.amax(dim=0) - each.amin(dim=0)).max() <= 1
    data.setup("fit")
    assert (len(data.train), len(data.val), len(data.test)) == (40_000, 20_000, 10_000)
    assert torch.equal(data.val.images, data.images("train").images[parts == 0])
    assert torch.equal(data.images("holdout").labels, data.val.labels)

    done = here(
        *("-m", *TINY, BASIC, "data.folds=3", "data.fold=0,1,2", "test=false"),
        "hydra.sweep.dir=sweep",
    )
    assert done.returncode == 0, done.stderr
    reports = [
        json.loads(f.read_text()) for f in sorted((tmp_path / "sweep").glob("*/report.json"))
    ]
    assert [r["protocol"][:24] for r in reports] == [
        f"mnist_folds: part {i} of 3" for i in range(3)
    ]
    assert {r["test_accuracy"] for r in reports} == {None}
    assert not list((tmp_path / "sweep").glob("*/report.html"))
    line = next(line for line in done.stdout.splitlines() if line.startswith("n  best"))
    assert "%" in line
    mean = sum(r["best_val_accuracy"] for r in reports) / 3
    assert f"3  {100 * mean:.3f} ± " in done.stdout


def test_a_job_ends_with_the_sweep_that_started_it(tmp_path: Path) -> None:
    options = [*TINY, "trainer.max_epochs=500", "hydra.run.dir=0", "hydra.job.num=0"]
    (tmp_path / "0").mkdir()
    job.write(tmp_path / "0", job.Job(0, options, {}))
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "train.py"), *options],
        cwd=tmp_path,
        env={**os.environ, job.ENDS_WITH_STDIN: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    with process:
        while not (tmp_path / "0/checkpoints/last.ckpt").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        assert job.is_running(tmp_path / "0")
        process.stdin.close()
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.startswith("error: stopped in epoch ")
    record = job.read(tmp_path / "0")
    assert record is not None
    assert record.state == "stopped"
    assert not job.is_running(tmp_path / "0")
