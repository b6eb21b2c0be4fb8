"""Random distortions of a whole batch at once, on whatever device it is on."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class RandomAffine:
    """Rotate, shift, scale and shear every image of a batch by amounts of its own.

    One bilinear ``grid_sample`` for the whole batch; each amount is uniform in its range.

    Args:
        degrees: Largest rotation either way, in degrees.
        translate: Largest shift along each axis, in pixels.
        scale: Largest relative change of size: 0.15 allows 85 % to 115 %.
        shear: Largest horizontal shift of a row per pixel of its height above the centre.
    """

    def __init__(
        self, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, shear: float = 0.0
    ) -> None:
        self.angle = math.radians(degrees)
        self.translate = translate
        self.scale = scale
        self.shear = shear

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Distort float images whose background is 0; what comes from outside is background."""
        batch, _, height, width = images.shape
        amounts = torch.rand(5, batch, device=images.device) * 2 - 1
        angle, size, shear = amounts[0] * self.angle, 1 + amounts[1] * self.scale, amounts[2]
        shear = shear * self.shear
        # affine_grid maps output to input coordinates, in units of half the image's side.
        shift_x = amounts[3] * (2 * self.translate / width)
        shift_y = amounts[4] * (2 * self.translate / height)
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        rows = [cos, shear * cos - sin, shift_x, sin, shear * sin + cos, shift_y]
        theta = torch.stack(rows, dim=1).view(batch, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
