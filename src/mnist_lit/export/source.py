"""The input of an export, and what several formats share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from numpy import ndarray
from torch import Tensor, nn

from mnist_lit.errors import UserError
from mnist_lit.facts import Facts
from mnist_lit.network.compact import CompactCNN, count_parameters
from mnist_lit.text import for_c

CALIBRATION = 1000  # training images
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters["for_c"] = for_c
Run = Callable[[ndarray], ndarray]  # from uint8 [N, 1, side, side] to logits, float32 [N, classes]


@dataclass(frozen=True)
class Source:
    """A network to be exported.

    Attributes:
        network: The network, on the CPU, in evaluation mode, its weights contiguous.
        facts: Facts of its training images.
        correct: Number of test images that it reads right.
        total: Number of test images.
        calibration: Returns ``CALIBRATION`` training images, ``uint8 [N, 1, side, side]``.
        name: Prefix of the names in source code.
        file: Name of the file in source code.
    """

    network: nn.Module
    facts: Facts
    correct: int
    total: int
    calibration: Callable[[], Tensor]
    name: str = "network"
    file: str = "network.h"

    @property
    def compact(self) -> CompactCNN:
        """The network, for a format that supports no other class; else raises a ``UserError``."""
        if not isinstance(self.network, CompactCNN):
            raise UserError("this format needs a CompactCNN; onnx and torch take any network")
        return self.network

    @property
    def about(self) -> dict[str, str]:
        """The metadata of an export."""
        facts = self.facts
        what = "MNIST digits" if facts.name == "mnist" else facts.name
        light = ", light on black" if facts.centred else ""
        images = f"uint8 [batch, 1, {facts.side}, {facts.side}]{light}"
        return {
            "task": f"{what}; {images}, to logits [batch, {len(facts.classes)}]",
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


def rendered(template: str, **values: Any) -> str:
    """Render a template of this folder; only the filter ``for_c`` escapes values."""
    return TEMPLATES.get_template(template).render(**values)
