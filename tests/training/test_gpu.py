"""Tests that need a GPU; skipped without one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints.read import read
from mnist_lit.config.check import parse
from mnist_lit.devices import pick_device
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.training.build import prepare
from mnist_lit.training.console import quiet_lightning
from mnist_lit.training.train import train
from tests.conftest import run_train
from tests.training.test_training import assert_same_weights, state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

Make = Callable[..., DictConfig]
GPU = "trainer.accelerator=gpu"


def losses(run_dir: Path) -> list[float]:
    return [row["train_loss"] for row in state(run_dir)["callbacks"]["History"]["epochs"]]


@pytest.mark.parametrize("model", ["final", "flagship", "nano"])
def test_resuming_on_a_gpu_equals_not_having_stopped(
    tiny: Make, tmp_path: Path, model: str
) -> None:
    options = (
        *(GPU, f"model={model}", "callbacks=default", "trainer.max_epochs=4"),
        "trainer.deterministic=true",
    )
    killed = tmp_path / "killed"
    copy = {"_target_": "tests.training.test_training.CopyAfter", "epoch": 2, "folder": str(killed)}
    cfg = tiny(*options, run_dir="whole")
    cfg.callbacks = {**cfg.callbacks, "copy": copy}
    whole = train(cfg)
    again = tiny(*options, f"ckpt_path={killed / 'last.ckpt'}", run_dir="resumed")
    again.callbacks = cfg.callbacks
    resumed = train(again)
    assert torch.cuda.get_device_name() in whole.report.device
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_weights(
            whole.run_dir / "checkpoints" / name, resumed.run_dir / "checkpoints" / name
        )
    assert whole.report.last_val_loss == resumed.report.last_val_loss


def test_it_learns_on_a_gpu_and_is_read_on_a_cpu(tiny: Make, mnist: MNISTDataModule) -> None:
    options = ("model=final", "data.train_size=9600", "trainer.limit_val_batches=null")
    found = train(tiny(GPU, *options, "test=true"))
    assert found.report.precision == "bf16-mixed"
    assert found.report.test_accuracy is not None
    assert found.report.test_accuracy > 0.9
    network = read(found.run_dir / "checkpoints/best.ckpt").network
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    mnist.setup("test")
    counts = [
        evaluate(network, mnist.test, MNIST, device=pick_device(name)).correct
        for name in ("cpu", "auto")
    ]
    assert abs(counts[0] - counts[1]) <= 2
    assert abs(counts[0] / 10_000 - found.report.test_accuracy) < 1e-3


def test_a_training_step_does_not_wait_for_the_gpu(tiny: Make, tmp_path: Path) -> None:
    class Steps(pl.Callback):
        seen = 0

        def on_train_batch_end(
            self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            # From the end of the first step to that of the last, with the batches between.
            if batch_idx == 0:
                torch.cuda.set_sync_debug_mode("error")
            self.seen += 1
            if batch_idx == trainer.num_training_batches - 1:
                torch.cuda.set_sync_debug_mode("default")

    config = parse(tiny(GPU, "model=final", "callbacks=default"))
    steps = Steps()
    try:
        with quiet_lightning():
            run = prepare(config)
            vars(run.trainer)["callbacks"].append(steps)
            run.trainer.fit(run.module, run.data)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps.seen == 10


def test_recorded_as_cuda_graphs_it_learns_the_same(tmp_path: Path) -> None:
    options = (
        *("experiment=final", "trainer=gpu", "trainer.max_epochs=2", "data.train_size=9600"),
        *("model.dropout=0", "trainer.precision=32-true", "requirements.enforce=false"),
    )
    for mode in ("null", "reduce-overhead"):
        done = run_train(*options, f"compile={mode}", f"hydra.run.dir={mode}", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    plain, recorded = (losses(tmp_path / mode) for mode in ("null", "reduce-overhead"))
    assert plain == pytest.approx(recorded, rel=1e-2)
