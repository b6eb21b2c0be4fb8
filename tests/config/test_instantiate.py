"""Hydra's own ``instantiate`` builds from the shipped config the objects that a run uses."""

import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from mnist_lit import CompactCNN, LitClassifier, compose
from mnist_lit.targets import build
from tests.conftest import PROJECT


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (PROJECT / "conf" / group).glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    return compose("run_dir=unused", "trainer=cpu", *overrides)


def parameters() -> list[torch.nn.Parameter]:
    return list(torch.nn.Linear(2, 2).parameters())


@pytest.mark.parametrize("choice", choices("model"))
def test_a_model_is_the_network(choice: str) -> None:
    network = instantiate(composed(f"model={choice}").model, classes=7, side=32, paper=-0.4)
    assert isinstance(network, CompactCNN)
    assert network.name == choice
    assert network.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("choice", choices("optimizer"))
def test_an_optimizer_waits_for_the_parameters(choice: str) -> None:
    optimizer = instantiate(composed(f"optimizer={choice}").optimizer)(parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)


@pytest.mark.parametrize("choice", choices("scheduler"))
def test_a_scheduler_waits_for_the_optimizer_and_the_length(choice: str) -> None:
    cfg = composed(f"scheduler={choice}")
    optimizer = instantiate(cfg.optimizer)(parameters())
    lengths: dict[str, dict[str, Any]] = {
        "onecycle": {"total_steps": 10, "max_lr": 0.1},
        "cosine": {"T_max": 10},
    }
    scheduler = instantiate(cfg.scheduler)(optimizer, **lengths.get(choice, {}))
    assert scheduler.optimizer is optimizer
    assert cfg.module.interval == ("step" if choice in lengths else "epoch")


@pytest.mark.parametrize("choice", choices("loss"))
def test_a_loss_maps_logits_and_labels_to_a_number(choice: str) -> None:
    loss = instantiate(composed(f"loss={choice}").loss)
    assert loss(torch.zeros(4, 10), torch.arange(4)).ndim == 0


@pytest.mark.parametrize("choice", choices("data"))
def test_data_is_the_data_module(choice: str) -> None:
    root = [f"data.root={PROJECT / 'data'}"] if choice.startswith("idx") else []
    data = instantiate(composed(f"data={choice}", *root).data, seed=3)
    assert isinstance(data, pl.LightningDataModule)


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("augmentation", object),
        ("callbacks", pl.Callback),
        ("logger", Logger),
        ("metrics", torch.nn.Module),
    ],
)
def test_each_node_of_a_named_group_is_built(group: str, kind: type, tmp_path: Path) -> None:
    for choice in choices(group):
        if choice in ("wandb", "mlflow"):  # these need their packages
            continue
        nodes: Any = compose(f"{group}={choice}", f"run_dir={tmp_path}")[group]
        assert choice != "none" or not nodes
        for node in nodes.values():
            assert isinstance(instantiate(node), kind)


@pytest.mark.parametrize("choice", [c for c in choices("trainer") if c not in ("gpu", "ddp")])
def test_a_trainer_is_lightnings(choice: str, tmp_path: Path) -> None:
    cfg = compose(f"trainer={choice}", "trainer.accelerator=cpu", f"run_dir={tmp_path}")
    trainer = instantiate(cfg.trainer, precision="32-true", logger=False)
    assert isinstance(trainer, pl.Trainer)
    assert trainer.max_epochs == cfg.trainer.max_epochs


def test_the_module_is_named_in_the_config() -> None:
    cfg = composed()
    module = instantiate(cfg.module, network=instantiate(cfg.model))
    assert isinstance(module, LitClassifier)
    assert module.interval == "step"


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_what_an_experiment_says_of_what_is_not_chosen_builds_nothing(experiment: str) -> None:
    cfg = composed(f"experiment={experiment}", "augmentation=none", "callbacks=none")
    assert [name for name, node in cfg.augmentation.items() if "_target_" in node] == []
    built = {name for name, node in cfg.callbacks.items() if "_target_" in node}
    assert built <= {"dropout"}  # an experiment adds it


def test_a_class_in_the_working_folder_may_be_nested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_nested.py").write_text("class Own: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    node = {"_target_": "types.SimpleNamespace", "inner": [{"_target_": "only_nested.Own"}]}
    assert type(build(node, "x").inner[0]).__name__ == "Own"
    assert sys.path[-1] == ""
