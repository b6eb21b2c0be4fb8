"""Searches: trials that fail, are pruned, repeated and killed, and their results."""

import csv
import itertools
import json
import os
import re
import secrets
import socket
import sqlite3
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from mnist_lit.config.schema import Search
from mnist_lit.errors import ConfigError
from mnist_lit.evaluation import figures
from mnist_lit.sweeps import job
from mnist_lit.sweeps import search as trials
from mnist_lit.sweeps.processes import Processes, came_to
from mnist_lit.sweeps.search import distribution
from mnist_lit.sweeps.study import (
    _figures,
    begun,
    count,
    opened_study,
    take_back,
    trial_id,
    write,
)
from mnist_lit.training import rundir
from mnist_lit.training.train import train
from tests.conftest import PROJECT, TINY, Here

SEARCH = (*TINY, "hparams_search=default", "hydra.launcher.n_jobs=1", "hydra.sweep.dir=s")
LR = "optimizer.lr=tag(log, interval(0.01, 0.1))"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process instead of a launcher's new one, which would take ten seconds."""

    def train_here(self: Processes, number: int, overrides: Any) -> float:
        loader = GlobalHydra.instance().config_loader()
        words = [*overrides, f"hydra.job.num={number}", f"hydra.job.id={number}"]
        composed = loader.load_sweep_config(self.config, words)
        HydraConfig.instance().set_config(composed)
        folder = Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir)
        config = composed.copy()
        OmegaConf.set_readonly(config, False)
        with open_dict(config):
            del config["hydra"]
            config.run_dir = str(folder)
        with suppress(Exception), rundir.recorded(folder):
            train(config)
        (folder / "output.log").touch()
        return came_to(folder, 1)

    monkeypatch.setattr(Processes, "train", train_here)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


