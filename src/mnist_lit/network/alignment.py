"""Straightening: a layer without parameters that moves and slants each image by its own moments.

LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998,
call it deslanting.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STEEPEST = 1.5  # slant, in columns per row; MNIST's test digits have at most 1.08
BLANK = 1e-3  # ink below which there is nothing to align


class Alignment(nn.Module):
    """Move the centre of mass to the middle and undo the slant, in one bilinear sample.

    Ink counts as mass: what a pixel differs from the paper. With m the ink, the slant is
    μ₁₁/μ₀₂, the covariance of column and row over the variance of the row, at most
    :data:`STEEPEST` either way; each row is shifted against it. Computed in float32, whatever the
    images come in. A blank image is left as it is.

    Args:
        side: Of the images, in pixels.
        paper: The value of a pixel without ink, which is also what comes in from outside.
    """

    def __init__(self, side: int, paper: float) -> None:
        super().__init__()
        self.paper = paper
        # Of each pixel, from the middle of the image: in pixels, and in halves of the side.
        offset = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        x, y = offset.repeat(side), offset.repeat_interleave(side)
        one = torch.ones_like(x)  # float32, whatever the default is
        self.basis = torch.stack((one, x, y, x * y, y * y), dim=1)
        self.places = torch.stack((x, y, one)) * (2 / side)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Alignment":
        # Buffers would leave float32 with the network.
        self.basis = self.basis.to(fn(self.basis).device)
        self.places = self.places.to(fn(self.places).device)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # untyped in torch
        return self

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Map ``[B, 1, side, side]`` to the same, aligned."""
        if torch.is_autocast_enabled(images.device.type):
            with torch.autocast(images.device.type, enabled=False):
                return self.forward(images)
        ink = images.to(self.basis.dtype) - self.paper
        return (self._sample(ink, *self._moments(ink)) + self.paper).to(images.dtype)

    def _moments(self, ink: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return column and row of the centre, from the middle in pixels, and the slant."""
        sums = ink.flatten(1) @ self.basis
        mass, *others = sums.unbind(1)
        inverse = (mass > BLANK) / mass.clamp(min=BLANK)
        x, y, xy, yy = (other * inverse for other in others)
        slant = (xy - x * y) / (yy - y * y).clamp(min=1e-6)
        return x, y, slant.clamp(-STEEPEST, STEEPEST)

    def _sample(self, ink: Tensor, x: Tensor, y: Tensor, slant: Tensor) -> Tensor:
        one, none = torch.ones_like(x), torch.zeros_like(x)
        maps = torch.stack((one, slant, x, none, one, y), dim=1)
        grid = (maps.view(-1, 3) @ self.places).view(-1, 2, *ink.shape[2:])
        return F.grid_sample(ink, grid.permute(0, 2, 3, 1), align_corners=False)
