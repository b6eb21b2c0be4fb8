"""The LightningModule: loss, metrics, optimizer and scheduler around a network."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric, SumMetric

from mnist_lit.checkpoints.read import build_network, read
from mnist_lit.data.batches import Batch
from mnist_lit.errors import CheckpointError, ConfigError, DataError, DivergedError, reason
from mnist_lit.facts import MNIST, Facts
from mnist_lit.targets import parameters

Loss = Callable[..., Tensor]
NEVER = 2**31  # epochs; more than any training has


class LitClassifier(pl.LightningModule):
    """The LightningModule: trains, validates and tests a network.

    Batches are ``uint8 [B, 1, side, side]`` and ``int64 [B]``. The module augments (in training)
    and normalises them on the device.

    A checkpoint contains the description of the network and the facts of the data as plain data.
    ``LitClassifier.load_from_checkpoint(path)`` needs nothing else.

    Args:
        network: A network with a ``description``, as ``CompactCNN`` has one; or a description, in
            plain lists, numbers and strings: the arguments of ``CompactCNN``, or a ``_target_``
            and its arguments.
        facts: Facts of the images: mean and standard deviation, classes, side.
        optimizer: Called with the parameter groups; returns the optimizer. Only training needs it.
        scheduler: Called with the optimizer; returns the scheduler. Its arguments ``total_steps``
            and ``T_max`` are filled with the length of the training in units of ``interval``, and
            ``max_lr`` with the optimizer's learning rate, unless they are set.
        interval: ``step`` or ``epoch``: when the scheduler is stepped.
        loss: Training minimises it. It maps logits ``[B, classes]`` and labels ``[B]`` to a number;
            a parameter named ``images`` gets the network's input. None for cross-entropy.
            ``val/loss`` is always cross-entropy.
        metrics: Computed in validation and test from probabilities ``[B, classes]`` and labels
            ``[B]``; each returns one number.
        augmentations: Applied one after the other to training images, which are
            ``float32 [B, 1, side, side]`` from 0 to 1.
        seed: Decides, with the epoch, the random numbers of augmentation and dropout.
        compile_mode: The mode in which ``torch.compile`` compiles network and loss for training;
            None to train without it.
    """

    def __init__(
        self,
        network: nn.Module | Mapping[str, Any],
        facts: Facts = MNIST,
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        interval: Literal["step", "epoch"] = "step",
        loss: Loss | None = None,
        metrics: Mapping[str, Metric] | None = None,
        augmentations: Sequence[Callable[[Tensor], Tensor]] = (),
        seed: int = 0,
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(network, Mapping):
            network = build_network(network, trust=[str(network.get("_target_"))])
        self.network = network
        self.facts = facts
        # The loggers get the whole config instead.
        kept = {"network": network.description, "facts": facts.plain()}
        self.save_hyperparameters(kept, logger=False)
        self.loss: Loss = loss or F.cross_entropy
        self.loss_takes_images = "images" in parameters(getattr(loss, "forward", self.loss))[0]
        self.metrics, self._metrics = nn.ModuleDict(metrics), dict(metrics or {})
        self.augmentations = list(augmentations)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.seed = seed
        self.batch_loss = (
            torch.compile(batch_loss, mode=compile_mode) if compile_mode else batch_loss
        )
        # By default torchmetrics ignores NaN.
        self.val_loss = SumMetric(nan_strategy="disable")
        self.val_errors, self.val_count = SumMetric(), SumMetric()
        self.val_images = 0
        self.learning_rate = 0.0

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b classes"]:
        """Map normalised images ``[B, 1, side, side]`` to logits ``[B, classes]``."""
        return self.network(images)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (in training) and normalise on the device; an export's example passes as it is.

        Raises:
            DataError: The images are not what the facts say, or have no labels.
        """
        if self._trainer is None or self._trainer.state.stage is None:
            return batch
        images, *labels = batch if isinstance(batch, list | tuple) else [batch]
        side, complete = self.facts.side, bool(labels) or self.trainer.predicting
        if images.dtype is not torch.uint8 or images.shape[1:] != (1, side, side) or not complete:
            given = f"{self.facts.name}: batches of {images.dtype} {list(images.shape)}"
            wanted = f"images of torch.uint8 [B, 1, {side}, {side}] are expected"
            raise DataError(f"{given}; {wanted}{'' if complete else ' with labels'}")
        scaled = images.float() / 255
        if self.trainer.training:
            for augmentation in self.augmentations:
                scaled = augmentation(scaled)
        return self.facts.standardise(scaled), *labels

    @contextmanager
    def _labelled(self, batch: Batch, batch_idx: int) -> Iterator[Batch]:
        """Check labels in the first batch and if torch raises: the check makes a GPU wait."""
        images, labels = batch
        if batch_idx == 0:
            self.facts.check_labels(labels, len(images))
        try:
            yield images, labels
        except (IndexError, RuntimeError):
            self.facts.check_labels(labels, len(images))
            raise

    def on_train_epoch_start(self) -> None:
        """Seed the random numbers of the epoch by seed, epoch and process alone.

        So a resumed run draws the same numbers as an uninterrupted one.
        """
        generator = torch.Generator().manual_seed(self.seed)
        epochs = torch.randint(2**62, (self.current_epoch + 1,), generator=generator)
        torch.manual_seed(int(epochs[-1]) + self.global_rank)
        self.train_loss = torch.zeros((), device=self.device)
        self.train_correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.train_batches = self.train_images = 0
        self._validated: dict[str, Tensor] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        # Read here, because the scheduler changes it before the end of the step.
        self.learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        with self._labelled(batch, batch_idx) as (images, labels):
            loss_of = partial(self.loss, images=images) if self.loss_takes_images else self.loss
            loss, correct = self.batch_loss(self.network, loss_of, images, labels)
        self.train_loss.add_(loss.detach())
        self.train_correct.add_(correct)
        self.train_batches += 1
        self.train_images += len(labels)
        return loss

    @property
    def mean_train_loss(self) -> Tensor:
        """The mean training loss of the epoch so far."""
        return self.train_loss / self.train_batches

    @property
    def mean_train_accuracy(self) -> Tensor:
        """The training accuracy of the epoch so far, on the augmented images."""
        return self.train_correct / self.train_images

    def on_train_epoch_end(self) -> None:
        """Log the epoch with its validation: loggers get one row per epoch.

        The learning rate is that of the last step.

        Raises:
            DivergedError: The loss is not a number.
        """
        self._expect_a_number(self.mean_train_loss, "training loss")
        self.log("train/loss", self.mean_train_loss, sync_dist=True)
        self.log("train/accuracy_on_distorted", self.mean_train_accuracy, sync_dist=True)
        self.log("lr", self.learning_rate, sync_dist=True)
        self.log_dict(self._validated, sync_dist=True)
        # Lightning would step it only after it has written the epoch's checkpoint, and a run
        # resumed from that would miss the step.
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and self._validated:
            scheduler.step(self.trainer.callback_metrics["val/loss"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count errors and loss of a batch, always in full precision.

        So a later evaluation of the checkpoint, on any device, gives the same count.
        """
        with self._labelled(batch, batch_idx) as (images, labels):
            dtype = next(self.network.parameters(), images).dtype
            with torch.autocast(self.device.type, enabled=False):
                logits = self.network(images.to(dtype))
            self.val_loss.update(F.cross_entropy(logits, labels, reduction="sum"))
        self.val_errors.update((logits.argmax(dim=1) != labels).sum())
        self.val_count.update(float(len(labels)))
        for metric in self._metrics.values():
            metric.update(logits.softmax(dim=1), labels)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, loss and ``val/rank``, the number that orders epochs.

        Raises:
            DivergedError: The loss is not a number.
        """
        self._validated = self._counted("val")
        errors, loss = self._validated["val/errors"], self._validated["val/loss"]
        self._expect_a_number(loss, "validation loss")
        # All processes have the same numbers; without `sync_dist` Lightning would warn. In training
        # the loggers get them at the end of the epoch.
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        self.log_dict(self._validated, logger=not fitting, sync_dist=True)
        # Fewer errors are better and, among equals, a lower loss: one number that orders epochs.
        self.log("val/rank", errors + loss / (1 + loss), logger=False, sync_dist=True)

    def _expect_a_number(self, loss: Tensor, what: str) -> None:
        if not loss.isfinite():
            where = f"epoch {self.current_epoch + 1} of {self.trainer.max_epochs}"
            found = f"the {what} is {loss.item():g} at a learning rate of {self.learning_rate:.2g}"
            raise DivergedError(f"training diverged in {where}: {found}; try a lower optimizer.lr")

    def _counted(self, stage: str) -> dict[str, Tensor]:
        """Return the results of a stage, and reset the counts."""
        count, errors = self.val_count.compute(), self.val_errors.compute()
        self.val_images = int(count)
        values = {
            f"{stage}/accuracy": 1 - errors / count,
            f"{stage}/errors": errors,
            f"{stage}/loss": self.val_loss.compute() / count,
            **{f"{stage}/{name}": m.compute().float() for name, m in self._metrics.items()},
        }
        for metric in (self.val_count, self.val_errors, self.val_loss, *self._metrics.values()):
            metric.reset()
        return values

    test_step = validation_step

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Float[Tensor, "b classes"]:
        """Return the probabilities of a batch."""
        return self.network(batch[0]).softmax(dim=1)

    def on_test_epoch_end(self) -> None:
        """Log accuracy, errors and loss of the test images."""
        self.log_dict(self._counted("test"), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler, and configure the steps of the scheduler."""
        optimizer, scheduler = self.build_optimizer(self._length)
        if scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.interval,
                "monitor": "val/loss",
                # `on_train_epoch_end` steps a plateau scheduler; Lightning never does.
                "frequency": NEVER if isinstance(scheduler, ReduceLROnPlateau) else 1,
            },
        }

    def build_optimizer(self, length: int | float | None) -> tuple[Optimizer, Any]:
        """Make the optimizer and the scheduler.

        Args:
            length: Length of the training, in units of ``interval``.

        Raises:
            ConfigError: One of them refuses its arguments, or the training is too short for it.
        """
        if self.optimizer is None:
            raise ConfigError("optimizer: training needs one; make or load LitClassifier with it")
        failed = "optimizer: cannot be built"
        try:
            optimizer = self.optimizer(decay_weights_only(self.network))
            if self.scheduler is None:
                return optimizer, None
            failed = f"scheduler: cannot be built for a training of {length} {self.interval}s"
            rates = [group["lr"] for group in optimizer.param_groups]
            filled = {"total_steps": length, "T_max": length, "max_lr": rates}
            named = parameters(self.scheduler)[0].keys() - getattr(self.scheduler, "keywords", {})
            scheduler = self.scheduler(optimizer, **{k: filled[k] for k in filled.keys() & named})
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            short = isinstance(error, ZeroDivisionError)  # a phase of OneCycleLR has no step
            words = "train longer, or with a smaller data.batch_size" if short else reason(error)
            raise ConfigError(f"{failed}: {words}") from None
        if isinstance(scheduler, ReduceLROnPlateau) and self.interval == "step":
            words = "ReduceLROnPlateau waits for the validation loss; give module.interval=epoch"
            raise ConfigError(f"module.interval=step: {words}")
        return optimizer, scheduler

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume a training of another length: its schedule would not fit.

        Raises:
            CheckpointError: The schedule of the checkpoint has another number of steps.
        """
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        for saved in checkpoint.get("lr_schedulers", []) if fitting else []:
            length, now = saved.get("total_steps", saved.get("T_max")), self._length
            if length not in (None, now):
                words = f"a training of {length:,} {self.interval}s, this one has {now:,}"
                raise CheckpointError(f"ckpt_path is of {words}; resume it with its own options")

    @property
    def _length(self) -> int | float | None:
        trainer = self.trainer
        return trainer.estimated_stepping_batches if self.interval == "step" else trainer.max_epochs

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = "cpu",
        hparams_file: Any = None,
        strict: Any = None,
        weights_only: Any = None,
        trust: Collection[str] = (),
        **training: Any,
    ) -> "LitClassifier":
        """Rebuild a classifier from a checkpoint, in evaluation mode without an ``optimizer``.

        Nothing in the file is executed, whoever wrote it.

        Args:
            checkpoint_path: Path of the checkpoint.
            map_location: Device of the network.
            hparams_file: Has no effect: the checkpoint describes its network.
            strict: Has no effect: all weights have to fit.
            weights_only: Has no effect: only tensors and plain data are loaded.
            trust: Classes that may be imported, beside those of this project.
            training: Any argument of the class, except ``network`` and ``facts``.

        Raises:
            CheckpointError: There is no such file, or it is not a checkpoint of this project.
            TrustError: The class of its network is not trusted.
        """
        trained = read(Path(checkpoint_path), map_location, trust)
        classifier = cls(trained.network, trained.facts, **training).to(map_location)
        return classifier.train("optimizer" in training)


def batch_loss(
    network: nn.Module, loss: Loss, images: Float[Tensor, "b 1 h w"], labels: Integer[Tensor, " b"]
) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
    """Return the loss of a batch and the number of right answers."""
    logits = network(images)
    return loss(logits, labels), (logits.detach().argmax(dim=1) == labels).sum()


def decay_weights_only(network: nn.Module) -> Sequence[dict[str, Any]]:
    """Split parameters into weights, which decay, and biases and norm parameters, which do not."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]
