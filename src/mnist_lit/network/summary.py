"""A table of a network's layers, with totals against its budget."""

from dataclasses import dataclass
from itertools import repeat, takewhile

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
        receptive_field: Side of its receptive field, in pixels of the image; 0 if unknown.
    """

    name: str
    output: str
    parameters: int
    multiply_adds: int
    receptive_field: int


def layers(network: CompactCNN) -> list[Layer]:
    """Return the layers of a network, from input to output."""
    size, stride, field, channels = network.seen, 1, 1, 1
    rows, shrink = list[Layer](), network.description["shrink"]

    def note(name: str, module: nn.Module | None = None, uses: int = 0) -> None:
        parameters = count_parameters(module) if module else 0
        output = f"{channels}×{size}×{size}"
        rows.append(Layer(name, output, parameters, uses, min(round(field * shrink), network.side)))

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


def table(network: nn.Module, name: str, side: int, max_parameters: int | None = None) -> str:
    """Return the table of a network's layers as text, with totals against the budget if given.

    Args:
        network: The network; if it is no ``CompactCNN``, Lightning finds its layers.
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
    rows = layers(network) if isinstance(network, CompactCNN) else _by_lightning(network, side)
    cells = [["layer", "output", "parameters", "multiply–adds", "sees"]]
    for row in rows:
        counts = [f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds)]
        sees = f"{row.receptive_field} px" if row.receptive_field else ""
        cells.append([row.name, row.output, *counts, sees])
    usual = zip((16, 12, 12, 15, 8), zip(*cells, strict=True), strict=True)
    left, *others = [max(width, 2 + max(map(len, column))) for width, column in usual]
    lines = ["".join([c.ljust(left), *map(str.rjust, rest, others)]).rstrip() for c, *rest in cells]
    if isinstance(network, CompactCNN):
        uses = sum(row.multiply_adds for row in rows) / 1e6
        above = takewhile(lambda layer: layer.name != "average pool", rows)
        view = f"features see {max(layer.receptive_field for layer in above)} pixels"
        total += f"\n{uses:.2f} million multiply–adds an image, {view}"
    return "\n".join([name, *lines, total])


def _by_lightning(network: nn.Module, side: int) -> list[Layer]:
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
    found = ModelSummary(module.to(blank.device), max_depth=-1)
    kinds = zip(found.layer_names, found.layer_types, strict=True)
    names = [f"{name.removeprefix('network').lstrip('.')} {kind}".strip() for name, kind in kinds]
    shapes = ["×".join(map(str, shape[1:])) for shape in found.out_sizes]
    uses = [sum(counts.values()) // 2 for counts in found.flop_counts.values()]
    return list(map(Layer, names, shapes, found.param_nums, uses, repeat(0)))
