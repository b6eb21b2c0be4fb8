"""The epoch table, filled while training goes on."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger

from mnist_lit.evaluation.history import Epoch, History
from mnist_lit.training.classifier import LitClassifier


class RecordHistory(Callback):
    """Adds a row for each epoch; a checkpoint carries what a resumed run goes on with.

    Args:
        names: Of the loggers.
        options: What decides the course of the training.

    Attributes:
        history: The table.
        resumed: How many of its epochs are from before the run was resumed.
        steps: How many have been made in this process.
        runs: Those of Weights & Biases and MLflow in which it goes on, by names of loggers.
    """

    def __init__(self, names: Sequence[str], options: Mapping[str, Any]) -> None:
        self.names, self.options, self.runs = names, options, dict[str, str]()
        self.history = History()
        self.resumed = self.steps = 0
        self._started = 0.0

    def begun_anew(self, loggers: Sequence[Logger]) -> list[Logger]:
        """Return the loggers that know nothing yet of a run that is resumed."""
        return [one for one in loggers if one.version not in self.runs.values()]

    def on_save_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the options, and where the loggers that can go on have logged."""
        named, kinds = zip(self.names, trainer.loggers, strict=False), (WandbLogger, MLFlowLogger)
        checkpoint["loggers"] = {n: str(one.version) for n, one in named if isinstance(one, kinds)}
        checkpoint["options"] = self.options

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give those loggers the epochs of a run that is resumed which begin anew.

        The numbers are those that they got before, which Lightning keeps in 32 bits.
        """
        epochs = self.history.epochs
        steps = len(self.history.learning_rates) // trainer.accumulate_grad_batches
        for row in epochs:
            values = {
                "train/loss": row.train_loss,
                "train/accuracy_on_distorted": row.train_accuracy,
                "lr": row.learning_rate,
                "val/errors": row.val_errors,
                "val/loss": row.val_loss,
                **{f"val/{name}": value for name, value in row.metrics.items()},
            }
            known = {name: torch.tensor(float(v)) for name, v in values.items() if v is not None}
            if row.val_count is not None:
                known["val/accuracy"] = 1 - known["val/errors"] / row.val_count
            numbers = {name: value.item() for name, value in known.items()}
            step = steps * row.epoch // len(epochs) - 1
            for logger in self.begun_anew(trainer.loggers):
                logger.log_metrics({**numbers, "epoch": row.epoch - 1}, step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, after the last epoch of the table."""
        if trainer.current_epoch != len(self.history.epochs):
            raise ValueError(f"epoch {trainer.current_epoch} after {len(self.history.epochs)} rows")
        self._started = time.perf_counter()
        self._validated: float | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Note the learning rate that the step used."""
        assert isinstance(pl_module, LitClassifier)
        self.steps += 1
        self.history.learning_rates.append(pl_module.learning_rate)
        self.history.train_images += len(batch[1]) * trainer.world_size

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of training."""
        self._validated = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row."""
        assert isinstance(pl_module, LitClassifier)
        now, found = time.perf_counter(), trainer.callback_metrics
        validated = self._validated is not None
        self.history.train_seconds += (self._validated or now) - self._started
        self.history.epochs.append(
            Epoch(
                epoch=trainer.current_epoch + 1,
                train_loss=float(pl_module.mean_train_loss),
                val_loss=float(found["val/loss"]) if validated else None,
                val_errors=int(found["val/errors"]) if validated else None,
                val_count=pl_module.val_images if validated else None,
                learning_rate=self.history.learning_rates[-1],
                seconds=now - self._started,
                train_accuracy=float(pl_module.mean_train_accuracy),
                metrics={
                    name: float(found[f"val/{name}"]) for name in pl_module.metrics if validated
                },
            )
        )

    @property
    def state_key(self) -> str:
        """Its name in checkpoints."""
        return "History"

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for the checkpoint."""
        return self.history.plain()

    def on_load_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Continue the table of a resumed run."""
        self.history = History.of(checkpoint)
        self.resumed = len(self.history.epochs)
