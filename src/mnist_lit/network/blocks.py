"""What a block of a network may say, and whether blocks can be stacked. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mnist_lit.errors import ConfigError

IMAGE_SIZE = 28


@dataclass
class Block:
    """One block of :class:`~mnist_lit.network.compact.CompactCNN`: convolution, batch norm, ReLU.

    Attributes:
        channels: Output channels of the convolution.
        kernel: Side of the square kernel; odd, so that padding keeps the map's size.
        bias: Whether the convolution has a bias, which the batch norm behind it makes redundant.
        pool: Where a 2×2 max-pool stands: ``none``, ``after_conv`` (a quarter of the pixels is left
            to normalise) or ``after_activation`` (the usual order).
        dropout: Probability of zeroing an element of the block's output.
        repeats: How often the one convolution is applied, each time to what it gave before, with a
            batch norm of its own each time: depth and a wider view for no weights.
        residual: Whether what goes into an application is added to what comes out of it.
        separable: Whether the convolution is a depthwise one, with a single filter for each channel
            that comes in, followed by a 1×1 that mixes them.
    """

    channels: int
    kernel: int = 3
    bias: bool = False
    pool: Literal["none", "after_conv", "after_activation"] = "none"
    dropout: float = 0.0
    repeats: int = 1
    residual: bool = False
    separable: bool = False


def check_blocks(blocks: Sequence[Block], side: int = IMAGE_SIZE) -> None:
    """Raise :class:`ConfigError` if the blocks cannot be stacked on an image of this side."""
    if not blocks:
        raise ConfigError("model.blocks=[]: at least one block is needed")
    size, width, sizes = side, 1, [side]
    for i, block in enumerate(blocks):
        if block.residual or block.repeats > 1:
            key = "residual=true" if block.residual else f"repeats={block.repeats}"
            if block.channels != width:
                raise ConfigError(
                    f"model.blocks[{i}].{key}: needs as many channels as come in, {width}, "
                    f"not {block.channels}"
                )
            if block.pool == "after_conv":
                raise ConfigError(
                    f"model.blocks[{i}].{key}: can pool only at its end, pool: after_activation"
                )
        width = block.channels
        if block.pool != "none":
            if size < 2:
                raise ConfigError(
                    f"model.blocks[{i}].pool={block.pool}: the map is already 1 pixel wide here; "
                    f"set it to none or pool fewer times ({' → '.join(map(str, sizes))})"
                )
            size //= 2
            sizes.append(size)
