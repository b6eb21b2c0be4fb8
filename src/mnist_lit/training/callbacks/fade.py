"""Augmentation that fades out, as a Lightning callback."""

import pytorch_lightning as pl

from mnist_lit.training.classifier import LitClassifier
from mnist_lit.validation import Probability


class FadeOut(pl.Callback):
    """Shrink the distortions linearly towards the end, so that training ends on real images.

    It sets the attribute ``strength``, a factor of the amounts, of every augmentation that has one.

    Args:
        start: Share of the epochs, from 0 to 1, with full distortions.
    """

    def __init__(self, start: Probability) -> None:
        self.start = start

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the epoch's strength."""
        assert trainer.max_epochs is not None
        left = 1 - trainer.current_epoch / trainer.max_epochs
        _set_strength(pl_module, min(1.0, left / (1 - self.start)))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore full strength for the next use of the augmentation."""
        _set_strength(pl_module, 1.0)


def _set_strength(module: pl.LightningModule, strength: float) -> None:
    assert isinstance(module, LitClassifier)
    for augmentation in module.augmentations:
        if hasattr(augmentation, "strength"):
            augmentation.strength = strength
