"""Grids: jobs that fail, stop and are added, and their results."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from matplotlib.collections import LineCollection
from omegaconf import OmegaConf

from mnist_lit import MNISTDataModule
from mnist_lit.data.batches import folds
from mnist_lit.errors import ConfigError
from mnist_lit.evaluation.provenance import override
from mnist_lit.sweeps import grid, job, processes, results
from mnist_lit.training import rundir
from mnist_lit.training.hydra import build_run
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
# A process for each job; the test of a trial in test_search.py has one too.
SLOW = {one: () if one == "basic" else pytest.mark.slow for one in LAUNCHERS}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


def states(sweep: Path) -> dict[str, str]:
    return {one.folder.name: one.state for one in job.jobs(sweep)}


def rows(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", [pytest.param(one, marks=SLOW[one]) for one in LAUNCHERS])
def test_jobs_that_fail_end_no_others(launcher: str, here: Here, tmp_path: Path) -> None:
    package = LAUNCHERS[launcher]
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    epochs = (1, 8)
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
    assert done.stderr == f"error: of {jobs} jobs {bad} failed\n"
    said = done.stdout.splitlines()
    assert {line for line in said if re.search(r" of 2  callbacks.boom.epoch=\d$", line)} == {
        "1 of 2  callbacks.boom.epoch=1",
        "2 of 2  callbacks.boom.epoch=8",
    }
    [failed] = [line for line in said if line.startswith("1 of 2  callbacks.boom.epoch=1  ")]
    assert "  failed: ZeroDivisionError: a defect; the whole traceback is in " in failed
    [ended] = [line for line in said if line.startswith("2 of 2  callbacks.boom.epoch=8  ")]
    assert re.fullmatch(r".*  \d+\.\d\d%  \d+ s", ended)
    assert len(said) <= 12, "a job prints no other line"
    listed = "  sweep/0: 1 of 2  callbacks.boom.epoch=1  failed: ZeroDivisionError: a defect; "
    assert f"{listed}the whole traceback is in sweep/0/run.log" in said
    assert "Last Validation Accuracy: " in (tmp_path / "sweep/1/run.log").read_text()
    assert "repeat the command with hydra.sweep.dir=./sweep" in done.stdout
    assert 'raise ZeroDivisionError("a defect' in (tmp_path / "sweep/0/run.log").read_text()
    page = (tmp_path / "sweep/results.html").read_text()
    assert page.count("ZeroDivisionError") == bad
    assert "2 jobs: 1 failed, 1 finished." in page
    assert "<th>callbacks.boom.epoch</th>" in page
    assert "<td>990</td><td>no</td>" in page
    assert "<td>8</td>" in page
    assert 'href="1/report.html"' not in page, "test=false makes no page"
    assert 'href="1"' in page


@pytest.mark.parametrize(
    ("optimized", "ranked_by", "first"),
    [
        ("best_val_accuracy", "last_val_accuracy", "a"),
        ("best_val_loss", "last_val_loss", "b"),
        ("val/f1", "last_val_metrics.f1", "a"),
        ("test_accuracy", "test_accuracy", "b"),
    ],
)
def test_a_sweep_ranks_by_the_last_epoch(
    optimized: str, ranked_by: str, first: str, tmp_path: Path
) -> None:
    of_a = {"best_val_accuracy": 0.1, "last_val_accuracy": 0.9, "test_accuracy": 0.1}
    of_b = {"best_val_accuracy": 0.9, "last_val_accuracy": 0.1, "test_accuracy": 0.9}
    of_a |= {"best_val_loss": 0.1, "last_val_loss": 0.9}
    of_b |= {"best_val_loss": 0.9, "last_val_loss": 0.1}
    found: list[job.Job] = []
    for name, report in {"a": of_a, "b": of_b}.items():
        last = report["last_val_accuracy"]
        metrics = {"val_metrics": {"f1": 1 - last}, "last_val_metrics": {"f1": last}}
        config = {"optimized_metric": optimized}
        found.append(job.Job(tmp_path / name, len(found), [f"model={name}"], config, ""))
        found[-1].write()
        (tmp_path / name / "report.json").write_text(json.dumps({**report, **metrics}))
    assert {one.ranked_by for one in found} == {ranked_by}
    assert results.settings(found)[0].varied == {"model": first}


def test_an_interval_needs_three_jobs_and_stays_within_what_is_possible(tmp_path: Path) -> None:
    one = job.Job(tmp_path, 0, [], {"optimized_metric": "best_val_accuracy"})
    each = [[0.9, 0.99, 0.999], [0.0, 0.001, 0.2], [0.1, 0.9]]
    found = [results.Setting({}, len(values) * [one], values) for values in each]
    (axes,) = results.compared(found).axes
    lines = [bar.get_segments() for bar in axes.collections if isinstance(bar, LineCollection)]
    bars = [segments[0][:, 0] for segments in lines if segments]
    assert len(bars) == 2
    assert bars[0].max() == pytest.approx(100)
    assert bars[1].min() == pytest.approx(0)


@pytest.mark.slow
def test_a_grid_goes_on_where_it_was_stopped_and_may_grow(here: Here, tmp_path: Path) -> None:
    stop = ("callbacks.stop._target_=tests.own.CtrlC", "callbacks.stop.folder='1'")
    options = ("-m", *TINY, BASIC, *stop, "callbacks.stop.once=stopped")
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
    assert re.split("  +", table[0]) == ["model", "n", "last val accuracy, %", "s each"]
    assert {line.split()[0]: line.split()[1] for line in table[1:3]} == {"nano": "3", "micro": "2"}


@pytest.mark.slow
def test_a_failed_job_begins_anew_and_nothing_else_is_removed(here: Here, tmp_path: Path) -> None:
    grid = ("-m", *TINY, BASIC, *BOOM, "callbacks.boom.epoch=1,8", "hydra.sweep.dir=sweep")
    (tmp_path / "sweep").mkdir()
    others = ("job.sh", "job.json", "slurm-1.out", "metrics.csv")  # files that do not matter
    for name in others:
        (tmp_path / "sweep" / name).write_text("mine")
    assert here(*grid).returncode == 1
    (tmp_path / "sweep/0/left.txt").touch()
    (tmp_path / "sweep/1/notes.txt").touch()
    assert here(*grid).returncode == 1
    assert not (tmp_path / "sweep/0/left.txt").exists()
    assert (tmp_path / "sweep/0-old/left.txt").exists()
    assert (tmp_path / "sweep/0-old/run.log").exists()
    assert (tmp_path / "sweep/1/notes.txt").exists()
    assert here(*grid).returncode == 1
    assert (tmp_path / "sweep/0-old-1/run.log").exists()
    assert states(tmp_path / "sweep") == {"0": "failed", "1": "finished"}
    assert [row["folder"] for row in rows(tmp_path / "sweep")] == ["0", "1"]
    assert {(tmp_path / "sweep" / name).read_text() for name in others} == {"mine"}
    (tmp_path / "mine/0").mkdir(parents=True)
    (tmp_path / "mine/0/thesis.txt").touch()
    refused = here("-m", *TINY, BASIC, "seed=0,1", "hydra.sweep.dir=mine")
    assert refused.stderr.endswith("mine/0: holds something else; give another hydra.sweep.dir\n")
    assert [path.name for path in (tmp_path / "mine/0").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("ended", [False, True])
def test_a_failed_job_that_another_sweep_has_begun_meanwhile_is_left_to_it(
    ended: bool, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ("-m", *TINY, BASIC, *BOOM, "callbacks.boom.epoch=1,8", "hydra.sweep.dir=sweep")
    assert here(*grid).returncode == 1
    first, asked = tmp_path / "sweep/0", rundir.is_running
    lock = FileLock(first / rundir.OURS / "lock", timeout=0)

    def begins_then(folder: Path) -> bool:
        runs = asked(folder)
        if folder == first and not runs:
            if ended:
                shutil.copy(tmp_path / "sweep/1/report.json", first)
            else:
                lock.acquire()
        return runs

    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    monkeypatch.setattr(rundir, "is_running", begins_then)
    done = here(*grid)
    lock.release()
    assert not (tmp_path / "sweep/0-old").exists()
    assert "2 jobs, 2 of them done or under way: " in done.stdout
    assert done.stderr == ("" if ended else "error: of 2 jobs 1 running\n")
    (first / "report.json").unlink(missing_ok=True)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_a_lock_that_is_no_lock_ends_a_sweep_in_a_line(here: Here, tmp_path: Path) -> None:
    grid = ("-m", *TINY, BASIC, *BOOM, "callbacks.boom.epoch=1", "hydra.sweep.dir=sweep")
    assert here(*grid).returncode == 1
    lock = tmp_path / "sweep/0" / rundir.OURS / "lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    done = here(*grid)
    assert done.stderr.startswith("error: IsADirectoryError: ")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "sweep/0/run.log").is_file()


@pytest.mark.parametrize("name", ["multirun.yaml", "results.csv", "results.html", "study.db"])
def test_a_folder_with_files_of_somebody_else_is_no_sweep(
    name: str, here: Here, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    for place in ("mine", "missing/../mine"):
        done = here("-m", *TINY, BASIC, "seed=0,1", f"hydra.sweep.dir={place}")
        assert done.stderr == f"error: mine/{name}: not of a sweep; give another hydra.sweep.dir\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "mine"


def test_another_sweeper_is_refused_before_it_writes(here: Here, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/multirun.yaml").write_text("mine")
    done = here("-m", *TINY, "hydra/sweeper=basic", "hydra.sweep.dir=s", "hydra.sweep.subdir=run")
    assert re.fullmatch(
        r"error: hydra/sweeper: hydra\S+BasicSweeper: .*; hydra/sweeper=mnist_lit does not\n",
        done.stderr,
    )
    assert (tmp_path / "s/multirun.yaml").read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*")] == ["s", "multirun.yaml"]


@pytest.mark.parametrize("name", ["results.csv", "study.db", "study.db-journal", "mlflow.db"])
def test_a_sweep_writes_through_no_link(name: str, here: Here, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).symlink_to(tmp_path / "theirs")
    search = ("hparams_search=default", "optimizer.lr=interval(0.01,0.1)")
    for words in (["-m", BASIC, "seed=0,1"], search):
        done = here(*words, *TINY, "hydra.sweep.dir=s")
        assert done.stderr.endswith(
            f"s/{name}: is a link or a pipe, and a run writes there; remove it\n"
        )
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("s/study.db", ["hparams_search=default", "optimizer.lr=interval(0.01,0.1)"]),
        ("s/mlflow.db", ["-m", "seed=0,1", "logger=mlflow"]),
        ("run/mlflow.db", ["logger=mlflow"]),
        ("m l/flow.db", ["logger=mlflow", "logger.mlflow.tracking_uri='sqlite:///m%20l/flow.db'"]),
    ],
)
def test_a_journal_that_names_another_file_is_refused(
    name: str, words: list[str], here: Here, tmp_path: Path
) -> None:
    database, journal = tmp_path / name, tmp_path / f"{name}-journal"
    database.parent.mkdir()
    database.touch()
    search = "{study: default}" if database.name == "study.db" else "null"
    database.with_name("multirun.yaml").write_text(f"search: {search} # {rundir.SWEEPER}")
    journal.write_bytes(bytes(99) + rundir.NAMING)
    folders = ["hydra.run.dir=run", "hydra.sweep.dir=s"]
    begun = [word for word in words if not word.startswith("logger")]
    done = here(*begun, *TINY, *words[len(begun) :], *folders)
    assert done.stderr == (
        f"error: {journal}: SQLite would remove a file that it names; move it away\n"
    )
    assert journal.exists()


def test_a_grid_and_a_search_have_folders_of_their_own(here: Here, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    search = ("hparams_search=default", "optimizer.lr=interval(0.01,0.1)")
    for config, words, before in (
        ("search: {study: a}", ["-m", BASIC, "seed=3"], "the study a"),
        ("search: {study: a}", search, "the study a"),
        ("search: null", search, "a grid"),
    ):
        (tmp_path / "s/multirun.yaml").write_text(f"{config} # {rundir.SWEEPER}")
        done = here(*words, *TINY, "hydra.sweep.dir=s")
        assert done.stderr.endswith(f"s: {before} lies there; give another hydra.sweep.dir\n")
        assert [path.name for path in (tmp_path / "s").iterdir()] == ["multirun.yaml"]


@pytest.mark.parametrize(
    "place",
    [
        *(".", "..", "a/../..", "/", "${model.name}/.."),
        *("results.csv", "results.html", "a/multirun.yaml", "job.json/0"),
    ],
)
def test_a_job_lies_within_the_folder_of_its_sweep(place: str, here: Here, tmp_path: Path) -> None:
    done = here(
        "-m", *TINY, BASIC, "seed=0", "hydra.sweep.dir=sweep", f"hydra.sweep.subdir={place}"
    )
    said = place.replace("${model.name}", "nano")
    assert done.stderr.startswith(f"error: hydra.sweep.subdir={said}: not a folder within ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_job_imports_nothing_of_the_working_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('theirs')")
    monkeypatch.setattr(sys, "argv", [str(Path(sys.executable).with_name("mnist-lit"))])
    sources = [{"provider": "main", "path": "file:///conf"}]
    hydras = {"runtime": {"config_sources": sources}, "job": {"config_name": "config"}}
    launcher = processes.Processes(n_jobs=1)
    launcher.config = OmegaConf.create({"hydra": hydras})
    python, script, command, *_ = launcher._program()
    assert command == "train"
    words = [python, script, "--version"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mnist-lit ")


def test_a_folder_may_be_named_like_a_number_of_hydra() -> None:
    for name in ("1_0", "1e5", "0", "true", "null", "1.50"):
        word = override("hydra.sweep.subdir", Path(name))
        assert OverridesParser.create().parse_override(word).value() == name


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The runs that a sweep builds and those that it launches; nothing is trained."""
    seen: dict[str, list[Any]] = {"built": [], "launched": []}

    def built(config: Any) -> Any:
        seen["built"].append(config.hydra.overrides.task)
        return build_run(config)

    class Nothing(Launcher):
        def setup(self, **given: Any) -> None:
            pass

        def launch(self, job_overrides: Any, initial_job_idx: int) -> list[Any]:
            seen["launched"] += job_overrides
            return []

    monkeypatch.setattr(grid, "build_run", built)
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **given: Nothing())
    return seen


