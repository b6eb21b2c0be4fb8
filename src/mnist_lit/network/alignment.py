"""Alignment: a layer without parameters that centres and deslants each image by its moments.

LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998,
call it deslanting.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STEEPEST = 1.5  # slant, in columns per row; MNIST's test digits have at most 1.08
ACROSS, DOWN = 0.114, 0.189  # usual standard deviations of the ink, as shares of the side
FINEST, COARSEST = 0.7, 1.4  # limits of a resized pixel's sides
# By the names that the templates of other languages have for them.
LIMITS = {
    "steepest": STEEPEST,
    "across": ACROSS,
    "down": DOWN,
    "finest": FINEST,
    "coarsest": COARSEST,
}
BLANK = 1e-3  # an image with less ink counts as blank


class Alignment(nn.Module):
    """Move the centre of mass to the middle and undo the slant, in one bilinear sample.

    The mass of a pixel is its ink, the difference from the background. The slant is μ₁₁/μ₀₂, the
    covariance of column and row divided by the variance of the row, clamped to ±``STEEPEST``; each
    row is shifted against it. All is computed in float32, whatever the dtype of the images. A blank
    image does not change.

    With ``resize``, width and height of the ink come half-way to their usual values: the width of a
    pixel is the square root of the ink's standard deviation across, without the slant, divided by
    the usual one; its height that of the one down. Both are from ``FINEST`` to ``COARSEST``. All
    the way, a 1 would be no 1. Liu, Nakashima, Sako and Fujisawa, Handwritten digit recognition:
    investigation of normalization and feature extraction techniques, 2004, compare such methods.

    Args:
        side: Side of the images, in pixels.
        paper: Value of a background pixel; pixels outside the image have it too.
        crop: Side of the aligned images, in pixels; None for ``side``.
        shrink: Side of a pixel of the aligned images, in pixels of the images.
        resize: Whether wide, narrow, high and low digits are made more alike.
    """

    def __init__(
        self,
        side: int,
        paper: float,
        crop: int | None = None,
        shrink: float = 1.0,
        resize: bool = False,
    ) -> None:
        super().__init__()
        self.paper, self.crop, self.side = paper, crop or side, side
        # Coordinates of each pixel from the image's centre: in pixels, and in half sides.
        offset = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        x, y = offset.repeat(side), offset.repeat_interleave(side)
        one = torch.ones_like(x)  # float32, whatever torch's default dtype is
        squares = (x * x,) if resize else ()
        self.basis = torch.stack((one, x, y, x * y, y * y, *squares), dim=1)
        offset = torch.arange(self.crop, dtype=torch.float32) - (self.crop - 1) / 2
        x, y = (shrink * offset).repeat(self.crop), (shrink * offset).repeat_interleave(self.crop)
        self.places = torch.stack((x, y, torch.ones_like(x))) * (2 / side)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Alignment":
        # As buffers they would change their dtype with the network's.
        self.basis = self.basis.to(fn(self.basis).device)
        self.places = self.places.to(fn(self.places).device)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # untyped in torch
        return self

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 s s"]:
        """Map images ``[B, 1, side, side]`` to aligned ones, ``[B, 1, crop, crop]``."""
        if torch.is_autocast_enabled(images.device.type):
            with torch.autocast(images.device.type, enabled=False):
                return self.forward(images)
        ink = images.to(self.basis.dtype) - self.paper
        return (self._sample(ink, *self._moments(ink)) + self.paper).to(images.dtype)

    def _moments(self, ink: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return where the aligned image's pixels come from.

        Returns:
            The centre of mass (column, row; in pixels from the centre), the columns that a row is
            shifted by, and a pixel's width and height.
        """
        sums = ink.flatten(1) @ self.basis
        mass, *others = sums.unbind(1)
        inverse = (mass > BLANK) / mass.clamp(min=BLANK)
        x, y, xy, yy, *squares = (other * inverse for other in others)
        own = (yy - y * y).clamp(min=1e-6)
        slant = ((xy - x * y) / own).clamp(-STEEPEST, STEEPEST)
        if not squares:
            one = torch.ones_like(x)
            return x, y, slant, one, one
        upright = (squares[0] - x * x - 2 * slant * (xy - x * y) + slant * slant * own).clamp(min=0)
        wide, high = (
            (variance.sqrt() / (usual * self.side)).sqrt().clamp(FINEST, COARSEST)
            for variance, usual in ((upright, ACROSS), (own, DOWN))
        )
        return x, y, slant * high, wide, high

    def _sample(
        self, ink: Tensor, x: Tensor, y: Tensor, slant: Tensor, wide: Tensor, high: Tensor
    ) -> Tensor:
        maps = torch.stack((wide, slant, x, torch.zeros_like(x), high, y), dim=1)
        grid = (maps.view(-1, 3) @ self.places).view(-1, 2, self.crop, self.crop)
        return F.grid_sample(ink, grid.permute(0, 2, 3, 1), align_corners=False)
