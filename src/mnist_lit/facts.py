"""Facts of a network's training images: names of classes, size, normalisation, source."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

import torch
from annotated_types import Gt, Len
from jaxtyping import Float, Shaped
from pydantic import Strict, StringConstraints
from torch import Tensor

from mnist_lit.errors import ConfigError, DataError
from mnist_lit.network.blocks import IMAGE_SIZE, MOST_CLASSES, Side
from mnist_lit.text import for_terminal
from mnist_lit.validation import Number, Switch, validated

DIGITS = tuple("0123456789")
THINNEST = 0.09  # stroke in MNIST, as a share of a digit's longer side; finer ones are thickened
# No control characters, which would move a terminal's cursor.
Text = Annotated[str, Strict(), Len(1, 1_000), StringConstraints(pattern=r"^\P{Cc}*$")]


@dataclass(frozen=True)
class Facts:
    """Facts of a data set, as plain data; every checkpoint contains them.

    Attributes:
        name: Name of the data set.
        classes: Names of the classes, in the order of the labels.
        side: Side of the square images, in pixels.
        mean: Mean of the training pixels, from 0 (black) to 1 (white).
        std: Standard deviation of the training pixels, in the same unit.
        protocol: A sentence for reports: which images train, validate and test, and how that
            affects the accuracy.
        centred: Whether the images are laid out as MNIST's are: the digit in a box of 20×20, its
            centre of mass in the middle of 28×28. Pictures are prepared in the same way if this is
            true, and only resized otherwise.
        source: The ``_target_`` of the data module and its arguments, to open the images again.

    Raises:
        ConfigError: A value is impossible, or two values contradict each other.
    """

    name: Text
    classes: Annotated[tuple[Text, ...], Len(2, MOST_CLASSES)]
    side: Side
    mean: Number
    std: Annotated[Number, Gt(0)]
    protocol: Text = "of the user's own"
    centred: Switch = False
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in fields(self):
            validated(one.type, getattr(self, one.name), f"facts.{one.name}")
        if len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"{self.name}: each class needs a name of its own")
        if self.centred and self.side != IMAGE_SIZE:
            raise ConfigError(f"{self.name}: only images of {IMAGE_SIZE}×{IMAGE_SIZE} are centred")

    @property
    def noun(self) -> str:
        """The noun for the images: digits or images."""
        return "digits" if self.classes == DIGITS else "images"

    @property
    def paper(self) -> float:
        """The value of a background pixel in normalised images."""
        return self.standardise(torch.zeros(1, 1, 1, 1)).item()

    def plain(self) -> dict[str, Any]:
        """Return lists, numbers and strings, for a checkpoint."""
        return {**asdict(self), "classes": list(self.classes), "source": dict(self.source)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Facts":
        """Make facts from a mapping that ``plain`` returned."""
        return cls(**{**plain, "classes": tuple(plain["classes"])})

    def standardise(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Subtract ``mean`` from floats of 0 to 1, and divide by ``std``."""
        return (images - float(self.mean)) / float(self.std)

    def normalize(self, images: Shaped[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Convert whole numbers from 0 to 255 to the input of a network.

        Raises:
            DataError: The images are floats or booleans.
        """
        if images.is_floating_point() or images.dtype is torch.bool:
            raise DataError(f"{self.name}: {images.dtype} images; give whole numbers of 0 to 255")
        return self.standardise(images.float() / 255)

    def check_labels(self, labels: Tensor, images: int) -> None:
        """Check the labels of a batch.

        Args:
            labels: ``int64`` or ``uint8 [B]``, from 0 to the number of classes - 1.
            images: Number of images of the batch.

        Raises:
            DataError: The labels have another type, shape or range.
        """
        kind = labels.dtype in (torch.int64, torch.uint8) and labels.shape == (images,)
        if not kind or ((labels < 0) | (labels >= len(self.classes))).any():
            raise DataError(
                f"{self.name}: labels of {labels.dtype} {list(labels.shape)} from {labels.min()} "
                f"to {labels.max()}; int64 [B] of 0 to {len(self.classes) - 1} is expected, for "
                f"the classes {for_terminal(', '.join(self.classes))}"
            )


MNIST = Facts(
    name="mnist",
    classes=DIGITS,
    side=IMAGE_SIZE,
    mean=0.1307,
    std=0.3081,
    centred=True,
    source={"_target_": "mnist_lit.data.mnist.MNISTDataModule"},
)
