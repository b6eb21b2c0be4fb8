"""The blocks of a network, their limits, and the check that they fit. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import ConfigDict, Strict

from mnist_lit.errors import ConfigError
from mnist_lit.validation import PLAIN, Probability, Switch

IMAGE_SIZE = 28
# Limits, because a description may come from an untrusted checkpoint: far above any useful network,
# and small enough for any machine.
MOST_PARAMETERS = 10_000_000
MOST_REPEATS = 100  # of a convolution
MOST_BLOCKS = 100
MOST_OUTPUTS = 2**24  # values in a block's output, per image
MOST_CLASSES = 1_000
MOST_OPERATIONS = 10**10  # multiply–adds per image: 5,000 times those of `final`
LARGEST_SIDE = 1_024

Count = Annotated[int, Strict(), Ge(1), Le(MOST_PARAMETERS)]
Side = Annotated[int, Strict(), Ge(1), Le(LARGEST_SIDE)]
Classes = Annotated[int, Strict(), Ge(1), Le(MOST_CLASSES)]


@dataclass
class Block:
    """One block of ``CompactCNN``: convolution, batch norm, ReLU.

    Attributes:
        channels: Output channels of the convolution.
        kernel: Side of the square kernel; odd, so that padding can keep the map's size.
        padding: Whether the map is padded with zeros, which keeps its size. Without padding the map
            shrinks by ``kernel - 1`` pixels; a kernel as large as the map weights each position.
        bias: Whether the convolution has a bias. The batch norm after it makes one redundant.
        pool: Place of a 2×2 max-pool: ``none``, ``after_conv`` (before the batch norm, which leaves
            a quarter of the pixels to normalise) or ``after_activation`` (the usual order).
        dropout: Probability of zeroing an element of the block's output.
        repeats: Number of times that the same convolution is applied, each time to its own output
            and with another batch norm: a deeper network without more convolution weights.
        residual: Whether the input of each application is added to its output.
        separable: Whether the convolution is a depthwise one, with one filter per input channel,
            followed by a 1×1 convolution.
        pointwise: Whether a separable convolution has the 1×1 convolution. Right before the linear
            layer, which mixes all channels, it is hardly needed.
        norm_scale: Whether the batch norm learns a scale. Without one, the weights of the next
            convolution or linear layer do the same, because ReLU and max-pool keep positive
            factors.
    """

    __pydantic_config__: ClassVar[ConfigDict] = PLAIN

    channels: Count
    kernel: Count = 3
    padding: Switch = True
    bias: Switch = False
    pool: Literal["none", "after_conv", "after_activation"] = "none"
    dropout: Probability = 0.0
    repeats: Annotated[int, Strict(), Ge(1), Le(MOST_REPEATS)] = 1
    residual: Switch = False
    separable: Switch = False
    pointwise: Switch = True
    norm_scale: Switch = True


Blocks = Annotated[list[Block], MaxLen(MOST_BLOCKS)]


def check_blocks(blocks: Sequence[Block], side: int = IMAGE_SIZE, classes: int = 10) -> None:
    """Raise ``ConfigError`` if the blocks cannot be stacked on images of this side."""
    if not blocks:
        raise ConfigError("model.blocks=[]: at least one block is needed")
    width, sizes = 1, [side]
    parameters = operations = 0
    for i, block in enumerate(blocks):
        places = sizes[-1] ** 2
        if mistake := _mistake(block, width, sizes):
            raise ConfigError(f"model.blocks[{i}].{mistake}")
        mixed = width * block.channels * block.pointwise
        filters = width if block.separable else mixed
        weights = filters * block.kernel**2 + mixed * block.separable
        parameters += weights
        operations += weights * places * block.repeats
        parameters += (block.bias + (1 + block.norm_scale) * block.repeats) * block.channels
        width = block.channels
    parameters += (width + 1) * classes
    for count, most, what in (
        (parameters, MOST_PARAMETERS, "parameters"),
        (operations, MOST_OPERATIONS, "multiply–adds an image"),
    ):
        if count > most:
            raise ConfigError(f"model.blocks: {count:,} {what}; at most {most:,} are allowed")


def _mistake(block: Block, width: int, sizes: list[int]) -> str | None:
    """Return why a block does not fit, or append the sides of its maps to ``sizes``.

    Args:
        block: The block; the answer begins with its wrong key.
        width: Channels of its input.
        sizes: Sides of the image and of all maps so far, in pixels; the last is the block's input.
    """
    size = sizes[-1]
    if block.kernel % 2 == 0:
        return f"kernel={block.kernel}: it should be odd"
    if not block.pointwise and not (block.separable and block.channels == width):
        return f"pointwise=false: needs separable: true and as many channels as its input, {width}"
    if block.residual or block.repeats > 1:
        key = "residual=true" if block.residual else f"repeats={block.repeats}"
        if block.channels != width:
            return f"{key}: needs as many channels as its input, {width}, not {block.channels}"
        if block.pool == "after_conv":
            return f"{key}: needs pool: none or after_activation, not after_conv"
        if not block.padding and block.kernel > 1:
            return f"{key}: needs padding: true, so that the map keeps its size"
    if not block.padding:
        if block.kernel > size:
            return f"kernel={block.kernel}: without padding it must fit on the map, {size} pixels"
        size -= block.kernel - 1
        sizes.append(size)
    outputs = block.channels * size**2
    if outputs > MOST_OUTPUTS:
        return f"channels={block.channels}: {outputs:,} values per image; at most {MOST_OUTPUTS:,}"
    if block.pool != "none":
        if size < 2:
            sides = " → ".join(map(str, sizes))
            return f"pool={block.pool}: the map is already 1 pixel wide ({sides}); pool fewer times"
        sizes.append(size // 2)
    return None
