"""A user's own classes, for the configs of the tests."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mnist_lit import Facts, load_pretrained


class Net(nn.Sequential):
    """A perceptron without batch norm, dropout or convolutions."""

    def __init__(self, classes: int, side: int, hidden: int = 8) -> None:
        layers = nn.Linear(side * side, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        super().__init__(nn.Flatten(), *layers)


class Stripes(pl.LightningDataModule):
    """Two classes of 16×16 images."""

    facts = Facts("stripes", classes=("upright", "level"), side=16, mean=0.5, std=0.5)

    def __init__(self, seed: int = -1) -> None:
        super().__init__()
        self.seed = seed

    def loader(self) -> DataLoader[Any]:
        upright = (torch.arange(16) % 2 * 255).byte().expand(128, 1, 16, 16)
        images = torch.stack([upright, upright.mT], dim=1).flatten(0, 1)
        return DataLoader(TensorDataset(images, torch.arange(256) % 2), batch_size=16)

    train_dataloader = val_dataloader = test_dataloader = loader


class Floats(Stripes):
    """Images of an unexpected kind."""

    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.rand(32, 1, 16, 16), torch.arange(32) % 2), 16)

    train_dataloader = val_dataloader = test_dataloader = loader


class NoFacts(Stripes):
    """A data module without facts."""

    # The mistake that the test needs.
    facts = None  # type: ignore[assignment]


class NoTest(pl.LightningDataModule):
    """A data module without test images."""

    train_dataloader = val_dataloader = Stripes.loader


class Add:
    """Adds a number, and records its strength at each call."""

    seen: ClassVar[list[tuple[float, float, float]]] = []

    def __init__(self, amount: float) -> None:
        self.amount = amount
        self.strength = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append((self.amount, self.strength, float(images.mean())))
        return images + self.amount


def steady(images: Tensor) -> Tensor:
    return images


def make_steady() -> Callable[[Tensor], Tensor]:
    return steady


class Teacher(pl.Callback):
    """A loss that names `images`, with a network of its own; as a callback it sees the batches."""

    seen: ClassVar[list[Tensor]] = []
    given: ClassVar[list[Tensor]] = []

    def __init__(self) -> None:
        self.network = load_pretrained("nano").requires_grad_(False)

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        self.given.append(images)
        return nn.functional.cross_entropy(logits, self.network(images).softmax(dim=1))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(batch[0])


class Boom(pl.Callback):
    """Fails in the second epoch, or in another, with an unforeseen exception."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise ZeroDivisionError("a defect\nof a callback")


class CtrlC(pl.Callback):
    """Stops one job of a sweep in its second epoch, once."""

    def __init__(self, folder: str, once: str) -> None:
        self.folder, self.once = folder, Path(once)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        here = Path(trainer.default_root_dir).name == self.folder
        if here and trainer.current_epoch == 1 and not self.once.exists():
            self.once.touch()
            raise KeyboardInterrupt


class Quits(pl.Callback):
    """Ends the process as if all were well, when it is made or in the second epoch."""

    def __init__(self, at_once: bool) -> None:
        if at_once:
            sys.exit(0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            sys.exit()


class Warns(pl.Callback):
    """Warns in every epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        warnings.warn("mind the step", stacklevel=1)


class CountRight(pl.Callback):
    """Counts the right answers of the network in training, by a hook on the network."""

    right: ClassVar[list[float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.logits: list[Tensor] = []
        hook = pl_module.network.register_forward_hook
        self.handle = hook(lambda module, given, logits: self.logits.append(logits.detach()))
        self.labels: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.labels.append(batch[1])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.handle.remove()
        hits = torch.cat(self.logits).argmax(dim=1) == torch.cat(self.labels)
        self.right.append(float(hits.float().mean()))


class Secretive(CSVLogger):
    """A logger with a key, as those of paid services have."""

    def __init__(self, save_dir: str, api_key: str) -> None:
        assert api_key == "abc-key"
        super().__init__(save_dir, name="", version="")


class LogOne(pl.Callback):
    """Logs a number of its own in every epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("mine", 0.25 + trainer.current_epoch)


class WholeBatches:
    """An augmentation that accepts only training batches."""

    def __call__(self, images: Tensor) -> Tensor:
        if len(images) != 32:
            raise RuntimeError("32 images are expected")
        return images


class Unreachable(pl.loggers.TensorBoardLogger):
    """A logger that loses its server at the end."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if "test/loss" in metrics:
            raise ConnectionError("the server has gone")
