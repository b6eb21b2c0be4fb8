"""What an export is made from, and how its file is run again."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from mnist_lit.facts import Facts
from mnist_lit.network.compact import count_parameters

CALIBRATION = 1000  # training images

Logits = Float[ndarray, "n classes"]
Run = Callable[[UInt8[ndarray, "n 1 h w"]], Logits]


@dataclass(frozen=True)
class Source:
    """A network to be exported.

    Attributes:
        network: On the CPU, in evaluation mode, its weights in the usual layout.
        facts: Of the images that it was trained on.
        correct: Test images that it reads right.
        total: How many test images there are.
        calibration: Returns :data:`CALIBRATION` training images, ``uint8 [N, 1, side, side]``.
        name: What begins the names in source code.
        file: What a file of source code calls itself.
    """

    network: nn.Module
    facts: Facts
    correct: int
    total: int
    calibration: Callable[[], Tensor]
    name: str = "network"
    file: str = "network.h"

    @property
    def about(self) -> dict[str, str]:
        """What an export says of itself."""
        facts = self.facts
        side, classes = facts.side, len(facts.classes)
        what = "MNIST digits" if facts.name == "mnist" else facts.name
        light = ", light on black" if facts.centred else ""
        return {
            "task": f"{what}; uint8 [batch, 1, {side}, {side}]{light}, "
            f"to logits [batch, {classes}]",
            "classes": " ".join(facts.classes),
            "normalisation": f"(pixel / 255 - {facts.mean}) / {facts.std}, inside",
            "parameters": str(count_parameters(self.network)),
            "test_correct": f"{self.correct} of {self.total}, before the export",
        }


class FromPixels(nn.Module):
    """A network with its normalisation: pixels 0–255 in, logits out."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.network = source.network
        self.facts = source.facts

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``uint8 [B, 1, side, side]`` to ``float32 [B, classes]``."""
        return self.network(self.facts.normalize(pixels))
