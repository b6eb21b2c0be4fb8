"""Random distortions of a whole batch at once, on its device."""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from mnist_lit.validation import Probability


def sampling_grid(
    theta: Float[Tensor, "b 2 k"], height: int, width: int
) -> Float[Tensor, "b h w 2"]:
    """Return a grid for ``F.grid_sample``, computed by one matrix product.

    For affine maps it equals the result of ``F.affine_grid``, in a twentieth of the time.

    Args:
        theta: A map from output to input coordinates for each image: the coefficients of x, y and 1
            and, if there are six columns, of x², xy and y².
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
    """
    columns = theta.shape[2]
    grid = theta.reshape(-1, columns) @ _monomials(height, width, theta.device)[:columns]
    return grid.view(-1, 2, height, width).permute(0, 2, 3, 1)


@cache
def _monomials(height: int, width: int, device: torch.device) -> Float[Tensor, "6 hw"]:
    y, x = ((torch.arange(size, device=device) * 2 + 1) / size - 1 for size in (height, width))
    x, y = torch.meshgrid(x, y, indexing="xy")
    return torch.stack((x, y, torch.ones_like(x), x * x, x * y, y * y)).view(6, -1)


@dataclass(eq=False)
class RandomDistortion:
    """Rotate, shift, scale, shear and bend each image of a batch; make strokes bolder or finer.

    Each image gets its own random amounts, uniform in these ranges. One bilinear ``grid_sample``
    transforms the whole batch.

    Attributes:
        degrees: Largest rotation either way, in degrees.
        translate: Largest shift along each axis, in pixels.
        scale: Largest relative change of size: 0.15 allows 85 % to 115 %.
        shear: Largest horizontal shift of a row per pixel of its height above the centre.
        gamma: Largest absolute logarithm of the exponent of the pixels: 1 allows exponents from
            1/e, which makes strokes bolder, to e, which makes them finer.
        bend: Largest coefficient of the terms x², xy and y² that are added to each coordinate, in
            half sides: 0.15 bends a line through the centre by up to 2 pixels.
        strength: Factor of all amounts; 1 unless the callback ``FadeOut`` lowers it.
    """

    degrees: Annotated[float, Ge(0), Le(180)] = 0.0
    translate: Annotated[float, Ge(0), Le(14)] = 0.0
    scale: Probability = 0.0
    shear: Annotated[float, Ge(0), Le(10)] = 0.0
    gamma: Annotated[float, Ge(0), Le(10)] = 0.0
    bend: Probability = 0.0
    strength: float = field(default=1.0, init=False)

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Distort float images with values from 0 (background) to 1; the area around them is 0."""
        batch, _, height, width = images.shape
        amounts = (torch.rand(5, batch, device=images.device) * 2 - 1) * self.strength
        angle, size = amounts[0] * math.radians(self.degrees), 1 + amounts[1] * self.scale
        shear = amounts[2] * self.shear
        # The map goes from output to input coordinates, in units of half the image's side.
        shift_x = amounts[3] * (2 * self.translate / width)
        shift_y = amounts[4] * (2 * self.translate / height)
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        rows = [cos, shear * cos - sin, shift_x, sin, shear * sin + cos, shift_y]
        theta = torch.stack(rows, dim=1).view(batch, 2, 3)
        if self.bend:
            curves = torch.rand(batch, 2, 3, device=images.device) * 2 - 1
            theta = torch.cat((theta, curves * (self.strength * self.bend)), dim=2)
        grid = sampling_grid(theta, height, width)
        images = F.grid_sample(images, grid, align_corners=False)
        if self.gamma:
            logarithm = torch.rand(batch, 1, 1, 1, device=images.device) * 2 - 1
            images.pow_(torch.exp(logarithm * (self.strength * self.gamma)))
        return images
