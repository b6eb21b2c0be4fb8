"""A Lightning callback that measures times for the benchmarks."""

import time
from typing import Any, ClassVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class Clock(Callback):
    """Times the last training of this process; all times in seconds.

    Attributes:
        first_step: The end of the first training step, by ``time.time()``.
        training: Duration of the training of each epoch.
        validation: Duration of the validation of each epoch.
        images: Number of images of each epoch's training.
    """

    first_step: ClassVar[float] = 0.0
    training: ClassVar[list[float]] = []
    validation: ClassVar[list[float]] = []
    images: ClassVar[list[int]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear the times of the previous training."""
        Clock.first_step = 0.0
        Clock.training, Clock.validation, Clock.images = [], [], []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start an epoch."""
        Clock.images.append(0)
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch."""
        Clock.first_step = Clock.first_step or time.time()
        Clock.images[-1] += len(batch[1])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the time of training."""
        now = time.perf_counter()
        Clock.training.append(now - self._started)
        self._started = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the time of validation."""
        Clock.validation.append(time.perf_counter() - self._started)
