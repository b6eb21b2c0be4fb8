"""What a network is made of, layer by layer, against its budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mnist_lit.network.alignment import Alignment
from mnist_lit.network.compact import CompactCNN, ConvBlock, count_parameters


@dataclass(frozen=True)
class Layer:
    """One line of a summary.

    Attributes:
        name: What the layer is.
        output: The shape of its output for one image, as ``12×28×28``.
        parameters: Its trainable parameters.
        multiply_adds: Its multiply–adds for one image.
        receptive_field: The side, in pixels of the image, of the square that one output sees; None
            where that is not known.
    """

    name: str
    output: str
    parameters: int
    multiply_adds: int
    receptive_field: int | None


def layers(network: nn.Module, side: int) -> list[Layer]:
    """Return the layers of a network in the order in which an image of this side passes them."""
    return list(_of_compact(network) if isinstance(network, CompactCNN) else _of_any(network, side))


def _of_compact(network: CompactCNN) -> Iterator[Layer]:
    size, stride, field, channels = network.side, 1, 1, 1

    def layer(name: str, module: nn.Module | None = None, uses: int = 0) -> Layer:
        parameters = count_parameters(module) if module else 0
        output = f"{channels}×{size}×{size}"
        return Layer(name, output, parameters, uses, min(field, network.side))

    if isinstance(network.alignment, Alignment):
        yield layer("alignment")
    for number, block in enumerate(network.blocks, 1):
        assert isinstance(block, ConvBlock)
        parts = [("conv", block.conv)]
        if isinstance(block.depthwise, nn.Conv2d):
            parts.insert(0, ("depthwise", block.depthwise))
        repeats = len(block.norms)
        again = f" ×{repeats}" if repeats > 1 else ""
        for name, conv in parts:
            kernel, channels = conv.kernel_size[0], conv.out_channels
            field += (kernel - 1) * stride * repeats
            size += 2 * int(conv.padding[0]) - kernel + 1
            uses = conv.weight.numel() * size * size * repeats
            yield layer(f"{name}{number} {kernel}×{kernel}{again}", conv, uses)
        steps = [f"norm{number}", f"relu{number}"]
        if block.pool != "none":
            steps.insert(0 if block.pool == "after_conv" else 2, f"pool{number} 2×2")
        for step in steps:
            if step.startswith("pool"):
                size, field, stride = size // 2, field + stride, stride * 2
            yield layer(step, block.norms if step.startswith("norm") else None)
        if block.dropout.p:
            yield layer(f"dropout{number} {block.dropout.p:g}")
    size, field = 1, network.side
    yield layer("average pool")
    if network.dropout.p:
        yield layer(f"dropout {network.dropout.p:g}")
    channels = network.linear.out_features
    yield layer("linear", network.linear, network.linear.weight.numel())


def _of_any(network: nn.Module, side: int) -> Iterator[Layer]:
    """Run a blank image through a network and note what its innermost modules give."""
    names = {module: name for name, module in network.named_modules()}
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[module] = output

    innermost = [module for module in names if not list(module.children())]
    hooks = [module.register_forward_hook(note) for module in innermost]
    parameter = next(network.parameters(), torch.zeros(()))
    was_training = network.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            network.eval()(parameter.new_zeros(1, 1, side, side))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    counts = counter.get_flop_counts()
    for module, output in outputs.items():
        shape = "×".join(map(str, output.shape[1:]))
        operations = counts.get(f"{type(network).__name__}.{names[module]}", {})
        name = f"{names[module] or 'network'} {type(module).__name__}"
        # torch counts a multiplication and an addition as two operations.
        yield Layer(name, shape, count_parameters(module), sum(operations.values()) // 2, None)


def receptive_field(network: CompactCNN) -> int:
    """Return the side in pixels of what a feature sees just before the global average."""
    return max(
        layer.receptive_field or 0
        for layer in _of_compact(network)
        if layer.name.startswith(("conv", "depthwise", "pool"))
    )


def table(network: nn.Module, name: str, side: int, max_parameters: int | None = None) -> str:
    """Lay out the summary of a network for a person, with totals against the budget if given."""
    lines = [
        f"{name}",
        f"{'layer':<16}{'output':>12}{'parameters':>12}{'multiply–adds':>15}{'sees':>8}",
    ]
    rows = layers(network, side)
    for row in rows:
        counts = "".join(
            f"{f'{count:,}' if count else '':>{width}}"
            for count, width in ((row.parameters, 12), (row.multiply_adds, 15))
        )
        sees = f"{row.receptive_field} px" if row.receptive_field else ""
        lines.append(f"{row.name:<16}{row.output:>12}{counts}{sees:>8}".rstrip())
    parameters = count_parameters(network)
    share = (
        f"{parameters:,} of fewer than {max_parameters:,} parameters "
        f"({parameters / max_parameters:.0%})"
        if max_parameters
        else f"{parameters:,} parameters"
    )
    view = (
        f", features see {receptive_field(network)} pixels"
        if isinstance(network, CompactCNN)
        else ""
    )
    lines.append(f"{share}, {4 * parameters / 1000:.1f} kB as 32-bit floats")
    lines.append(
        f"{sum(row.multiply_adds for row in rows) / 1e6:.2f} million multiply–adds an image{view}"
    )
    return "\n".join(lines)
