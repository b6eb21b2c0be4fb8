"""The LightningModule: loss, metrics, optimizer and scheduler around a :class:`CompactCNN`."""

import inspect
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import SumMetric

from mnist_lit.config import ConfigError
from mnist_lit.network import CompactCNN

Batch = tuple[Tensor, Tensor]


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this project; the message names it and says why."""


class LitClassifier(pl.LightningModule):
    """Trains and validates a compact CNN.

    A checkpoint holds the description of the network as plain data, so that
    ``LitClassifier.load_from_checkpoint(path)`` rebuilds it with nothing else at hand.

    Args:
        network: The arguments of :class:`CompactCNN`, as plain lists, numbers and strings.
        optimizer: Called with the parameter groups; returns the optimizer. Only training needs it.
        scheduler: Called with the optimizer; returns the scheduler. Arguments named ``total_steps``
            or ``T_max`` are filled with the length of the training in units of ``interval``,
            ``max_lr`` with the optimizer's learning rate.
        interval: ``step`` or ``epoch``: when the scheduler is stepped.
        seed: Decides, with the epoch, what augmentation and dropout draw.
        compile_mode: Train through ``torch.compile`` in this mode; None to run as written.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        interval: str = "step",
        seed: int = 0,
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        self.network = CompactCNN(**network)
        self.save_hyperparameters({"network": self.network.description})
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.seed = seed
        self.batch_loss = (
            torch.compile(batch_loss, mode=compile_mode) if compile_mode else batch_loss
        )
        self.train_loss = torch.zeros(())
        self.train_batches = 0
        self.val_loss = SumMetric()
        self.val_errors = SumMetric()
        self.val_count = SumMetric()
        self.val_images = 0

    def forward(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 10"]:
        """Map normalised images ``[B, 1, 28, 28]`` to logits ``[B, 10]``."""
        return self.network(images)

    def on_train_epoch_start(self) -> None:
        """Make what the epoch draws depend on seed, epoch and process alone.

        A run resumed from a checkpoint then draws what an uninterrupted one does.
        """
        generator = torch.Generator().manual_seed(self.seed)
        epochs = torch.randint(2**62, (self.current_epoch + 1,), generator=generator)
        torch.manual_seed(int(epochs[-1]) + self.global_rank)
        self.train_loss = torch.zeros((), device=self.device)
        self.train_batches = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        images, labels = batch
        loss = self.batch_loss(self.network, images, labels)
        self.train_loss += loss.detach()
        self.train_batches += 1
        return loss

    @property
    def mean_train_loss(self) -> Tensor:
        """The mean training loss of the epoch so far."""
        return self.train_loss / self.train_batches

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean training loss and the learning rate it ended with."""
        self.log("train/loss", self.mean_train_loss, sync_dist=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self._step_plateau()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count errors and loss of a batch, in full precision whatever training runs in.

        A checkpoint evaluated later, on any device, then gives the same count.
        """
        images, labels = batch
        with torch.autocast(self.device.type, enabled=False):
            logits = self.network(images.to(self.network.linear.weight.dtype))
        self.val_loss.update(F.cross_entropy(logits, labels, reduction="sum"))
        self.val_errors.update((logits.argmax(dim=1) != labels).sum())
        self.val_count.update(float(len(labels)))

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, loss and the rank of the epoch."""
        count, errors = self.val_count.compute(), self.val_errors.compute()
        loss = self.val_loss.compute() / count
        self.val_images = int(count)
        for metric in (self.val_count, self.val_errors, self.val_loss):
            metric.reset()
        self.log("val/accuracy", 1 - errors / count)
        self.log("val/errors", errors)
        self.log("val/loss", loss)
        # Fewest errors first and, among equals, the lower loss: one number to order epochs by.
        self.log("val/rank", errors + loss / (1 + loss), logger=False)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log accuracy and loss of the test images."""
        count = self.val_count.compute()
        self.log("test/accuracy", 1 - self.val_errors.compute() / count)
        self.log("test/loss", self.val_loss.compute() / count)
        for metric in (self.val_count, self.val_errors, self.val_loss):
            metric.reset()

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler and say when to step the latter."""
        if self.optimizer is None:
            raise ConfigError("optimizer: training needs one; pass it to LitClassifier")
        optimizer = self.optimizer(decay_weights_only(self.network))
        if self.scheduler is None:
            return optimizer
        length = self._schedule_length()
        filled = {
            "total_steps": length,
            "T_max": length,
            "max_lr": [group["lr"] for group in optimizer.param_groups],
        }
        accepted = inspect.signature(self.scheduler).parameters
        arguments = {name: value for name, value in filled.items() if name in accepted}
        try:
            scheduler = self.scheduler(optimizer, **arguments)
        except (ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"scheduler: cannot be built for a training of {length} {self.interval}s "
                f"({error}); train longer or choose another"
            ) from None
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.interval,
                "monitor": "val/loss",
            },
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume a training of another length, to which its schedule was not cut.

        Raises:
            CheckpointError: The schedule of the checkpoint has another number of steps.
        """
        for saved in checkpoint.get("lr_schedulers", []):
            length = saved.get("total_steps", saved.get("T_max"))
            now = self._schedule_length()
            if length not in (None, now):
                raise CheckpointError(
                    f"ckpt_path is of a training of {length:,} {self.interval}s, this one has "
                    f"{now:,}; resume it with the options that it was trained with"
                )

    def _schedule_length(self) -> int | float | None:
        trainer = self.trainer
        return trainer.estimated_stepping_batches if self.interval == "step" else trainer.max_epochs

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step the scheduler, unless it is one that :meth:`on_train_epoch_end` has stepped."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def _step_plateau(self) -> None:
        # Lightning would do so only after the epoch's checkpoint has been written, and a run
        # resumed from it would miss that step.
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.callback_metrics["val/loss"])

    @classmethod
    # Narrower than Lightning's on purpose: its other options could overrule what the file says, or
    # unpickle it.
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu"
    ) -> "LitClassifier":
        """Rebuild a classifier from a checkpoint, in evaluation mode.

        Nothing in the file is executed, whoever wrote it.

        Raises:
            CheckpointError: There is no such file, or it is not a checkpoint of this project.
        """
        path = Path(checkpoint_path)
        checkpoint = read_checkpoint(path, map_location)
        try:
            module = cls(**checkpoint["hyper_parameters"])
            module.load_state_dict(checkpoint["state_dict"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            raise CheckpointError(
                f"{path} is a checkpoint, but not one that this project's train.py wrote"
            ) from None
        return module.to(map_location).eval()


def read_checkpoint(path: Path, map_location: Any) -> dict[str, Any]:
    """Read a file of tensors and plain data; nothing in it is executed.

    Raises:
        CheckpointError: There is no such file, or it is no checkpoint.
    """
    if not path.is_file():
        kind = "a folder, not a file" if path.is_dir() else "not there"
        raise CheckpointError(
            f"{path} is {kind}; give the path of a checkpoint, as outputs/…/checkpoints/best.ckpt"
        )
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except PermissionError:
        raise CheckpointError(f"{path} cannot be read: permission denied") from None
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() and path.read_bytes()[:2] == b"PK":
            raise CheckpointError(
                f"{path} carries Python objects, which could run code; it was not loaded. "
                "A checkpoint of this project holds only tensors and plain data"
            ) from None
        raise CheckpointError(f"{path} is not a checkpoint") from None
    except Exception:  # a damaged archive raises whatever its first wrong byte leads to
        raise CheckpointError(
            f"{path} is not a checkpoint, or a truncated or damaged one"
        ) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} is not a checkpoint of this project's train.py")
    return checkpoint


def batch_loss(
    network: nn.Module, images: Float[Tensor, "b 1 28 28"], labels: Int64[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of a batch."""
    return F.cross_entropy(network(images), labels)


def decay_weights_only(network: nn.Module) -> Sequence[dict[str, Any]]:
    """Split parameters into weights, which decay, and biases and norm parameters, which do not."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]