def test_a_job_writes_through_no_link(
    planned: dict[str, list[Any]], here: Here, tmp_path: Path
) -> None:
    command = ("-m", *TINY, BASIC, "seed=0", "hydra.sweep.dir=sweep")
    assert here(*command).stderr == "error: of 1 job 1 waiting\n"
    (tmp_path / "theirs").mkdir()
    for link in (tmp_path / "sweep/0/.hydra", tmp_path / "1"):
        link.symlink_to(tmp_path / "theirs")
    done = here(*command)
    assert done.stderr.endswith(
        "sweep/0/.hydra: is a link or a pipe, and a run writes there; remove it\n"
    )
    for place in ("1", "1/0"):  # of a trial, and of a training of a trial
        with pytest.raises(ConfigError, match="is a link, and a job writes there; remove it"):
            job.Job(tmp_path / place, 0, [], {}).write()
    assert not list((tmp_path / "theirs").iterdir())


def test_what_a_failed_job_moves_replaces_nothing(
    planned: dict[str, list[Any]], here: Here, tmp_path: Path
) -> None:
    command = ("-m", *TINY, BASIC, "seed=0", "hydra.sweep.dir=sweep")
    here(*command)
    first, moved = tmp_path / "sweep/0", tmp_path / "sweep/0-old-1"
    (first / "error.json").write_text("mine")
    (first / rundir.ERROR).write_text('"a defect"')
    (tmp_path / "sweep/0-old").symlink_to(tmp_path / "gone")
    assert here(*command).stderr == "error: of 1 job 1 waiting\n"
    assert (moved / "error.json").read_text() == "mine"
    assert (moved / rundir.ERROR).read_text() == '"a defect"'
    assert (tmp_path / "sweep/0-old").is_symlink()


