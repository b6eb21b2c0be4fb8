"""What training shows: a progress bar and a line per epoch."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from mnist_lit.evaluation.history import Epoch
from mnist_lit.training.callbacks.history import RecordHistory
from mnist_lit.training.console import say


def line(epoch: Epoch, epochs: int) -> str:
    """Say an epoch in one line; without metrics of one's own it has at most 80 columns."""
    validated = "not validated"
    if epoch.val_loss is not None:
        metrics = "".join(f"  val {name} {value:.4f}" for name, value in epoch.metrics.items())
        accuracy = f"val accuracy {epoch.val_accuracy:.2%}{metrics}"
        validated = f"val loss {epoch.val_loss:.4f}  {accuracy}"
    return (
        f"epoch {epoch.epoch:>2}/{epochs}  loss {epoch.train_loss:.4f}  {validated}  "
        f"lr {epoch.learning_rate:.2g}  {epoch.seconds:.1f} s"
    )


class EpochProgressBar(ProgressBar):
    """One bar for the whole training and one line for each epoch, which stays on screen.

    The bar appears on a terminal only; the lines go to standard output in any case.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Show nothing (Lightning calls this in all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put up the bar."""
        if self._enabled:
            steps = int(trainer.num_training_batches)
            assert trainer.max_epochs is not None
            self._bar = tqdm(
                total=steps * trainer.max_epochs,
                initial=steps * trainer.current_epoch,
                disable=None,  # where there is no terminal
                file=sys.stdout,
                # What does not change its width; the bar gets what 80 columns leave.
                bar_format="{desc} |{bar}| {percentage:3.0f}%, {remaining} left{postfix}",
                smoothing=0,  # validation between the epochs counts as well
                dynamic_ncols=True,
                leave=False,
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Number the epoch."""
        if self._bar is not None:
            epoch = f"epoch {trainer.current_epoch + 1:>2}/{trainer.max_epochs}"
            self._bar.set_description_str(epoch, refresh=False)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance; loss, accuracy and rate are read only when the bar is about to be redrawn."""
        if self._bar is not None and self._bar.update():
            accuracy = trainer.callback_metrics.get("val/accuracy")
            self._bar.set_postfix_str(
                f"loss {outputs['loss'].item():.3f}, "
                + (f"accuracy {accuracy:.2%}, " if accuracy is not None else "")
                + f"lr {trainer.optimizers[0].param_groups[0]['lr']:.2g}",
                refresh=False,
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line above the bar."""
        if self._enabled:
            # `trainer.callbacks` exists, but Lightning's types do not declare it.
            record = next(c for c in vars(trainer)["callbacks"] if isinstance(c, RecordHistory))
            assert trainer.max_epochs is not None
            say(line(record.history.epochs[-1], trainer.max_epochs))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away before anything is said of what happened."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
