"""A share of ``benchmarks/fuzz.py``, and mistakes that it has found."""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mnist_lit import compose
from mnist_lit.config.check import parse
from mnist_lit.training.build import prepare
from tests.conftest import PROJECT, TINY, Here


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("MNIST_LIT_TRACEBACK", "1")
    monkeypatch.chdir(tmp_path)
    return import_module("fuzz")


@pytest.mark.parametrize("trials", [10, pytest.param(25, marks=pytest.mark.slow)])
def test_nonsense_is_refused_in_a_line_and_leaves_nothing(
    trials: int, fuzz: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "LEGAL", ())  # it has its own test
    found = fuzz.run(trials=trials, seed=int(os.environ.get("FUZZ_SEED", "7")))
    assert found["traceback"] == []
    assert found["lines"] == []
    assert found["left"] == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer=null", "cannot be composed (Config group override must be a string or a list"),
        ("experiment=[1]", "cannot be composed"),
        ("callbacks=[a,b]", "no such choice"),
        ("optimizer.lr=false", "valid number"),
        ("optimizer.lr.0=1", "valid number"),
        ("trainer.accumulate_grad_batches={a: 1}", "valid integer"),
        ("optimizer.momentum=0", "Nesterov momentum requires a momentum"),
        ("trainer.precision=64-true", "should be 'auto', '32-true'"),
        ("trainer.strategy=ddp_spawn", "should be 'auto' or 'ddp'"),
        ("trainer.limit_train_batches=0.001", "leaves no batch; an epoch has 156"),
        ("trainer.plugins=[]", "a run sets this itself"),
        ("logger.csv.name=-0.5", "valid string"),
        ("logger.csv.version=-0.5", "should be"),
        ("loss._partial_=0", "true or false is expected"),
        ("model._target_.x=[1]", "model: a mapping with `_target_`"),
        ("data._target_=null", "data: a mapping with `_target_`"),
        ("augmentation.distort.gamma=1e308", "less than or equal to 10"),
        ("model.name=''", "should be a name"),
        ("model.name=null", "a value is expected"),
        ("run_dir=x", "hydra.run.dir is meant"),
        ("seed=ü", "needs quotes"),
        ("model.blocks[0].channels=8", "given as model.blocks.0.channels=8"),
        ("trainer.devices=2147483648", "less than or equal to 1024"),
        ("trainer.accumulate_grad_batches=null", "a value is expected"),
        ("callbacks.fade.start={a: 1}", "should be a valid number"),
        ("callbacks.average.decay._partial_={}", "should be a valid number"),
        ("trainer.devices=12000", "less than or equal to 1024"),
        ("trainer.max_epochs=2147483648", "steps, at most 10,000,000 are possible"),
        ("hydra.job.chdir=true", "a run stays where it is started"),
        ("optimizer.lr=1e300", "less than or equal to 1000"),
        ("~model.blocks.0", "cannot be composed"),
        ("model=final,", "cannot be read as key=value"),
        ("trainer=gpu", "No supported gpu backend found"),
        ("model.blocks.0.channels=2147483648", "less than or equal to"),
    ],
)
def test_what_was_found_stays_found(fuzz: Any, override: str, words: str) -> None:
    kind, said = fuzz.answer(override)
    assert kind == "refused", said
    assert words in said
    assert said.count("\n") == 0


def test_a_callback_that_waits_for_nothing_is_refused(fuzz: Any) -> None:
    kind, said = fuzz.answer(
        "callbacks=early_stopping", "callbacks.early_stopping.monitor=val/lss", "logger=none"
    )
    assert (kind, "did you mean val/loss?" in said) == ("refused", True)
    rate = "callbacks.rate={_target_: pytorch_lightning.callbacks.LearningRateMonitor}"
    kind, said = fuzz.answer(rate, "logger=none")
    assert (kind, "it needs a logger" in said) == ("refused", True)


def test_processes_without_a_batch_or_a_core_are_refused(fuzz: Any) -> None:
    two = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    kind, said = fuzz.answer(*two, "data.train_size=100", "data.batch_size=64")
    assert kind == "refused"
    assert "make 1 batches, fewer than one for each of 2 processes" in said
    cores = os.cpu_count() or 1
    kind, said = fuzz.answer(f"trainer.devices={cores + 1}", "trainer.accelerator=cpu")
    assert (kind, f"at most {cores}, the number of processor cores" in said) == ("refused", True)


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_legal_values_that_look_odd_are_taken(fuzz: Any, part: int) -> None:
    cases = list(fuzz.legal())
    assert len(cases) >= 60
    common = "requirements.enforce=false", "trainer.accelerator=cpu", "run_dir=unused"
    for words in cases[:20] if part == 0 else cases[20:]:
        prepare(parse(compose(*words, *common)))


def test_what_was_only_checked_is_not_what_the_next_sweep_trains(
    fuzz: Any, here: Here, tmp_path: Path
) -> None:
    assert fuzz.answer("seed=1") == ("accepted", "")
    sweep = ("-m", *TINY, "hydra/launcher=basic", "hydra.sweep.dir=sweep", "seed=3")
    assert here(*sweep).returncode == 0
    report = json.loads((tmp_path / "sweep/0/report.json").read_text())
    assert (report["model"], report["seed"]) == ("nano", 3)


@pytest.mark.parametrize("override", ["seed=1", "data.train_size=6000", "optimizer.lr=0.3"])
def test_sense_is_accepted(fuzz: Any, override: str) -> None:
    assert fuzz.answer(override) == ("accepted", "")
