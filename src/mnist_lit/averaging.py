"""An exponential moving average of the weights, as a Lightning callback."""

from collections.abc import Sequence

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Validate, save and reload a moving average of the weights instead of the weights.

    The decay starts at 0.1 and rises to its final value as ``(1 + n) / (10 + n)`` after n steps, so
    that the random initialisation does not linger in the average.

    Args:
        decay: How much of the average each step keeps, once warmed up.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        super().__init__(multi_avg_fn=self._average)

    @torch.no_grad()
    def _average(
        self, averages: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int
    ) -> None:
        if not averages[0].is_floating_point():  # batch norm's step counters
            torch._foreach_copy_(list(averages), list(current))
            return
        kept = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(list(averages), list(current), 1 - kept)
