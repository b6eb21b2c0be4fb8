"""The rows that training leaves, one an epoch, as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """One row of the epoch table; epochs count from 1, accuracies are shares from 0 to 1.

    What validation gives is None in an epoch without it.

    Attributes:
        train_accuracy: On the images as training saw them, distorted and with dropout at work;
            None in runs from before it was counted.
        metrics: The configured metrics, by name.
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    val_errors: int | None
    val_count: int | None
    learning_rate: float
    seconds: float
    train_accuracy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def val_accuracy(self) -> float:
        """The share of validation images that were right, of an epoch that was validated."""
        assert self.val_count is not None
        assert self.val_errors is not None
        return (self.val_count - self.val_errors) / self.val_count

    @property
    def rank(self) -> tuple[float, float]:
        """Orders epochs from best to worst: fewest errors, then the lower loss, none last."""
        if self.val_errors is None or self.val_loss is None:
            return float("inf"), float("inf")
        return self.val_errors, self.val_loss


@dataclass
class History:
    """The epochs of a run, across resumed runs too.

    Attributes:
        epochs: The rows so far.
        learning_rates: The rate of every training step so far.
        train_images: Images trained on so far.
        train_seconds: The time that took, validation excluded.
    """

    epochs: list[Epoch] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    train_images: int = 0
    train_seconds: float = 0.0

    @property
    def validated(self) -> list[Epoch]:
        """The epochs that were validated."""
        return [epoch for epoch in self.epochs if epoch.val_loss is not None]

    @property
    def best(self) -> Epoch:
        """The epoch that ``best.ckpt`` is of."""
        return min(self.epochs, key=lambda epoch: epoch.rank)

    def plain(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "History":
        """Read what :meth:`plain` returned."""
        return cls(**{**plain, "epochs": [Epoch(**row) for row in plain["epochs"]]})
