"""Dropout that ends early."""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
from omegaconf import DictConfig
from torch import nn

from mnist_lit import MNISTDataModule
from mnist_lit.config.check import parse
from mnist_lit.errors import ConfigError
from mnist_lit.training.build import prepare
from mnist_lit.training.callbacks.dropout import EarlyDropout
from mnist_lit.training.console import quiet_lightning


def probabilities(module: nn.Module) -> list[float]:
    return [m.p for m in module.modules() if isinstance(m, nn.Dropout)]


def test_dropout_falls_to_nothing_and_comes_back_after_training(
    tiny: Callable[..., DictConfig], tmp_path: Path
) -> None:
    config = parse(tiny("model=optimized", "trainer.max_epochs=4", "trainer.limit_train_batches=1"))
    seen = []

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: nn.Module, *_: object) -> None:
            seen.append(probabilities(module))

    run = prepare(config)
    described = probabilities(run.module)
    vars(run.trainer)["callbacks"] += [EarlyDropout(end=0.5), Note()]
    with quiet_lightning():
        run.trainer.fit(run.module, MNISTDataModule(train_size=64, batch_size=64))
    assert described == [0.0, 0.1, 0.0, 0.1, 0.0, 0.1]
    assert seen == [described, [p / 2 for p in described], [0.0] * 6, [0.0] * 6]
    assert probabilities(run.module) == described


@pytest.mark.parametrize("end", [0, 1.5])
def test_an_end_outside_the_training_is_refused(
    tiny: Callable[..., DictConfig], end: float
) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.dropout\.end"):
        prepare(
            parse(
                tiny(
                    "callbacks=default",
                    "callbacks.dropout._target_=mnist_lit.training.callbacks.dropout.EarlyDropout",
                    f"callbacks.dropout.end={end}",
                )
            )
        )
