"""A table of a network's layers, with totals against its budget."""

from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from mnist_lit.network.alignment import Alignment
from mnist_lit.network.compact import CompactCNN, ConvBlock, count_parameters


@dataclass(frozen=True)
class Layer:
    """One line of a summary.

    Attributes:
        name: Kind and number of the layer, as ``conv1 3×3``.
        output: Shape of its output for one image, as ``12×28×28``.
        parameters: Number of its trainable parameters.
        multiply_adds: Number of its multiply–adds for one image.
        receptive_field: Side of its receptive field, in pixels of the image.
    """

    name: str
    output: str
    parameters: int
    multiply_adds: int
    receptive_field: int


def layers(network: CompactCNN) -> list[Layer]:
    """Return the layers of a network, from input to output."""
    size, stride, field, channels = network.side, 1, 1, 1
    rows: list[Layer] = []

    def note(name: str, module: nn.Module | None = None, uses: int = 0) -> None:
        parameters = count_parameters(module) if module else 0
        output = f"{channels}×{size}×{size}"
        rows.append(Layer(name, output, parameters, uses, min(field, network.side)))

    if isinstance(network.alignment, Alignment):
        note("alignment")
    for number, block in enumerate(network.blocks, 1):
        assert isinstance(block, ConvBlock)
        repeats = len(block.norms)
        again = f" ×{repeats}" if repeats > 1 else ""
        for name, conv in (("depthwise", block.depthwise), ("conv", block.conv)):
            if isinstance(conv, nn.Conv2d):
                kernel, channels = conv.kernel_size[0], conv.out_channels
                field += (kernel - 1) * stride * repeats
                size += 2 * int(conv.padding[0]) - kernel + 1
                uses = conv.weight.numel() * size * size * repeats
                note(f"{name}{number} {kernel}×{kernel}{again}", conv, uses)
        steps = ["norm", "relu"]
        if block.pool != "none":
            steps.insert(0 if block.pool == "after_conv" else 2, "pool")
        for step in steps:
            if step == "pool":
                size, field, stride = size // 2, field + stride, stride * 2
            end = " 2×2" if step == "pool" else ""
            note(f"{step}{number}{end}", block.norms if step == "norm" else None)
        if block.dropout.p:
            note(f"dropout{number} {block.dropout.p:g}")
    size, field = 1, network.side
    note("average pool")
    if network.dropout.p:
        note(f"dropout {network.dropout.p:g}")
    channels = network.linear.out_features
    note("linear", network.linear, network.linear.weight.numel())
    return rows


def receptive_field(network: CompactCNN) -> int:
    """Return the receptive field's side in pixels, just before the global average pooling."""
    above = takewhile(lambda layer: layer.name != "average pool", layers(network))
    return max(layer.receptive_field for layer in above)


def table(network: nn.Module, name: str, side: int, max_parameters: int | None = None) -> str:
    """Return the table of a network's layers as text, with totals against the budget if given.

    Args:
        network: The network; if it is no ``CompactCNN``, Lightning makes the table.
        name: Its name.
        side: Side of the images, in pixels.
        max_parameters: The budget: it should have fewer parameters; None for no budget.
    """
    parameters = count_parameters(network)
    total = f"{parameters:,} parameters"
    if max_parameters:
        share = parameters / max_parameters
        total = f"{parameters:,} of fewer than {max_parameters:,} parameters ({share:.0%})"
    total += f", {4 * parameters / 1000:.1f} kB as 32-bit floats"
    if not isinstance(network, CompactCNN):
        return f"{name}\n{_by_lightning(network, side)}\n{total}"
    rows = layers(network)
    lines = [name, f"{'layer':<16}{'output':>12}{'parameters':>12}{'multiply–adds':>15}{'sees':>8}"]
    for row in rows:
        counts = [f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds)]
        sees = f"{row.receptive_field} px"
        lines.append(f"{row.name:<16}{row.output:>12}{counts[0]:>12}{counts[1]:>15}{sees:>8}")
    uses = sum(row.multiply_adds for row in rows) / 1e6
    view = f"features see {receptive_field(network)} pixels"
    return "\n".join([*lines, total, f"{uses:.2f} million multiply–adds an image, {view}"])


def _by_lightning(network: nn.Module, side: int) -> str:
    # Imported here, because reading pictures needs no Lightning.
    from pytorch_lightning import LightningModule
    from pytorch_lightning.utilities.model_summary import ModelSummary

    class Module(LightningModule):
        def forward(self, images: Tensor) -> Tensor:
            return network(images)

    module = Module()
    module.network = network
    blank = next(network.parameters(), torch.zeros(())).new_zeros(1, 1, side, side)
    module.example_input_array = blank
    return str(ModelSummary(module.to(blank.device), max_depth=-1))