def test_a_job_by_a_name_that_hydra_would_replace_is_refused(
    planned: dict[str, list[Any]], here: Here, tmp_path: Path
) -> None:
    command = ("-m", *TINY, BASIC, "seed=0", "hydra.sweep.dir=sweep")
    here(*command)
    (tmp_path / "sweep/0").rename(tmp_path / "sweep/${oc.env:NOBODY,..}")
    done = here(*command)
    assert "${oc.env:NOBODY,..}: Hydra would replace ${…}; rename the folder\n" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


def test_jobs_that_differ_in_seeds_are_checked_once(
    planned: dict[str, list[Any]], here: Here, tmp_path: Path
) -> None:
    words = (
        "-m",
        *TINY,
        BASIC,
        "hydra.sweep.dir=sweep",
        "optimizer.lr=0.1,0.2",
        "seed=range(0,15)",
    )
    done = here(*words)
    assert done.stderr == "error: of 30 jobs 30 waiting\n"
    assert "checking 30 jobs …\n30 jobs: " in done.stdout
    assert [one[-2:] for one in planned["built"]] == [
        ["optimizer.lr=0.1", "seed=0"],
        ["optimizer.lr=0.2", "seed=0"],
    ]
    assert len(planned["launched"]) == 30
    record = job.read(tmp_path / "sweep/17")
    assert (record.config["optimizer.lr"], record.config["seed"]) == (0.2, 2)
    refused = here(*words[:-2], "hydra.sweep.dir=other", "seed=range(0,9)", "model.dropout=0.1,2.0")
    assert refused.stderr.count("\n") == 1
    assert "dropout=2.0" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_sweep_that_another_has_overtaken_is_refused_in_a_line(
    planned: dict[str, list[Any]], here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = grid.Grid._plan

    def overtaken(self: grid.Grid, *given: Any) -> list[job.Job]:
        found = plan(self, *given)
        job.Job(tmp_path / "sweep/0", 0, [], {"of": "the other"}).write()
        return found

    monkeypatch.setattr(grid.Grid, "_plan", overtaken)
    done = here("-m", *TINY, BASIC, "hydra.sweep.dir=sweep", "seed=0,1")
    assert re.fullmatch(r"error: .*sweep: another sweep has just begun .*\n", done.stderr)
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["0"]
    assert job.read(tmp_path / "sweep/0").config == {"of": "the other"}
    assert not planned["launched"]


def test_the_command_line_is_not_blamed_for_what_comes_later(
    planned: dict[str, list[Any]], here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(grid.Grid, "_plan", fails)
    done = here("-m", *TINY, BASIC, "hydra.sweep.dir=sweep", "seed=0,1")
    assert done.stderr == "error: TypeError: a defect\n"


@pytest.mark.slow
def test_a_seed_elsewhere_in_the_config_is_checked_for_each_job(
    planned: dict[str, list[Any]], here: Here, tmp_path: Path
) -> None:
    words = ("-m", *TINY, BASIC, "hydra.sweep.dir=sweep", "seed=2,3,0", "data.split_seed=5,6")
    assert here(*words, "trainer.max_epochs=3").returncode == 1
    assert len(planned["built"]) == 1
    done = here(*words, "trainer.max_epochs=${seed}", "hydra.sweep.dir=other")
    assert "trainer.max_epochs=0: should be greater than or equal to 1" in done.stderr
    assert len(planned["built"]) == 4
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=range(0)"], r"seed=range\(0\): no values; give from 1 to 10,000"),
        (["seed=range(0,100000000)"], "more than 10,000 values; give from 1 to 10,000"),
        (["data.drawn=range(0,1,0.0000001)"], "more than 10,000 values"),
        (["seed=shuffle(range(0,100000000))"], "more than 10,000 values"),
        (
            ["seed=range(0,200)", "data.split_seed=range(0,200)"],
            r"seed=range.* data.split_seed=range.*: these are 40,000 jobs; at most 10,000 are",
        ),
        (["seed=0,0"], "seed=0: the same training as .*seed=0; a sweep needs jobs that differ"),
        (["logger=none,csv"], "the same training as"),
        (["optimizer.lr=interval(0.1,1)"], "a grid needs values to choose from"),
        (
            ["seed=0,1", "trainer=ddp"],
            "trainer.strategy=ddp: BasicLauncher trains a job in one pro",
        ),
        (
            ["seed=0,1", "trainer.num_nodes=2"],
            "trainer.num_nodes=2: this is no cluster; start .* hydra/launcher=submitit_slurm",
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


def test_a_lock_that_is_no_lock_is_a_line_and_no_running_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "in_a_sweep", lambda: True)
    one = job.Job(tmp_path / "0", 0, [], {}, "")
    one.write()
    (tmp_path / "0" / rundir.OURS / "lock").mkdir()
    assert one.state == "waiting"
    with pytest.raises(ConfigError, match=r"run_dir=.*0: cannot be made: Is a directory; give"):
        rundir.claim(tmp_path / "0")


@pytest.mark.slow
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
    assert [r["protocol"] for r in reports] == [
        f"mnist_folds: best epoch, picked on part {i} of 3 of the training images; last epoch, not "
        "picked"
        for i in range(3)
    ]
    assert {r["test_accuracy"] for r in reports} == {None}
    assert not list((tmp_path / "sweep").glob("*/report.html"))
    line = next(line for line in done.stdout.splitlines() if line.startswith("n  last"))
    assert "%" in line
    mean = sum(r["last_val_accuracy"] for r in reports) / 3
    assert f"3  {100 * mean:.3f} ± " in done.stdout


@pytest.mark.slow
def test_a_job_ends_with_the_sweep_that_started_it(tmp_path: Path) -> None:
    options = [*TINY, "trainer.max_epochs=500", "hydra.run.dir=0", "hydra.job.num=0"]
    options.append(processes.ENDS_WITH_STDIN)
    started = job.Job(tmp_path / "0", 0, options, {}, "")
    started.write()
    assert started.state == "waiting"
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "train.py"), *options],
        cwd=tmp_path,
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
        assert started.state == "running"
        process.stdin.close()
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.startswith("error: stopped in epoch ")
    assert started.state == "stopped"
    assert not rundir.is_running(tmp_path / "0")
