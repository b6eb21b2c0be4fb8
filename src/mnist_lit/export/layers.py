"""The layers of a network for C, the page and ONNX, each batch norm as a scale and a shift."""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from torch import Tensor, nn

from mnist_lit.network.compact import CompactCNN, ConvBlock


@dataclass(frozen=True)
class Layer:
    """A convolution with its norm, ReLU and pooling, applied once.

    Attributes:
        block: The number of its block, from 1.
        weight: ``float64 [F, C, k, k]``, or ``[F, C, 1, 1]`` behind a depthwise convolution.
        mixed: Whether the network has these weights; otherwise they are the identity.
        depthwise: The filters of the depthwise convolution, ``float64 [C, k, k]``.
        scale, shift: Factor and addend of the batch norm, for each filter.
        size: Side of the input map.
        padding: Zeros on each side of the input map.
        pool: Whether the layer has a 2×2 max-pool.
        norm_before_pool: Whether norm and ReLU come before the max-pool. Otherwise they come after
            it, which needs fewer operations.
        residual: Whether the input map is added after the ReLU.
    """

    block: int
    weight: ndarray
    mixed: bool
    depthwise: ndarray | None
    scale: ndarray
    shift: ndarray
    size: int
    padding: int
    pool: bool
    norm_before_pool: bool
    residual: bool

    @property
    def filters(self) -> int:
        """Channels of the output map."""
        return len(self.weight)

    @property
    def channels(self) -> int:
        """Channels of the input map."""
        return self.weight.shape[1]

    @property
    def kernel(self) -> int:
        """Side of the kernel; with a depthwise convolution, of the depthwise kernel."""
        return (self.weight if self.depthwise is None else self.depthwise).shape[-1]

    @property
    def out(self) -> int:
        """Side of the output map."""
        return (self.size + 2 * self.padding - self.kernel + 1) // (1 + self.pool)

    def numbers(self, *names: str) -> dict[str, int]:
        """Return the named attributes as whole numbers, for a table in source code."""
        return {name: int(getattr(self, name)) for name in names}


def layers_of(network: CompactCNN) -> list[Layer]:
    """Return the layers; the mean over the last map and ``linear_of`` come after them."""
    layers: list[Layer] = []
    for number, block in enumerate(network.blocks, 1):
        assert isinstance(block, ConvBlock)
        depthwise, conv = (
            one if isinstance(one, nn.Conv2d) else None for one in (block.depthwise, block.conv)
        )
        wide = depthwise or conv
        assert wide is not None
        identity = np.eye(wide.out_channels)[:, :, None, None]
        bias = 0 if conv is None or conv.bias is None else _exact(conv.bias)
        for repeat, norm in enumerate(block.norms, 1):
            assert isinstance(norm, nn.BatchNorm2d)
            own = {name: _exact(values) for name, values in norm.state_dict().items()}
            scale = own["weight"] / np.sqrt(own["running_var"] + norm.eps)
            pool = block.pool if repeat == len(block.norms) else "none"
            # A negative scale turns the largest value into the smallest.
            turned = pool == "after_activation" and bool((scale < 0).any())
            layers.append(
                Layer(
                    block=number,
                    weight=identity if conv is None else _exact(conv.weight),
                    mixed=conv is not None,
                    depthwise=None if depthwise is None else _exact(depthwise.weight)[:, 0],
                    scale=scale,
                    shift=own["bias"] - (own["running_mean"] - bias) * scale,
                    size=layers[-1].out if layers else network.seen,
                    padding=int(wide.padding[0]),
                    pool=pool != "none",
                    norm_before_pool=block.residual or turned,
                    residual=block.residual,
                )
            )
    return layers


def linear_of(network: CompactCNN) -> tuple[ndarray, ndarray]:
    """Return weight and bias of the linear layer, ``float64 [classes, F]`` and ``[classes]``."""
    return _exact(network.linear.weight), _exact(network.linear.bias)


def _exact(values: Tensor) -> ndarray:
    """Return float64, so that the rounded results are the same on every processor."""
    return values.detach().double().numpy()
