"""An exponential moving average of the weights, as a Lightning callback."""

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mnist_lit.validation import Probability


class MovingAverage(WeightAveraging):
    """Validate, save and reload a moving average of the weights instead of the weights.

    The decay starts at 0.1 and rises to its final value as ``(1 + n) / (10 + n)`` after n steps, so
    that the random initialisation does not linger in the average.

    Args:
        decay: Share of the average that each step keeps, after the warm-up.
    """

    def __init__(self, decay: Probability = 0.999) -> None:
        super().__init__()
        self.decay = decay

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the device: Lightning makes it before it moves the weights."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        pairs = list(zip(_state(self._average_model.module), _state(pl_module), strict=True))
        real = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averages, self._weights = (list(side) for side in zip(*real, strict=True))
        # Batch norm counts its steps.
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Update the average if the optimizer has made a step.

        Lightning's own update collects all parameters again, and reads the number of updates from
        the device, which makes a GPU wait.
        """
        if trainer.global_step == self._latest_update_step:
            return
        assert self._average_model is not None
        before, self._latest_update_step = self._latest_update_step, trainer.global_step
        kept = min(self.decay, (1 + before) / (10 + before)) if before else 0.0
        average = get_ema_multi_avg_fn(kept)  # type: ignore[no-untyped-call]  # untyped in torch
        average(self._averages, self._weights, before)
        for count, steps in self._counters:
            count.copy_(steps)
        # Lightning validates the average only if its own counter is above 0.
        self._average_model.n_averaged += 1


def _state(module: torch.nn.Module) -> list[Tensor]:
    return list(chain(module.parameters(), module.buffers()))
