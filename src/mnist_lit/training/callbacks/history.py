"""A callback that fills the epoch table."""

import csv
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from mnist_lit.evaluation.history import Epoch, History
from mnist_lit.training.classifier import LitClassifier


class RecordHistory(Callback):
    """Adds a row for each epoch; checkpoints contain the table, the options and the loggers' runs.

    Args:
        names: Names of the loggers.
        options: The options that affect the result of the training.

    Attributes:
        history: The table.
        resumed: Number of epochs before the run was resumed.
        steps: Number of steps in this process.
        written: The values of ``metrics.csv`` before the run was resumed, by epochs from 0.
        runs: The resumed runs of Weights & Biases and MLflow, by names of loggers.
    """

    def __init__(self, names: Sequence[str], options: Mapping[str, Any]) -> None:
        self.names, self.options, self.runs = names, options, dict[str, str]()
        self.history = History()
        self.resumed = self.steps = 0
        self.written = dict[str, dict[str, Any]]()
        self._started = 0.0

    def begun_anew(self, loggers: Sequence[Logger]) -> list[Logger]:
        """Return the loggers that do not have the earlier epochs of a resumed run."""
        return [one for one in loggers if one.version not in self.runs.values()]

    def read_table(self, content: bytes) -> None:
        """Keep the values of a ``metrics.csv`` that Lightning will remove."""
        with suppress(csv.Error):  # damaged from here on
            for row in csv.DictReader(content.decode(errors="replace").splitlines()):
                values = {name: value for name, value in row.items() if name and value}
                self.written.setdefault(row.get("epoch", ""), {}).update(values)

    def on_save_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Save the options, and the runs of the loggers that can resume."""
        named, kinds = zip(self.names, trainer.loggers, strict=False), (WandbLogger, MLFlowLogger)
        checkpoint["loggers"] = {n: str(one.version) for n, one in named if isinstance(one, kinds)}
        checkpoint["options"] = self.options

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the earlier epochs of a resumed run again, to the loggers that start a new run.

        The numbers equal those logged before; Lightning converts them to 32 bits. ``metrics.csv``
        also keeps what other callbacks have logged.
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
            tensors = {name: torch.tensor(float(v)) for name, v in values.items() if v is not None}
            if row.val_count is not None:
                tensors["val/accuracy"] = 1 - tensors["val/errors"] / row.val_count
            numbers = {name: value.item() for name, value in tensors.items()}
            step = steps * row.epoch // len(epochs) - 1
            numbers["epoch"] = row.epoch - 1
            for logger in self.begun_anew(trainer.loggers):
                known = isinstance(logger, CSVLogger) and self.written.get(str(row.epoch - 1))
                logger.log_metrics({**(known or {}), **numbers}, step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, after the last epoch of the table."""
        if trainer.current_epoch != len(self.history.epochs):
            raise ValueError(f"epoch {trainer.current_epoch} after {len(self.history.epochs)} rows")
        self._started = time.perf_counter()
        self._validated: float | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Record the learning rate of the step."""
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
