"""What a network is made of, layer by layer, against its budget."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from mnist_lit.config import IMAGE_SIZE
from mnist_lit.network import CompactCNN, ConvBlock, count_parameters


@dataclass(frozen=True)
class Layer:
    """One line of a summary.

    Attributes:
        name: What the layer is.
        channels: Channels of its output.
        size: Side of its output, in pixels.
        parameters: Its trainable parameters.
        multiply_adds: Its multiply–adds for one image.
        receptive_field: The side, in pixels of the image, of the square that one output sees.
    """

    name: str
    channels: int
    size: int
    parameters: int
    multiply_adds: int
    receptive_field: int


def layers(network: CompactCNN) -> Iterator[Layer]:
    """Yield the layers of a network in the order in which an image passes them."""
    size, stride, field, channels = IMAGE_SIZE, 1, 1, 1

    def layer(name: str, module: nn.Module | None = None, uses: int = 0) -> Layer:
        parameters = count_parameters(module) if module else 0
        return Layer(name, channels, size, parameters, uses, min(field, IMAGE_SIZE))

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
    size, field = 1, IMAGE_SIZE
    yield layer("average pool")
    if network.dropout.p:
        yield layer(f"dropout {network.dropout.p:g}")
    channels = network.linear.out_features
    yield layer("linear", network.linear, network.linear.weight.numel())


def receptive_field(network: CompactCNN) -> int:
    """Return the side in pixels of what a feature sees just before the global average."""
    return max(
        layer.receptive_field
        for layer in layers(network)
        if layer.name.startswith(("conv", "depthwise", "pool"))
    )


def table(network: CompactCNN, name: str, max_parameters: int | None = None) -> str:
    """Lay out the summary of a network for a person, with totals against the budget if given."""
    lines = [
        f"{name}",
        f"{'layer':<16}{'output':>12}{'parameters':>12}{'multiply–adds':>15}{'sees':>8}",
    ]
    rows = list(layers(network))
    for row in rows:
        output = f"{row.channels}×{row.size}×{row.size}"
        counts = "".join(
            f"{f'{count:,}' if count else '':>{width}}"
            for count, width in ((row.parameters, 12), (row.multiply_adds, 15))
        )
        lines.append(f"{row.name:<16}{output:>12}{counts}{f'{row.receptive_field} px':>8}")
    parameters = count_parameters(network)
    share = (
        f"{parameters:,} of fewer than {max_parameters:,} parameters "
        f"({parameters / max_parameters:.0%})"
        if max_parameters
        else f"{parameters:,} parameters"
    )
    lines.append(
        f"{share}, {4 * parameters / 1000:.1f} kB as 32-bit floats, "
        f"{sum(row.multiply_adds for row in rows) / 1e6:.2f} million multiply–adds an image, "
        f"features see {receptive_field(network)} pixels"
    )
    return "\n".join(lines)
