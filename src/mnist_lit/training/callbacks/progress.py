"""The console output of a training: a progress bar and a line per epoch."""

import sys
from contextlib import suppress
from shutil import get_terminal_size
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm, TQDMProgressBar

from mnist_lit.evaluation.history import Epoch
from mnist_lit.training.callbacks.history import RecordHistory
from mnist_lit.training.classifier import LitClassifier
from mnist_lit.training.console import say


def line(epoch: Epoch, epochs: int) -> str:
    """Return the line of an epoch; without additional metrics it has at most 80 columns."""
    validated = "not validated"
    if epoch.val_loss is not None:
        metrics = "".join(f"  val {name} {value:.4f}" for name, value in epoch.metrics.items())
        validated = f"val loss {epoch.val_loss:.4f}  val accuracy {epoch.val_accuracy:.2%}{metrics}"
    rate = f"lr {epoch.learning_rate:.2g}  {epoch.seconds:.1f} s"
    return f"epoch {epoch.epoch:>2}/{epochs}  loss {epoch.train_loss:.4f}  {validated}  {rate}"


class EpochProgressBar(TQDMProgressBar):
    """One bar for the whole training and one line for each epoch, which stays on screen.

    The bar appears on a terminal only; the lines go to standard output in any case.
    """

    BAR_FORMAT = "{desc} |{bar}| {percentage:3.0f}%, {remaining} left{postfix}"

    def __init__(self) -> None:
        super().__init__(refresh_rate=20 if sys.stdout.isatty() else 0)

    def init_validation_tqdm(self) -> Tqdm:
        """Return a bar that does not show; validation is short."""
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the number of the epoch; the bar is for all epochs."""
        bar, epochs = self.train_progress_bar, trainer.max_epochs or 0
        if bar.total is None:
            bar.leave = False
            bar.reset(int(trainer.num_training_batches) * epochs)
            bar.initial = bar.n = int(trainer.num_training_batches) * trainer.current_epoch
            if (getattr(bar, "ncols", 80) or 0) < 1:  # the console does not say how wide it is
                bar.dynamic_ncols, bar.nrows, bar.ncols = False, None, get_terminal_size().columns
        bar.set_description_str(f"epoch {trainer.current_epoch + 1:>2}/{epochs}", refresh=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *given: Any) -> None:
        """Advance."""
        before = int(trainer.num_training_batches) * trainer.current_epoch
        module, outputs, batch, batch_idx = given
        with suppress(OSError):  # a closed terminal must not end the training
            super().on_train_batch_end(trainer, module, outputs, batch, before + batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the numbers of the bar; called when it is drawn."""
        assert isinstance(pl_module, LitClassifier)
        shown = {"lr": f"{pl_module.learning_rate:.2g}"}
        if (accuracy := trainer.callback_metrics.get("val/accuracy")) is not None:
            shown = {"accuracy": f"{accuracy:.2%}", **shown}
        return {"loss": f"{pl_module.mean_train_loss:.3f}", **shown}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line above the bar."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # not in Lightning's types
        record = next(one for one in callbacks if isinstance(one, RecordHistory))
        say(line(record.history.epochs[-1], trainer.max_epochs or 0))

    def on_exception(self, *_: Any) -> None:
        """Remove the bar before the error is printed."""
        if self._train_progress_bar is not None:
            self.train_progress_bar.close()
