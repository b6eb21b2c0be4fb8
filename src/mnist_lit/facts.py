"""What a network has to know of the images that it was trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from mnist_lit.errors import DataError
from mnist_lit.network.blocks import IMAGE_SIZE

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Facts:
    """Facts of a data set, as plain data: they travel with every checkpoint.

    Attributes:
        name: What the data set is called.
        classes: The names of the classes, in the order of the labels.
        side: Of the square images, in pixels.
        mean: Of the training pixels, as a share of white.
        std: Their standard deviation.
        protocol: What is trained, validated and tested on, and what that makes the numbers worth.
        centred: Whether the images are laid out as MNIST's: a box of 20×20, its centre of mass in
            the middle of 28×28. Pictures are then prepared so, and otherwise only resized.
        source: The ``_target_`` of the data module and its arguments, to open the images again.

    Raises:
        DataError: They contradict each other.
    """

    name: str
    classes: tuple[str, ...]
    side: int
    mean: float
    std: float
    protocol: str = "of the user's own"
    centred: bool = False
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise DataError(f"{self.name}: at least two classes with names of their own are needed")
        if self.side < 1 or not self.std > 0:
            raise DataError(f"{self.name}: a side of {self.side} and a deviation of {self.std:g}")
        if self.centred and self.side != IMAGE_SIZE:
            raise DataError(f"{self.name}: only images of {IMAGE_SIZE}×{IMAGE_SIZE} are centred")

    @property
    def noun(self) -> str:
        """What the images are called: digits or images."""
        return "digits" if self.classes == DIGITS else "images"

    def plain(self) -> dict[str, Any]:
        """Return lists, numbers and strings, for a checkpoint."""
        return {**asdict(self), "classes": list(self.classes), "source": dict(self.source)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Facts":
        """Read what :meth:`plain` returned."""
        return cls(**{**plain, "classes": tuple(plain["classes"])})

    def standardise(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Give floats from 0 to 1 the training images' mean 0 and deviation 1."""
        return (images - self.mean) / self.std

    def normalize(self, images: UInt8[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Turn pixels from 0–255 into what a network takes."""
        return self.standardise(images.float() / 255)


MNIST = Facts(
    name="mnist",
    classes=DIGITS,
    side=IMAGE_SIZE,
    mean=0.1307,
    std=0.3081,
    centred=True,
    source={"_target_": "mnist_lit.data.mnist.MNISTDataModule"},
)
