"""Dropout that is there for the first epochs only, as a Lightning callback."""

from typing import Annotated

import pytorch_lightning as pl
from annotated_types import Gt, Le
from torch import nn


class EarlyDropout(pl.Callback):
    """Let the probability of every dropout fall linearly to 0, and train on without.

    For networks that underfit: dropout keeps their first steps from following single batches, and
    later costs capacity which they do not have (Liu, Xu, Jin, Shen and Darrell, Dropout Reduces
    Underfitting, 2023).

    Args:
        end: The share of the epochs, above 0 and at most 1, after which there is none.
    """

    def __init__(self, end: Annotated[float, Gt(0), Le(1)]) -> None:
        self.end = end
        self.probabilities: dict[nn.Dropout, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what the network was described with."""
        dropouts = (m for m in pl_module.modules() if isinstance(m, nn.Dropout))
        self.probabilities = {dropout: dropout.p for dropout in dropouts}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the epoch's probabilities."""
        assert trainer.max_epochs is not None
        left = max(0.0, 1 - trainer.current_epoch / (self.end * trainer.max_epochs))
        for dropout, probability in self.probabilities.items():
            dropout.p = probability * left

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore what the network was described with."""
        for dropout, probability in self.probabilities.items():
            dropout.p = probability
