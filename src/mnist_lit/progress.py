"""What training shows: a progress bar, a line per epoch, and the table they come from."""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar
from tqdm import tqdm

from mnist_lit.classifier import LitClassifier


@dataclass(frozen=True)
class Epoch:
    """One row of the epoch table; epochs count from 1, accuracy is a share from 0 to 1."""

    epoch: int
    train_loss: float
    val_loss: float
    val_errors: int
    val_count: int
    learning_rate: float
    seconds: float

    @property
    def val_accuracy(self) -> float:
        """The share of validation images that were right."""
        return (self.val_count - self.val_errors) / self.val_count

    @property
    def rank(self) -> tuple[int, float]:
        """Orders epochs from best to worst: fewest errors, then the lower loss."""
        return self.val_errors, self.val_loss

    def line(self, epochs: int) -> str:
        """Say it in one line of at most 80 columns."""
        return (
            f"epoch {self.epoch:>2}/{epochs}  loss {self.train_loss:.4f}  "
            f"val loss {self.val_loss:.4f}  val accuracy {self.val_accuracy:.2%}  "
            f"lr {self.learning_rate:.2g}  {self.seconds:.1f} s"
        )


class History(Callback):
    """Keeps one :class:`Epoch` for each epoch, across resumed runs too.

    Attributes:
        epochs: The rows so far.
        learning_rates: The rate of every training step so far.
        train_images: Images trained on so far.
        train_seconds: The time that took, validation excluded.
    """

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.learning_rates: list[float] = []
        self.train_images = 0
        self.train_seconds = 0.0
        self._started = 0.0

    @property
    def best(self) -> Epoch:
        """The epoch that ``best.ckpt`` is of."""
        return min(self.epochs, key=lambda epoch: epoch.rank)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate that the step is about to use."""
        self.learning_rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.train_images += len(batch[1]) * trainer.world_size

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of training."""
        self.train_seconds += time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row."""
        assert isinstance(pl_module, LitClassifier)
        metrics = trainer.callback_metrics
        self.epochs.append(
            Epoch(
                epoch=trainer.current_epoch + 1,
                train_loss=float(pl_module.mean_train_loss),
                val_loss=float(metrics["val/loss"]),
                val_errors=int(metrics["val/errors"]),
                val_count=pl_module.val_images,
                learning_rate=self.learning_rates[-1],
                seconds=time.perf_counter() - self._started,
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for the checkpoint."""
        return {
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "learning_rates": self.learning_rates,
            "train_images": self.train_images,
            "train_seconds": self.train_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the table of a resumed run."""
        self.epochs = [Epoch(**row) for row in state_dict["epochs"]]
        self.learning_rates = list(state_dict["learning_rates"])
        self.train_images = state_dict["train_images"]
        self.train_seconds = state_dict["train_seconds"]


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
                unit="step",
                dynamic_ncols=True,
                leave=False,
            )

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
                + (f"val accuracy {accuracy:.2%}, " if accuracy is not None else "")
                + f"lr {trainer.optimizers[0].param_groups[0]['lr']:.2g}",
                refresh=False,
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line above the bar."""
        if self._enabled:
            # `trainer.callbacks` exists, but Lightning's types do not declare it.
            history = next(c for c in vars(trainer)["callbacks"] if isinstance(c, History))
            assert trainer.max_epochs is not None
            tqdm.write(history.epochs[-1].line(trainer.max_epochs), file=sys.stdout)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the bar away, also when training broke off."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
