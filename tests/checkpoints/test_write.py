"""A checkpoint is read back before it replaces the previous one."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from mnist_lit.checkpoints.read import read, read_file, unpacked
from mnist_lit.checkpoints.write import WholeFiles, packed
from mnist_lit.errors import ConfigError
from mnist_lit.training.train import train


class Watch(pl.Callback):
    """Has a state that cannot be saved, from an epoch on."""

    epochs = 0

    def __init__(self, since: int) -> None:
        self.since = since

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Watch.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": {"best": np.float64(1) if Watch.epochs >= self.since else 1.0}}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(1), "numpy.float64"),
        (np.int64(1), "numpy.int64"),
        (np.ones(3), "numpy.ndarray"),
        (np.float32, "numpy.float32"),
        (Path("a"), "pathlib.*Path"),
        (datetime(2026, 1, 1), "datetime.datetime"),
        (frozenset([1]), "frozenset"),
        ([1, np.float64(1)], "list"),
        ({Path("a"): 1}, "dict"),
        (lambda: 1, "lambda"),
        (Lock(), "lock"),
        (range(3), "range"),
    ],
)
def test_what_cannot_be_read_back_is_named(value: object, kind: str) -> None:
    words = rf"^checkpoint\.callbacks\.Watch\.best \(.*{kind}.*\) cannot be saved: [^\n]*$"
    with pytest.raises(ConfigError, match=words):
        packed({"epoch": 1, "callbacks": {"Good": {"n": 1}, "Watch": {"best": value}}})


@pytest.mark.parametrize("value", [b"\xff" * 99, "ü" * 3_000_000, (1, None), {1: {2: 3.5}}, 2**70])
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    assert unpacked(packed({"kept": value})) == {"kept": value}


def test_more_than_is_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_lit.checkpoints.read.LARGEST", 10_000)
    with pytest.raises(
        ConfigError, match=r"^checkpoint\.a \(.*\) cannot be saved: .* too large: at most"
    ):
        packed({"a": torch.zeros(9000), "b": 1})


def test_nothing_is_removed_but_a_checkpoint_beside_the_one_just_written(tmp_path: Path) -> None:
    mine, ours = tmp_path / "mine", tmp_path / "run"
    for folder in (mine, ours):
        (folder / "inner.ckpt").mkdir(parents=True)
        for name in ("a.ckpt", "a.txt"):
            (folder / name).touch()
    (ours / "link.ckpt").symlink_to(mine / "a.ckpt")
    writer = WholeFiles()
    writer.remove_checkpoint(ours / "a.ckpt")
    writer.save_checkpoint({}, ours / "b.ckpt")
    before = {*tmp_path.rglob("*")}
    for name in ("../mine/a.ckpt", "../mine", ".", "a.txt", "link.ckpt", "inner.ckpt", "gone.ckpt"):
        writer.remove_checkpoint(f"{ours}/{name}")
    writer.remove_checkpoint(f"local://{mine}")
    assert {*tmp_path.rglob("*")} == before
    writer.remove_checkpoint(ours / "a.ckpt")
    assert {*tmp_path.rglob("*")} == before - {ours / "a.ckpt"}


def test_nothing_is_written_into_another_run(tmp_path: Path) -> None:
    for run in ("theirs", "theirs/mine"):
        (tmp_path / run / ".mnist-lit").mkdir(parents=True)
    writer = WholeFiles(tmp_path / "theirs/mine")
    for place in ("theirs/checkpoints", "theirs/mine/../checkpoints"):
        with pytest.raises(ConfigError, match=r"best\.ckpt: the run .*theirs lies there; give ano"):
            writer.save_checkpoint({}, tmp_path / place / "best.ckpt")
    assert not (tmp_path / "theirs/checkpoints").exists()
    for place in ("theirs/mine/checkpoints", "kept"):
        writer.save_checkpoint({}, tmp_path / place / "best.ckpt")


@pytest.mark.parametrize("since", [0, 2])
def test_a_callbacks_state_that_cannot_be_kept_ends_the_run_before_it_costs_an_epoch(
    since: int, tiny: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "epochs", 0)
    cfg = tiny()
    cfg.callbacks = {"watch": {"_target_": f"{__name__}.Watch", "since": since}}
    with pytest.raises(
        ConfigError, match=r"callbacks\.Watch\.seen\.best \(numpy\.float64\) cannot"
    ):
        train(cfg)
    assert Watch.epochs == since
    files = sorted((Path(cfg.run_dir) / "checkpoints").glob("*"))
    # The previous whole file stays.
    assert [file.name for file in files] == (["best.ckpt", "last.ckpt"] if since else [])
    for file in files:
        assert read_file(file)["callbacks"]["Watch"] == {"seen": {"best": 1.0}}
        assert read(file).facts.name == "mnist"


def test_a_callback_that_has_no_state_yet_is_let_train(
    tiny: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def state(self: Watch) -> dict[str, Any]:
        if not Watch.epochs:
            raise AttributeError("best")
        return {"text": "a" * 2_100_000, "bytes": b"\xff"}

    monkeypatch.setattr(Watch, "epochs", 0)
    monkeypatch.setattr(Watch, "state_dict", state)
    cfg = tiny("test=false")
    cfg.callbacks = {"watch": {"_target_": f"{__name__}.Watch", "since": 0}}
    last = train(cfg).run_dir / "checkpoints" / "last.ckpt"
    assert read_file(last)["callbacks"]["Watch"]["bytes"] == b"\xff"
