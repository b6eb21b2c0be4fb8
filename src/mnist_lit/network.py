"""The network: blocks described by data, global average pooling, one linear layer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mnist_lit.config import Block, check_blocks

CLASSES = 10
LANES = 16


class ConvBlock(nn.Module):
    """Convolution, batch norm and ReLU, with an optional 2×2 max-pool and dropout.

    In bfloat16 a CPU pools and normalises a number of channels that is no multiple of 16 one value
    at a time. There, 12 channels cost more than 16, and training computes some that are always zero
    on top of those there are, where it takes at most a third more. Nothing reads them.

    Args:
        in_channels: Channels of the map that comes in.
        block: The description of the rest.
    """

    def __init__(self, in_channels: int, block: Block) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, block.channels, block.kernel, padding=block.kernel // 2, bias=block.bias
        )
        self.norm = nn.BatchNorm2d(block.channels)
        self.pool = block.pool
        self.dropout = nn.Dropout(block.dropout)
        spare = -block.channels % LANES
        self.spare = spare if 3 * spare <= block.channels else 0

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Map ``[B, C, H, W]`` to ``[B, D, H, W]``, or to half of H and W where it pools.

        C and D may include spare channels, which are zero.
        """
        on_cpu = x.device.type == "cpu"
        spare = self.spare if self.training and on_cpu and torch.is_autocast_enabled("cpu") else 0
        x = self._convolve(x, spare)
        if self.pool == "after_conv":
            x = F.max_pool2d(x, 2)
        x = F.relu(self._normalize(x, spare), inplace=True)
        if self.pool == "after_activation":
            x = F.max_pool2d(x, 2)
        return self.dropout(x)

    def _convolve(self, x: Tensor, spare: int) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        spare_in = x.shape[1] - self.conv.in_channels
        if spare or spare_in:
            weight = F.pad(weight, (0, 0, 0, 0, 0, spare_in, 0, spare))
            bias = None if bias is None else F.pad(bias, (0, spare))
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def _normalize(self, x: Tensor, spare: int) -> Tensor:
        norm = self.norm
        if not spare:
            return norm(x)
        # What torch declares optional is there in a BatchNorm2d made with its defaults.
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        mean, var = F.pad(torch.stack((norm.running_mean, norm.running_var)), (0, spare))
        weight, bias = F.pad(norm.weight, (0, spare)), F.pad(norm.bias, (0, spare))
        x = F.batch_norm(x, mean, var, weight, bias, True, norm.momentum, norm.eps)
        norm.running_mean.copy_(mean[:-spare])
        norm.running_var.copy_(var[:-spare])
        norm.num_batches_tracked += 1
        return x


class CompactCNN(nn.Module):
    """A stack of :class:`ConvBlock`, global average pooling, dropout and one linear layer.

    A variant is nothing but a list of blocks; see ``conf/model``.

    Args:
        blocks: The blocks in order, as :class:`~mnist_lit.config.Block` or as mappings of its
            fields.
        dropout: Probability of zeroing an element of the pooled features.

    Raises:
        TypeError: A block has an unknown field.
        ConfigError: The blocks cannot be stacked on a 28×28 image.
    """

    def __init__(self, blocks: Sequence[Block | Mapping[str, Any]], dropout: float = 0.0) -> None:
        super().__init__()
        stack = [b if isinstance(b, Block) else Block(**b) for b in blocks]
        check_blocks(stack)
        described = [asdict(block) for block in stack]
        self.description: dict[str, Any] = {"blocks": described, "dropout": dropout}
        widths = [1, *(b.channels for b in stack)]
        self.blocks = nn.Sequential(
            *(ConvBlock(width, block) for width, block in zip(widths, stack, strict=False))
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], CLASSES)
        # NHWC is the layout in which CPUs and tensor cores convolve fastest.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 10"]:
        """Map normalised images ``[B, 1, 28, 28]`` to logits ``[B, 10]``."""
        x = self.blocks(images.contiguous(memory_format=torch.channels_last))
        features = x.mean(dim=(2, 3))[:, : self.linear.in_features]
        return self.linear(self.dropout(features))


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
