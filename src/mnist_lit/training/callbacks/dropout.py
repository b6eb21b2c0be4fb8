"""Dropout only in the first epochs, as a Lightning callback."""

from typing import Annotated

import pytorch_lightning as pl
from annotated_types import Gt, Le
from torch import nn


class EarlyDropout(pl.Callback):
    """Reduce the probability of every dropout linearly to 0, then train without dropout.

    This is for networks that underfit: early dropout reduces the variance of the gradients between
    batches, but later it costs capacity (Liu, Xu, Jin, Shen and Darrell, Dropout Reduces
    Underfitting, 2023).

    Args:
        end: Share of the epochs with dropout, above 0 and at most 1.
    """

    def __init__(self, end: Annotated[float, Gt(0), Le(1)]) -> None:
        self.end = end
        self.probabilities: dict[nn.Dropout, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the probabilities of the network's description."""
        dropouts = (m for m in pl_module.modules() if isinstance(m, nn.Dropout))
        self.probabilities = {dropout: dropout.p for dropout in dropouts}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the epoch's probabilities."""
        assert trainer.max_epochs is not None
        left = max(0.0, 1 - trainer.current_epoch / (self.end * trainer.max_epochs))
        for dropout, probability in self.probabilities.items():
            dropout.p = probability * left

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the probabilities of the network's description."""
        for dropout, probability in self.probabilities.items():
            dropout.p = probability
