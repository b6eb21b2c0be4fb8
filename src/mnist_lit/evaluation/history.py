"""The epoch table of a training, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from pydantic import AllowInfNan, ConfigDict, Strict

from mnist_lit.errors import CheckpointError, ConfigError, reason
from mnist_lit.validation import PLAIN, Number, Positive, validated

From0 = Annotated[int, Strict(), Ge(0)]
MOST_STEPS = 10_000_000


@dataclass(frozen=True)
class Epoch:
    """One row of the epoch table; epochs count from 1, accuracies are shares from 0 to 1.

    In an epoch without validation, the values of the validation are None.

    Attributes:
        train_accuracy: Accuracy on the augmented images, with dropout; None if it was not counted.
        metrics: The configured metrics, by name.
    """

    __pydantic_config__: ClassVar[ConfigDict] = PLAIN

    epoch: Positive
    train_loss: Number
    val_loss: Number | None
    val_errors: From0 | None
    val_count: Positive | None
    learning_rate: Number
    seconds: Number
    train_accuracy: Number | None = None
    metrics: Mapping[str, Annotated[float, Strict(), AllowInfNan()]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({one is None for one in (self.val_loss, self.val_errors, self.val_count)}) > 1:
            raise ValueError("val_loss, val_errors and val_count should be given together")

    @property
    def val_accuracy(self) -> float:
        """The validation accuracy; the epoch must have been validated."""
        assert self.val_count is not None
        assert self.val_errors is not None
        return (self.val_count - self.val_errors) / self.val_count


@dataclass
class History:
    """The epochs of a run, also of a resumed one.

    Attributes:
        epochs: The rows so far.
        learning_rates: The rate of every training step so far.
        train_images: Images trained on so far.
        train_seconds: Seconds of the training, without validation.
    """

    __pydantic_config__: ClassVar[ConfigDict] = PLAIN

    epochs: list[Epoch] = field(default_factory=list)
    learning_rates: list[Number] = field(default_factory=list)
    train_images: From0 = 0
    train_seconds: Number = 0.0

    @property
    def validated(self) -> list[Epoch]:
        """The epochs that were validated."""
        return [epoch for epoch in self.epochs if epoch.val_loss is not None]

    @property
    def best(self) -> Epoch:
        """The epoch of ``best.ckpt``: with the fewest errors, then the lowest loss."""
        return min(self.validated, key=lambda epoch: (epoch.val_errors, epoch.val_loss))

    def plain(self) -> dict[str, Any]:
        """Return plain data and a tensor of the learning rates, for a checkpoint."""
        rates = torch.tensor(self.learning_rates, dtype=torch.float64)
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {**vars(self), "epochs": epochs, "learning_rates": rates}

    @classmethod
    def of(cls, checkpoint: Any) -> "History":
        """Make a history from the content of a checkpoint.

        Raises:
            CheckpointError: ``plain`` is something else.
        """
        try:
            plain = checkpoint["callbacks"]["History"]
            rates = plain["learning_rates"][:MOST_STEPS].tolist()
            found: History = validated(cls, {**plain, "learning_rates": rates}, "History")
        except (TypeError, KeyError, IndexError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"not the rows that a training leaves: {reason(error)}") from None
        return found
