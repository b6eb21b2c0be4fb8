"""The network: a list of blocks, global average pooling, one linear layer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from pydantic import AllowInfNan, Strict
from torch import Tensor, nn

from mnist_lit.errors import ConfigError
from mnist_lit.network import fused
from mnist_lit.network.alignment import Alignment
from mnist_lit.network.blocks import IMAGE_SIZE, Block, Blocks, Classes, Side, check_blocks
from mnist_lit.validation import Name, Probability, Switch, validated


class ConvBlock(nn.Module):
    """Convolution, batch norm and ReLU, with an optional 2×2 max-pool and dropout.

    The convolution can be repeated, and its input added to its output; see ``Block``.

    Args:
        in_channels: Channels of the input.
        block: All other settings.
    """

    def __init__(self, in_channels: int, block: Block) -> None:
        super().__init__()
        kernel, padding = block.kernel, block.kernel // 2 if block.padding else 0
        self.depthwise: nn.Module = nn.Identity()
        if block.separable:
            self.depthwise = nn.Conv2d(
                in_channels, in_channels, kernel, padding=padding, groups=in_channels, bias=False
            )
            kernel, padding = 1, 0
        self.conv: nn.Module = nn.Identity()
        if block.pointwise:
            self.conv = nn.Conv2d(
                in_channels, block.channels, kernel, padding=padding, bias=block.bias
            )
        norms = [nn.BatchNorm2d(block.channels) for _ in range(block.repeats)]
        for norm in norms:
            norm.weight.requires_grad_(block.norm_scale)  # a fixed scale stays 1
        self.norms = nn.ModuleList(norms)
        self.residual = block.residual
        self.pool = block.pool
        self.dropout = nn.Dropout(block.dropout)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Map ``[B, C, H, W]`` to ``[B, D, H, W]``; a max-pool or no padding reduces H and W."""
        for norm in self.norms:
            assert isinstance(norm, nn.BatchNorm2d)
            y = self.apply_once(x, norm)
            x = x + y if self.residual else y
        if self.pool == "after_activation":
            x = F.max_pool2d(x, 2)
        return self.dropout(x)

    def apply_once(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Convolve, max-pool if ``after_conv``, normalise, apply ReLU; the input is not added."""
        x, pool = self.depthwise(x), self.pool == "after_conv"
        first = self.conv if isinstance(self.conv, nn.Conv2d) else None
        if self.training and pool and first and fused.convolves(x, first):
            x, pool = fused.conv_pool(x, first), False
        else:
            x = self.conv(x)
        if self.training and fused.usable(x, norm):
            return fused.pool_norm_relu(x, norm, pool)
        if pool:
            x = F.max_pool2d(x, 2)
        return F.relu(norm(x), inplace=True)


class CompactCNN(nn.Module):
    """Convolutional blocks, global average pooling, dropout and one linear layer.

    The files in ``conf/model`` are such lists of blocks.

    Args:
        blocks: The blocks in order, as ``Block`` or as mappings of its fields.
        dropout: Probability of zeroing an element of the pooled features.
        classes: Number of classes, and of logits.
        side: Side of the square images, in pixels.
        align: Whether each image is first centred and deslanted by its moments.
        paper: Value of a background pixel in normalised images; ``align`` needs it.
        crop: Side of an aligned image, in pixels; None to keep all of the image.
        shrink: Side of a pixel of an aligned image, in pixels of the image: 1.3 makes the digit
            smaller, and each feature sees more of it.
        resize: Whether the alignment makes wide, narrow, high and low digits more alike.
        name: Name in tables and reports; not part of the description.

    Attributes:
        description: The arguments as plain data, which a checkpoint keeps.
        seen: Side of the image that the first block gets, in pixels.
        widest: Upper bound on the numbers that a block returns for one image.

    Raises:
        ConfigError: A block has an unknown field, a value is impossible, or the blocks cannot be
            stacked on images of this side.
    """

    def __init__(
        self,
        blocks: Sequence[Block | Mapping[str, Any]],
        dropout: Probability = 0.0,
        classes: Classes = 10,
        side: Side = IMAGE_SIZE,
        align: Switch = False,
        paper: Annotated[float, Strict(), AllowInfNan(False)] = 0.0,
        crop: Side | None = None,
        shrink: Annotated[float, Strict(), Ge(0.1), Le(10)] = 1.0,
        resize: Switch = False,
        name: Name = "CompactCNN",
    ) -> None:
        super().__init__()
        self.name = name
        given = [dict(block) if isinstance(block, Mapping) else block for block in blocks]
        stack: list[Block] = validated(Blocks, given, "model.blocks")
        if not align and (crop or resize or shrink != 1):
            raise ConfigError("model.align=false: crop, shrink and resize need model.align=true")
        self.side, self.seen = side, crop or round(side / shrink)
        check_blocks(stack, self.seen, classes)
        self.description: dict[str, Any] = {"blocks": [asdict(block) for block in stack]}
        self.description |= {"dropout": float(dropout), "classes": classes, "side": side}
        self.description |= {"align": align, "paper": paper, "crop": crop, "shrink": float(shrink)}
        self.description |= {"resize": resize}
        self.alignment: nn.Module = nn.Identity()
        if align:
            self.alignment = Alignment(side, paper, self.seen, shrink, resize)
        widths = [1, *(block.channels for block in stack)]
        self.widest = max(side, self.seen) ** 2 * max(widths)
        self.blocks = nn.Sequential(*map(ConvBlock, widths, stack))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], classes)
        # CPUs and tensor cores convolve fastest in NHWC.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b classes"]:
        """Map normalised images ``[B, 1, H, W]`` to logits ``[B, classes]``."""
        x = self.alignment(images).contiguous(memory_format=torch.channels_last)
        x = self.blocks(x)
        return self.linear(self.dropout(x.mean(dim=(2, 3))))


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
