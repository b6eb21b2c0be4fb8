from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mnist_lit.config import ConfigError, parse
from mnist_lit.training import build_classifier, build_data, build_trainer

from .conftest import PROJECT, compose_config

GROUPS = ("model", "optimizer", "scheduler", "data", "augmentation", "trainer", "experiment")
CHOICES = [
    f"{group}={file.stem}"
    for group in (*GROUPS, "callbacks", "logger")
    for file in sorted((PROJECT / "conf" / group).glob("*.yaml"))
]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_shipped_choice_passes_the_schema(choice: str) -> None:
    parse(compose_config(choice, "run_dir=unused"))


@pytest.mark.parametrize("experiment", ["final", "flagship", "tiny"])
def test_what_is_chosen_away_stays_away_though_an_experiment_sets_amounts(experiment: str) -> None:
    chosen = f"experiment={experiment}", "run_dir=unused"
    assert parse(compose_config("augmentation=none", *chosen)).augmentation == {}
    assert parse(compose_config("callbacks=none", *chosen)).callbacks == {}
    assert set(parse(compose_config("callbacks=plain", *chosen)).callbacks) == {"progress"}


def test_defaults_are_the_documented_ones() -> None:
    config = parse(compose_config("run_dir=unused"))
    assert config.model.name == "final"
    assert config.optimizer["_target_"] == "torch.optim.SGD"
    assert config.scheduler.build["_target_"] == "torch.optim.lr_scheduler.OneCycleLR"
    assert config.data.validation == "test"
    assert config.augmentation["_target_"] == "mnist_lit.augmentation.RandomDistortion"
    assert set(config.logger) == {"csv", "tensorboard"}
    assert config.requirements.enforce


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("optimizer.lr=-0.1", "optimizer.lr=-0.1", "above 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan", "above 0"),
        ("optimizer.lr=fast", "optimizer.lr=fast", "above 0"),
        ("+optimizer.lrr=0.1", "optimizer.lrr", "did you mean lr?"),
        ("optimizer.momentum=1.0", "optimizer.momentum=1.0", "less than 1"),
        ("model.dropout=1.0", "model.dropout=1.0", "less than 1"),
        ("model.dropout=-0.1", "model.dropout=-0.1", "at least 0"),
        ("model.blocks=[]", "model.blocks=[]", "at least one"),
        ("model.blocks=[{channels: 8, kernal: 3}]", "model.blocks[0].kernal", "mean kernel?"),
        ("model.blocks=[{kernel: 3}]", "model.blocks[0].channels", "missing"),
        ("model.blocks=[{channels: 8, kernel: 2}]", "model.blocks[0].kernel=2", "odd"),
        ("model.blocks=[{channels: [8, 16]}]", "model.blocks[0].channels=[8, 16]", "whole number"),
        ("model.blocks=[{channels: 8, pool: max}]", "model.blocks[0].pool=max", "after_conv"),
        (
            f"model.blocks=[{','.join(['{channels: 4, pool: after_conv}'] * 5)}]",
            "model.blocks[4].pool",
            "1 pixel",
        ),
        ("scheduler.interval=batch", "scheduler.interval=batch", "one of step, epoch"),
        ("scheduler.build.pct_start=1", "scheduler.build.pct_start=1.0", "between 0 and 1"),
        ("data.batch_size=0", "data.batch_size=0", "1 or above"),
        ("data.batch_size=2.5", "data.batch_size=2.5", "whole number"),
        ("data.batch_size=60001", "data.batch_size=60001", "at most 60000"),
        ("data.train_size=60001", "data.train_size=60001", "at most 60000"),
        ("augmentation.scale=2", "augmentation.scale=2.0", "less than 1"),
        ("augmentation.gamma=-1", "augmentation.gamma=-1.0", "0 or above"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0", "1 or above"),
        ("trainer.accelerator=quantum", "trainer.accelerator=quantum", "cpu"),
        ("trainer.precision=8", "trainer.precision=8", "bf16-mixed"),
        ("trainer.limit_val_batches=0", "trainer.limit_val_batches=0", "number of batches"),
        ("callbacks.progress=3", "callbacks.progress=3", "_target_"),
        ("requirements.min_val_accuracy=99.4", "requirements.min_val_accuracy=99.4", "0 to 1"),
        ("requirements.enforce=perhaps", "requirements.enforce=perhaps", "true or false"),
        ("seed=-1", "seed=-1", "whole number"),
        ("seed=???", "seed", "missing"),
        ("+sede=1", "sede", "did you mean seed?"),
        ("optimized_metric=speed", "optimized_metric=speed", "test_accuracy"),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(
    override: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(compose_config(override, "run_dir=unused"))
    message = str(caught.value)
    assert message.startswith(key)
    assert words in message
    assert "\n" not in message


def test_a_batch_larger_than_what_holdout_leaves_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 55000"):
        parse(compose_config("data=mnist_holdout", "data.batch_size=55001", "run_dir=unused"))


@pytest.mark.parametrize(
    ("group", "node", "message"),
    [
        (
            "optimizer",
            {"_target_": "torch.optim.Rprop", "_partial_": True, "lr": 0.1, "etass": [0.5, 1.2]},
            "optimizer.etass: no such key; did you mean etas?",
        ),
        (
            "optimizer",
            {"_target_": "torch.optim.Nothing", "_partial_": True},
            "optimizer=torch.optim.Nothing: cannot be built",
        ),
        ("augmentation", {"_target_": "torch.nn.Dropout", "p": 7}, "augmentation=torch.nn.Dropout"),
    ],
)
def test_targets_of_ones_own_are_checked_when_they_are_built(
    group: str, node: dict[str, Any], message: str
) -> None:
    cfg = compose_config("run_dir=unused")
    OmegaConf.update(cfg, group, node, merge=False, force_add=True)
    config = parse(cfg)
    build = build_data if group == "augmentation" else build_classifier
    with pytest.raises(ConfigError) as caught:
        build(config)
    assert str(caught.value).startswith(message)


# With the optional package installed there is nothing to say.
@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_logger_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    config = parse(compose_config("logger=mlflow", f"run_dir={tmp_path}"))
    with pytest.raises(ConfigError, match=r"logger.mlflow: .*pip install -e '.\[mlflow\]'"):
        build_trainer(config, tmp_path, [])


def test_a_device_that_lightning_refuses_is_a_config_error(tmp_path: Path) -> None:
    config = parse(compose_config("trainer.devices=-7", "trainer=cpu", f"run_dir={tmp_path}"))
    with pytest.raises(ConfigError, match="Lightning refuses"):
        build_trainer(config, tmp_path, [])


def test_groups_are_independent() -> None:
    """No choice of one group changes what another says."""
    optimizers = [f.stem for f in (PROJECT / "conf/optimizer").glob("*.yaml")]
    schedulers = [f.stem for f in (PROJECT / "conf/scheduler").glob("*.yaml")]
    for optimizer, scheduler in product(optimizers, schedulers):
        both = compose_config(f"optimizer={optimizer}", f"scheduler={scheduler}", "run_dir=x")
        alone = compose_config(f"optimizer={optimizer}", "run_dir=x")
        assert OmegaConf.to_container(both.optimizer) == OmegaConf.to_container(alone.optimizer)