@pytest.fixture(autouse=True)
def drawn_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the figures of the search with a process; they take as long as two trainings."""

    if "in_process" in request.fixturenames:
        monkeypatch.setattr("mnist_lit.sweeps.study._figures", lambda *_: {})


Study = Callable[[], optuna.Study]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return lambda: optuna.load_study(study_name="default", storage=database(tmp_path))


def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 's/study.db'}"


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.1, 0.99, 1.0]])
def test_the_figures_of_a_search_show_every_trial(values: list[float]) -> None:
    kinds = CategoricalDistribution(("[distort,noise]", "none"))
    rates = FloatDistribution(1e-3, 1.0, log=True)
    found = optuna.create_study(direction="maximize")
    for number, value in enumerate(values):
        params = {"augmentation": kinds.choices[number % 2], "optimizer.lr": 10.0**-number}
        spaces = {"augmentation": kinds, "optimizer.lr": rates}
        more: Any = {"distributions": spaces, "intermediate_values": {1: value}}
        found.add_trial(create_trial(value=value, params=params, **more))
    found.add_trial(create_trial(value=0.5, state=TrialState.PRUNED))
    *scattered, epochs = _figures(found, "last_val_accuracy").values()
    assert len(scattered) == 3
    for figure in scattered:
        assert figures.png(figure)
        (axes,) = figure.axes
        (points,) = axes.collections
        inside = axes.bbox.contains
        assert all(inside(*place) for place in axes.transData.transform(points.get_offsets()))
        labels = [one.get_window_extent() for one in axes.get_xticklabels()]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(labels))
        assert {one.get_text()[-1] for one in axes.get_yticklabels()} == {"%"}
    assert [text.get_text() for text in epochs.axes[0].texts] == [f"#{found.best_trial.number}"]


@pytest.mark.slow
def test_a_trial_is_a_process_of_its_own(here: Here, tmp_path: Path, study: Study) -> None:
    done = here(*SEARCH, LR, "search.n_trials=1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = study().trials
    assert [one.state for one in found] == [TrialState.COMPLETE]
    for one in found:
        assert list(one.intermediate_values) == [1, 2]
        assert one.value == pytest.approx(one.intermediate_values[2]), (
            "the last epoch's accuracy is what counts"
        )
        assert (tmp_path / f"s/{one.number}/report.json").is_file()
    assert {*found[0].params} == {"optimizer.lr", "optimizer.weight_decay"}
    assert "never read the test images" in done.stdout
    again = re.search("the best again: (.*)", done.stdout)
    assert again is not None
    assert "data=mnist_holdout optimizer.lr=" in again[1]
    assert "search" not in again[1]
    page = (tmp_path / "s/results.html").read_text()
    pictures = re.findall('alt="(.*?)"', page)
    assert [picture.partition(", which")[0] for picture in pictures] == [
        "Last val accuracy by trial",
        "Last val accuracy by optimizer.lr",
        "Last val accuracy by optimizer.weight_decay",
        "Validation error of all trials",
    ]
    assert again[1].replace("'", "&#39;") in page


@pytest.mark.slow
def test_trials_that_fail_are_listed_and_three_at_the_start_end_it(
    in_process: None, here: Here, tmp_path: Path, study: Study
) -> None:
    boom = ("callbacks.boom._target_=tests.own.Boom", "callbacks.boom.epoch=choice(1)")
    done = here(*SEARCH, *boom, "search.n_trials=9")
    assert done.returncode == 1
    assert "error: the trials have all failed" in done.stderr
    assert [one.state for one in study().trials] == [TrialState.FAIL] * 3
    assert "ZeroDivisionError: a defect" in (tmp_path / "s/results.html").read_text()
    with (tmp_path / "s/results.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["fail"] * 3


@pytest.mark.slow
def test_a_search_whose_new_trials_all_fail_does_not_end_well(
    in_process: None, here: Here, tmp_path: Path, study: Study
) -> None:
    words = (*SEARCH, "callbacks.boom._target_=tests.own.Boom", "optimizer.weight_decay=0")
    works, fails = "callbacks.boom.epoch=range(8,10)", "callbacks.boom.epoch=range(0,2)"
    assert here(*words, works, "search.n_trials=1").returncode == 0
    two = here(*words, fails, "search.n_trials=3")
    assert two.returncode == 1
    assert "error: the trials have all failed; mend the cause" in two.stderr
    assert len(study().trials) == 3
    with (tmp_path / "s/results.csv").open(newline="") as file:
        states = [row["state"] for row in csv.DictReader(file)]
    assert states == ["complete", "fail", "fail"]
    assert here(*words, works, "search.n_trials=3").returncode == 0  # one has succeeded
    one = here(*words, fails, "search.n_trials=1", "search.study=b", "hydra.sweep.dir=b")
    again = here(*words, fails, "search.n_trials=1", "search.study=b", "hydra.sweep.dir=b")
    assert "error: the trials have all failed" in one.stderr
    assert "error: the trials have all failed" in again.stderr


@pytest.mark.parametrize("name", ["multirun.yaml", "results.csv", "results.html", "study.db", "0"])
def test_a_folder_with_files_of_somebody_else_is_no_search(
    name: str, here: Here, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/slurm-1.out").write_text("mine")
    (tmp_path / "s" / name).write_text("mine")
    done = here(*SEARCH, LR)
    assert done.returncode == 1
    assert done.stderr == f"error: s/{name}: not of a sweep; give another hydra.sweep.dir\n"
    assert {path.name for path in tmp_path.glob("s/*")} == {"slurm-1.out", name}
    assert (tmp_path / "s" / name).read_text() == "mine"


def test_no_file_is_removed_that_a_journal_names(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "theirs").write_text("mine")
    file = tmp_path / "s/study.db"
    search = Search(**vars(searched(tmp_path)) | {"storage": database(tmp_path)})
    with opened_study(search, 1):
        pass
    content, name = file.read_bytes(), bytes(tmp_path / "theirs")
    side = int.from_bytes(content[16:18])
    page, sums = content[:side], sum(content[side - 200 : 0 : -200])
    head = rundir.NAMING + struct.pack(">5I", 1, 0, len(content) // side, 512, side)
    record = struct.pack(">I", 1) + page + struct.pack(">I", sums)
    named = struct.pack(">I", 2**30 // side + 1) + name + struct.pack(">2I", len(name), sum(name))
    journal = file.with_name("study.db-journal")
    journal.write_bytes(head.ljust(512, b"\0") + record + named + rundir.NAMING)
    with pytest.raises(ConfigError, match="SQLite would remove a file"), opened_study(search, 1):
        pass
    assert (tmp_path / "theirs").read_text() == "mine"
    journal.write_bytes(head.ljust(512, b"\0") + record)  # as a killed search leaves it
    with opened_study(search, 1):
        pass
    assert not journal.exists()


@pytest.mark.slow
def test_a_study_that_is_removed_ends_the_search_in_a_line(
    in_process: None, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_it = Processes.train

    def removed(self: Processes, number: int, overrides: Any) -> float:
        (tmp_path / "s/study.db").unlink()
        return train_it(self, number, overrides)

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "train", removed)
        done = here(*SEARCH, LR, "search.n_trials=3")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert re.search(
        r"error: search.storage=sqlite:.*: cannot be used: .*no such table", done.stderr
    )
    before = (tmp_path / "s/0/job.json").read_bytes()
    again = here(*SEARCH, LR, "search.n_trials=3")
    assert again.returncode == 1
    assert "s/0: not of the study default, which has 0 trials; give another" in again.stderr
    assert (tmp_path / "s/0/job.json").read_bytes() == before


@pytest.mark.slow
def test_what_was_killed_is_tried_again_and_counts_once(
    in_process: None, here: Here, tmp_path: Path, study: Study
) -> None:
    assert here(*SEARCH, LR, "search.n_trials=2").returncode == 0
    before = [one.value for one in study().trials]
    search = Search(
        **vars(searched(tmp_path)) | {"study": "default", "storage": database(tmp_path)}
    )
    with opened_study(search, 2) as (found, storage):
        killed = found.ask(
            {
                "optimizer.lr": FloatDistribution(0.01, 0.1, log=True),
                "optimizer.weight_decay": FloatDistribution(1e-5, 1e-2, log=True),
            }
        )
        storage.record_heartbeat(trial_id(found, storage, killed.number))
    with closing(sqlite3.connect(tmp_path / "s/study.db")) as file, file:
        file.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-61 seconds')")
    done = here(*SEARCH, LR, "search.n_trials=4")
    assert done.returncode == 0, done.stderr
    trials = study().trials
    assert [one.value for one in trials[:2]] == before
    assert trials[2].state is TrialState.FAIL
    assert trials[3].params == killed.params, "the same is tried again"
    assert [one.state for one in trials[3:]] == [TrialState.COMPLETE] * 2
    assert "default: 4 complete" in done.stdout


def test_what_was_killed_before_its_first_heartbeat_does_not_run_for_ever(
    in_process: None, here: Here, tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_lit.sweeps.study.STALE", 1)
    assert here(*SEARCH, LR, "search.n_trials=1").returncode == 0
    search = Search(
        **vars(searched(tmp_path)) | {"study": "default", "storage": database(tmp_path)}
    )
    with opened_study(search, 2) as (found, _):
        found.enqueue_trial(found.trials[0].params)
        found.ask(found.trials[0].distributions)
    assert here(*SEARCH, LR, "search.n_trials=2").returncode == 0
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert [one.state for one in study().trials] == states


def test_a_search_that_is_stopped_tries_the_same_again(
    in_process: None, here: Here, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_it = Processes.train

    def stopped(self: Processes, number: int, overrides: Any) -> float:
        if number == 1:
            raise KeyboardInterrupt
        return train_it(self, number, overrides)

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "train", stopped)
        done = here(*SEARCH, LR, "search.n_trials=2")
    assert done.stderr == "error: stopped\n"
    assert "repeat the same command to run the others" in done.stdout
    assert here(*SEARCH, LR, "search.n_trials=2").returncode == 0
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert [one.state for one in study().trials] == states
    assert study().trials[2].params == study().trials[1].params


def searched(tmp_path: Path, pruner: Any = "median") -> Search:
    return Search(
        study="a",
        storage=f"sqlite:///{tmp_path / 'a.db'}",
        n_trials=1,
        timeout=None,
        repeats=1,
        over="seed",
        pruner=pruner,
        params={},
    )


def test_what_is_stopped_twice_is_still_one_trial(tmp_path: Path) -> None:
    rate: Any = {"optimizer.lr": FloatDistribution(0.01, 0.1)}
    with opened_study(searched(tmp_path), 1) as (found, _):
        for _ in range(3):
            take_back(found, found.ask(rate).number)
            assert count(found) == "1 waiting"
        assert len({one.params["optimizer.lr"] for one in found.trials[:-1]}) == 1
        assert begun(found) == 0
        assert "failed" not in write(found, tmp_path, ["train"], rate)


def test_a_trial_is_of_what_is_searched_alone(tmp_path: Path) -> None:
    rate: Any = {"optimizer.lr": FloatDistribution(0.01, 0.1)}
    more = rate | {"callbacks.x": CategoricalDistribution(["{_target_: evil.Class}"])}
    search = object.__new__(trials.Search)
    search.folder, search.space = tmp_path, rate
    with opened_study(searched(tmp_path), 1) as (found, _):
        values = {"optimizer.lr": 0.05, "callbacks.x": "{_target_: evil.Class}"}
        waiting = TrialState.WAITING
        found.add_trial(create_trial(state=waiting, params=values, distributions=more))
        with pytest.raises(ConfigError, match=r"trial 0: its callbacks\.x is not of this search"):
            search._train(found.ask(rate))


TEXT = "{_target_: evil.Class}"


def test_a_text_is_no_number_of_a_trial_whenever_it_comes(tmp_path: Path) -> None:
    rate: Any = {"optimizer.lr": FloatDistribution(0.01, 0.1)}
    search = object.__new__(trials.Search)
    search.folder, search.space = tmp_path, rate
    with opened_study(searched(tmp_path), 1) as (found, _):
        given = "NEW.trial_id, 'optimizer.lr', " + repr(TEXT)
        distribution = optuna.distributions.distribution_to_json(rate["optimizer.lr"])
        with closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
            columns = "trial_id, param_name, param_value, distribution_json"
            inserted = f"INSERT INTO trial_params ({columns}) VALUES ({given}, '{distribution}')"
            file.execute(f"CREATE TRIGGER late AFTER INSERT ON trials BEGIN {inserted}; END")
        trial = found.ask(rate)
        assert trial.params == {"optimizer.lr": TEXT}
        for use in (lambda: search._train(trial), lambda: write(found, tmp_path, ["train"], rate)):
            with pytest.raises(ConfigError, match=r"trial 0: its optimizer\.lr is not of this sea"):
                use()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.WAITING])
def test_a_study_with_a_text_as_a_number_is_refused(
    state: TrialState, here: Here, tmp_path: Path
) -> None:
    rate: Any = {"optimizer.lr": FloatDistribution(0.01, 0.1, log=True)}
    with opened_study(searched(tmp_path), 1) as (found, _):
        more: Any = {"value": 1.0 if state is TrialState.COMPLETE else None, "state": state}
        found.add_trial(create_trial(params={"optimizer.lr": 0.05}, distributions=rate, **more))
    with closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
        file.execute("UPDATE trial_params SET param_value = ?", [TEXT])
    storage = f"search.storage={searched(tmp_path).storage}"
    done = here(*SEARCH, LR, "search.study=a", "search.n_trials=1", storage)
    assert done.stderr.startswith("error: trial 0: its optimizer.lr is not of this search; give")
    assert "evil" not in done.stdout + done.stderr
    assert not list((tmp_path / "s").iterdir())


def test_a_text_that_optuna_cannot_read_is_a_line(tmp_path: Path) -> None:
    whole: Any = {"seed": IntDistribution(1, 9)}
    with opened_study(searched(tmp_path), 1) as (found, _):
        found.ask(whole)
    with closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
        file.execute("UPDATE trial_params SET param_value = ?", [TEXT])
    said = r"search\.storage=.*a\.db: cannot be used: .*int\(\)"
    with pytest.raises(ConfigError, match=said), opened_study(searched(tmp_path), 1) as (found, _):
        assert found.trials


def test_a_trial_takes_no_folder_of_another(in_process: None, here: Here, tmp_path: Path) -> None:
    rate: Any = {"optimizer.lr": FloatDistribution(0.01, 0.1, log=True)}
    rate["optimizer.weight_decay"] = FloatDistribution(1e-5, 1e-2, log=True)
    with opened_study(searched(tmp_path), 1) as (found, _):
        values = {"optimizer.lr": 0.05, "optimizer.weight_decay": 0.001}
        waiting = TrialState.WAITING
        found.add_trial(create_trial(state=waiting, params=values, distributions=rate))
    (tmp_path / "s/0").mkdir(parents=True)
    (tmp_path / "s/multirun.yaml").write_text(f"search: {{study: a}} # {rundir.SWEEPER}")
    (tmp_path / "s/0/job.json").write_text("mine")
    storage = f"search.storage={searched(tmp_path).storage}"
    done = here(*SEARCH, LR, "search.study=a", "search.n_trials=1", storage)
    assert "s/0: not of this trial; give another hydra.sweep.dir" in done.stdout
    assert [path.name for path in (tmp_path / "s/0").iterdir()] == ["job.json"]
    assert (tmp_path / "s/0/job.json").read_text() == "mine"


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.WAITING])
def test_a_study_with_other_parameters_is_refused(
    state: TrialState, here: Here, tmp_path: Path
) -> None:
    with opened_study(searched(tmp_path), 1) as (found, _):
        name, value = "callbacks.x", "{_target_: evil.Class}"
        more: Any = {"distributions": {name: CategoricalDistribution([value])}, "state": state}
        more["value"] = 1.0 if state is TrialState.COMPLETE else None
        found.add_trial(create_trial(params={name: value}, **more))
    done = here(*SEARCH, LR, "search.study=a", f"search.storage={searched(tmp_path).storage}")
    assert done.stderr.count("\n") == 1
    assert re.search(r"trial 0: its callbacks\.x is not of this search; give the opt", done.stderr)
    assert "evil" not in done.stdout + done.stderr


def test_a_study_with_altered_options_is_refused(here: Here, tmp_path: Path) -> None:
    with opened_study(searched(tmp_path), 1) as (found, _):
        found.set_user_attr("options", [1])
    done = here(*SEARCH, LR, "search.study=a", f"search.storage={searched(tmp_path).storage}")
    assert done.stderr == "error: search.study=a: options=[1]: should be a mapping\n"


@pytest.mark.slow
def test_a_study_is_of_one_search(in_process: None, here: Here, study: Study) -> None:
    search = (*SEARCH, "optimizer.weight_decay=0")
    assert here(*search, LR, "search.n_trials=1").returncode == 0
    for changed, words in (
        (["trainer.max_epochs=3"], "trainer.max_epochs is 3 here and 2 there"),
        (["search.repeats=2"], "search.repeats is 2 here and 1 there"),
        (["model=tiny", "seed=1"], "model.* here and .*, and .* more"),
    ):
        done = here(*search, LR, "search.n_trials=2", *changed)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert re.search(f"search.study=default: .*{words}.*or another name", done.stderr)
    for space, words in (
        (
            "optimizer.lr=choice(0.02,0.03)",
            r"was FloatDistribution\(.*is CategoricalDistribution\(",
        ),
        ("optimizer.lr=interval(0.01,0.1)", "was Float.*log=True.*is Float.*log=False"),
        ("optimizer.lr=range(1,9)", "was FloatDistribution.*is IntDistribution"),
    ):
        done = here(*search, space, "search.n_trials=2")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert re.search(f"search.study=default: optimizer.lr {words}.*another name", done.stderr)
    assert len(study().trials) == 1
    # The limits of a searched key may change, and options such as the pruner too.
    wider = ("optimizer.lr=tag(log, interval(0.01, 0.2))", "search.pruner=none")
    assert here(*search, *wider, "search.n_trials=2").returncode == 0
    assert len(study().trials) == 2


@pytest.mark.slow
def test_a_bad_trial_is_pruned(in_process: None, here: Here, study: Study) -> None:
    good = ("optimizer.lr=interval(0.04,0.05)", "optimizer.weight_decay=0", "trainer.max_epochs=4")
    assert here(*SEARCH, *good, "search.n_trials=1").returncode == 0
    first = study()
    bad = {"optimizer.lr": 0.041}
    first.enqueue_trial(bad)
    assert first.trials[0].state is TrialState.COMPLETE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            optuna.Trial,
            "should_prune",
            lambda self: len(self.storage.get_trial(self._trial_id).intermediate_values) >= 3,
        )
        done = here(*SEARCH, *good, "search.n_trials=2")
    assert done.returncode == 0, done.stderr
    last = study().trials[1]
    assert last.state is TrialState.PRUNED
    assert list(last.intermediate_values) == [1, 2, 3]
    begun, ended = re.findall(r"^2 of 2  trial 1  optimizer\.lr=[\d.]+(.*)$", done.stdout, re.M)
    assert begun == ""
    pruned = r"  pruned after epoch 3 of 4  \d+ s  \(best \d+\.\d\d%, trial 0\)"
    assert re.fullmatch(pruned, ended), ended


@pytest.mark.slow
def test_a_trial_may_be_the_mean_of_several_trainings(
    in_process: None, here: Here, tmp_path: Path, study: Study
) -> None:
    fold = ("search.over=data.fold", "data.folds=4", "data.fold=1", "search.repeats=3")
    done = here(*SEARCH, LR, *fold, "search.n_trials=1")
    assert done.returncode == 0, done.stderr
    [one] = study().trials
    values = []
    for number in (0, 1, 2):
        record = job.read(tmp_path / f"s/0/{number}")
        assert record.config["data.fold"] == 1 + number
        text = (tmp_path / f"s/0/{number}/report.json").read_text()
        values.append(float(json.loads(text)["last_val_accuracy"]))
    assert one.value == pytest.approx(sum(values) / 3)
    assert one.intermediate_values[2] == pytest.approx(values[0])
    assert one.intermediate_values[6] == pytest.approx(one.value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a PostgreSQL server, with a password in it."""
    pytest.importorskip("psycopg")
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.environ["PATH"].split(":"))]
    programs = next((place for place in places if (place / "initdb").is_file()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:  # short enough for a socket
        Path(folder).chmod(0o777)
        data, password = Path(folder, "data"), Path(folder, "password")
        secret = secrets.token_hex(8)
        password.write_text(secret)
        password.chmod(0o644)
        words: list[Any] = [programs / "initdb", "-D", data, "-U", "me", "-A", "scram-sha-256"]
        subprocess.run([*words, f"--pwfile={password}"], check=True, capture_output=True, **user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        control: list[Any] = [programs / "pg_ctl", "-D", data, "-w"]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = Path(folder, "data", "log")
        subprocess.run(
            [*control, "-l", log, "-o", options, "start"], check=True, capture_output=True, **user
        )
        try:
            yield f"postgresql+psycopg://me:{secret}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run(
                [*control, "-m", "fast", "stop"], check=True, capture_output=True, **user
            )


@pytest.mark.slow
def test_workers_share_a_study_on_a_server_and_its_password_stays_there(
    in_process: None, here: Here, tmp_path: Path, server: str
) -> None:
    options = [word for word in SEARCH if "sweep.dir" not in word]
    storage, secret = f"search.storage={server}", server.split(":")[2].partition("@")[0]
    one = here(*options, LR, storage, "search.n_trials=1", "hydra.sweep.dir=one")
    assert one.returncode == 0, one.stderr
    two = here(*options, LR, storage, "search.n_trials=2", "hydra.sweep.dir=two")
    assert two.returncode == 0, two.stderr
    assert "1 complete; 2 wanted" in two.stdout
    assert [path.name for path in (tmp_path / "two").iterdir() if path.is_dir()] == ["1"]
    assert "default: 2 complete" in two.stdout
    for done in (one, two):
        assert secret not in done.stdout + done.stderr
        assert "postgresql+psycopg://***@127.0.0.1" in done.stdout
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if secret.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=mnist"], "data.validation=test: a search does not look at test images"),
        (["test=true"], "test=true: a search does not look at test images"),
        (
            ["optimized_metric=test_accuracy"],
            "optimized_metric=test_accuracy: this needs test=true",
        ),
        (["hydra/launcher=basic"], "BasicLauncher does not train the trials of a search"),
        (["optimizer.lr=0.1", "optimizer.weight_decay=0"], "nothing to search: give values"),
        (["optimizer.lr=interval(0.1,-1)"], "the second number should be above the first"),
        (["optimizer.lr=tag(log,interval(0,1))"], "and both above 0"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: should be greater than 0"),
        (["search.over=model"], "search.over=model: a key with a whole number is expected"),
        (["search.study=../../up"], r"search.study=\.\./\.\./up: the name of a folder is expect"),
        (["search.study="], "search.study=: the name of a folder is expected"),
        (["search.repeats=0"], "search.repeats=0: should be greater than or equal to 1"),
        (["search.pruner=axe"], "search.pruner=axe: should be 'median', 'hyperband' or 'none'"),
        (["search.storage=nonsense"], "search.storage=nonsense: cannot be used"),
        (["hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: should be at least 1"),
        (
            ["search.storage=postgresql+psycopg://me:secret@127.0.0.1:9/none"],
            r"search.storage=postgresql\+psycopg://\*\*\*@127.0.0.1:9/none: cannot be used",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_line(
    arguments: list[str], words: str, here: Here, tmp_path: Path
) -> None:
    done = here(*(word for word in SEARCH if "n_jobs" not in word), *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert re.search(words, done.stderr), done.stderr
    assert "secret" not in done.stdout + done.stderr
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("range(1,9,2)", IntDistribution(1, 7, step=2)),
        ("range(8.0,10.5,0.5)", FloatDistribution(8.0, 10.0, step=0.5)),
        ("tag(log, interval(1,100))", FloatDistribution(1.0, 100.0, log=True)),
        ("choice(32,64)", CategoricalDistribution(("32", "64"))),
        ("a,b", CategoricalDistribution(("a", "b"))),
    ],
)
def test_words_of_hydra_are_distributions_of_optuna(words: str, expected: Any) -> None:
    given = OverridesParser.create().parse_override(f"model.x={words}")
    assert distribution(given) == expected


def test_hyperband_and_a_search_without_pruning_are_what_they_say(tmp_path: Path) -> None:
    for pruner, kind in {"hyperband": "Hyperband", "none": "Nop", "median": "Median"}.items():
        with opened_study(searched(tmp_path, pruner), 20) as (found, _):
            assert type(found.pruner).__name__ == f"{kind}Pruner"
