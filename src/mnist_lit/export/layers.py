"""The layers of a network as source code has them: a batch norm is a scale and a shift."""

import copy
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from mnist_lit.network.compact import CompactCNN, ConvBlock

LANES = 4  # filters are padded to a multiple of it


@dataclass
class Layer:
    """A convolution with its norm, ReLU and pooling, applied once.

    Attributes:
        block: The number of its block, from 1.
        weight: Of the convolution behind the depthwise one, or of the only one.
        apart: Of the depthwise convolution, ``[C, k, k]``.
        scale, shift: Of each filter, what the batch norm comes to.
        channels, filters, kernel: Of the whole.
        size: Of the map that comes in; of the first layer with what is around the picture.
        reach: Zeros that are around a map beyond the first.
        out: Of the map that goes out.
        pool: 1 if it pools, and 0.
        late: 1 if every place is normed before the largest is kept.
        added: Not 0 if what came in is added.
        table: The other fields that the table has.
    """

    block: int
    weight: ndarray
    apart: ndarray | None
    scale: ndarray
    shift: ndarray
    channels: int
    filters: int
    kernel: int
    size: int
    reach: int
    out: int
    pool: int
    late: int
    added: int
    table: dict[str, int] = field(default_factory=dict)

    @property
    def separable(self) -> bool:
        """Whether there is a depthwise convolution."""
        return self.apart is not None

    @property
    def padded(self) -> int:
        """The filters, and those that are nothing, so that they are a multiple of four."""
        return -(-self.filters // LANES) * LANES

    @property
    def wide(self) -> int:
        """The same of the channels."""
        return -(-self.channels // LANES) * LANES

    @property
    def slots(self) -> int:
        """How many rows of its input are kept."""
        return min(self.kernel + self.pool, self.size)

    def widen(self) -> None:
        """Add filters and channels that are nothing, up to a multiple of four each."""
        filters = self.padded - self.filters
        channels = self.wide - self.channels if self.channels > 1 else 0
        self.weight = np.pad(self.weight, ((0, filters), (0, channels), (0, 0), (0, 0)))
        if self.apart is not None:
            self.apart = np.pad(self.apart, ((0, channels), (0, 0), (0, 0)))
        self.scale, self.shift = (np.pad(v, (0, filters)) for v in (self.scale, self.shift))
        self.filters, self.channels = self.filters + filters, self.channels + channels

    def __getitem__(self, name: str) -> int:
        return int(self.table[name] if name in self.table else getattr(self, name))


def layers_of(network: CompactCNN, side: int) -> tuple[list[Layer], int]:
    """Return the layers, and how many places of the last map are averaged."""
    layers: list[Layer] = []
    # In float64, so that what is rounded once at the end is the same on every processor.
    network = copy.deepcopy(network).double()
    size, channels = side, 1
    for number, block in enumerate(network.blocks, 1):
        assert isinstance(block, ConvBlock)
        wide = block.depthwise if isinstance(block.depthwise, nn.Conv2d) else block.conv
        kernel, zeros = wide.kernel_size[0], int(wide.padding[0])
        for repeat, norm in enumerate(block.norms, 1):
            assert isinstance(norm, nn.BatchNorm2d)
            scale, shift = _fold(norm, block.conv.bias)
            pool = block.pool if repeat == len(block.norms) else "none"
            late = block.residual or (pool == "after_activation" and bool((scale < 0).any()))
            border = 0 if layers else zeros
            out = (size + 2 * zeros - kernel + 1) // (1 if pool == "none" else 2)
            layer = Layer(
                block=number,
                weight=block.conv.weight.detach().numpy(),
                apart=None if wide is block.conv else wide.weight.detach().numpy()[:, 0],
                scale=scale.numpy(),
                shift=shift.numpy(),
                channels=channels,
                filters=block.conv.out_channels,
                kernel=kernel,
                size=size + 2 * border,
                reach=zeros if layers else 0,
                out=out,
                pool=int(pool != "none"),
                late=int(late),
                added=int(block.residual),
                table={"border": border},
            )
            layers.append(layer)
            size, channels = out, layer.filters
    return layers, size * size


def _fold(
    norm: nn.BatchNorm2d, bias: Tensor | None
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Return what a batch norm, after a convolution's bias, multiplies by and adds."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    return scale.detach(), (norm.bias - mean * scale).detach()
