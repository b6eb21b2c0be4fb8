"""ONNX, in floats or with 8-bit weights."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from mnist_lit.errors import need
from mnist_lit.export.layers import Layer, layers_of
from mnist_lit.export.source import FromPixels, Loaded, Source
from mnist_lit.network.alignment import Alignment
from mnist_lit.network.compact import CompactCNN

onnx, _, runtime = (need(name, "export") for name in ("onnx", "onnxscript", "onnxruntime"))


class Gathered(Alignment):
    """The same in what every reader of ONNX has: Gather and arithmetic.

    Rows and then columns are blended in pairs, which together is the bilinear sample.
    """

    def _sample(self, ink: Tensor, x: Tensor, y: Tensor, slant: Tensor) -> Tensor:
        batch, _, side, _ = ink.shape
        offset = torch.arange(side) - (side - 1) / 2
        # A frame of paper, which is where all that comes from outside is taken.
        rows = F.pad(ink[:, 0], (1, 1, 1, 1)).view(-1, side + 2)
        rows = _blended(rows, y[:, None].expand(-1, side), side, torch.arange(batch)[:, None])
        flat = rows.view(-1, 1)
        shift = (x[:, None] + slant[:, None] * offset)[:, :, None].expand(-1, -1, side)
        places = torch.arange(batch * side).view(batch, side, 1)
        return _blended(flat, shift, side, places).view(ink.shape)


class Folded(torch.nn.Module):
    """A compact network with its norms and its scaling folded into convolutions: pixels in."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        network, facts = source.network, source.facts
        assert isinstance(network, CompactCNN)
        aligned = isinstance(network.alignment, Alignment)
        self.alignment = Gathered(facts.side, 0.0) if aligned else torch.nn.Identity()
        self.zero = facts.mean * 255  # the pixel that is 0 when it is normalised
        self.linear = network.linear
        self.layers = torch.nn.ModuleList()
        for layer in layers_of(network, facts.side)[0]:
            weight = layer.weight if self.layers else layer.weight / (255 * facts.std)
            zeros = layer.reach or layer.table["border"]
            self.layers.append(FoldedLayer(layer, weight, zeros))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``uint8 [B, 1, side, side]`` to ``float32 [B, classes]``."""
        x = self.alignment(pixels.float()) - self.zero
        for layer in self.layers:
            x = layer(x)
        return self.linear(x.mean((2, 3), keepdim=True).flatten(1))


class FoldedLayer(torch.nn.Module):
    """A convolution with its norm inside, ReLU and pooling.

    A norm with a negative scale behind a pooling stays outside, for the largest is not the largest
    of what it was turned into.
    """

    def __init__(self, layer: Layer, weight: ndarray, zeros: int) -> None:
        super().__init__()
        self.pool, self.late, self.added = layer.pool, layer.late, layer.added
        self.apart = None
        if layer.apart is not None:
            self.apart = _conv(layer.apart[:, None], zeros, groups=layer.channels)
            zeros = 0
        self.outside = bool(layer.pool and not layer.late and (layer.scale < 0).any())
        scale, shift = (torch.tensor(v, dtype=torch.float32) for v in (layer.scale, layer.shift))
        if self.outside:
            self.conv = _conv(weight, zeros)
            self.scale, self.shift = (v.view(1, -1, 1, 1) for v in (scale, shift))
        else:
            self.conv = _conv(weight * layer.scale[:, None, None, None], zeros, layer.shift)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, D, H, W]``, smaller where it pools or does not pad."""
        y = self.conv(x if self.apart is None else self.apart(x))
        if self.pool and not self.late:
            y = F.max_pool2d(y, 2)
        if self.outside:
            y = y * self.scale + self.shift
        y = F.relu(y)
        y = x + y if self.added else y
        return F.max_pool2d(y, 2) if self.pool and self.late else y


def _conv(
    weight: ndarray, zeros: int, bias: ndarray | None = None, groups: int = 1
) -> torch.nn.Conv2d:
    filters, channels, kernel, _ = weight.shape
    conv = torch.nn.Conv2d(
        *(channels * groups, filters, kernel), padding=zeros, groups=groups, bias=bias is not None
    )
    conv.weight.data = torch.tensor(weight, dtype=torch.float32)
    if bias is not None:
        assert conv.bias is not None
        conv.bias.data = torch.tensor(bias, dtype=torch.float32)
    return conv


def _blended(
    table: Float[Tensor, "n k"],
    shift: Float[Tensor, "... s"],
    side: int,
    group: Int64[Tensor, "..."],
) -> Float[Tensor, "m k"]:
    """Return, of each group of side + 2 lines of a table, those that lie a shift further."""
    whole = shift.floor()
    first = torch.arange(side) + whole.long()
    near, far = (
        table.index_select(0, (group * (side + 2) + (line.clamp(-1, side) + 1)).flatten())
        for line in (first, first + 1)
    )
    part = (shift - whole).flatten()[:, None]
    return near + part * (far - near)


def make(source: Source, int8: bool) -> bytes:
    """Return the file, with what it says of itself and nothing of the machine that made it."""
    side = source.facts.side
    compact = isinstance(source.network, CompactCNN)
    whole = Folded(source) if compact else FromPixels(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            whole.eval(),
            (torch.zeros(2, 1, side, side, dtype=torch.uint8),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_version = ""  # of torch
    if compact:
        _with_usual_operators(model.graph)
        _number(model.graph)
    if int8:
        model = _quantise(source, model)
    used = _strip(model)
    unused = [opset for opset in model.opset_import if opset.domain not in used]
    for opset in unused:
        model.opset_import.remove(opset)
    _without_defaults(model.graph)
    onnx.helper.set_model_props(model, source.about)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _strip(message: Any) -> set[str]:
    """Take the exporter's remarks out, source lines among them; return the operators' domains."""
    domains = {message.domain} if isinstance(message, onnx.NodeProto) else set()
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string", "value_info"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                domains |= _strip(part)
    return domains


def _with_usual_operators(graph: Any) -> None:
    """Write the mean over a map, and what follows, in the operators that every reader knows."""
    for mean in (node for node in graph.node if node.op_type == "ReduceMean"):
        (flat,) = (node for node in graph.node if mean.output[0] in node.input)
        mean.op_type, flat.op_type = "GlobalAveragePool", "Flatten"
        for node in (mean, flat):
            del node.attribute[:]
            del node.input[1:]
    used = {name for node in graph.node for name in node.input}
    for unused in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(unused)


def _number(graph: Any) -> None:
    """Name nodes and values by their order; the exporter's names are not those of every torch."""
    made = [*(one.name for one in graph.initializer), *(o for n in graph.node for o in n.output)]
    numbered = {name: f"value_{n}" for n, name in enumerate(made) if "." not in name}
    numbered |= {one.name: one.name for one in graph.output}
    for one in graph.initializer:
        one.name = numbered.get(one.name, one.name)
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        for names in (node.input, node.output):
            names[:] = [numbered.get(name, name) for name in names]


def _without_defaults(graph: Any) -> None:
    """Take out attributes that say what goes without saying; some readers know no others."""
    usual = {"dilations": {1}, "strides": {1}, "pads": {0}}  # which the schema does not say
    for node in graph.node:
        known = onnx.defs.get_schema(node.op_type).attributes
        for attribute in list(node.attribute):
            default = known[attribute.name].default_value
            value = onnx.helper.get_attribute_value(attribute)
            said = default.type and onnx.helper.get_attribute_value(default) == value
            if said or (attribute.name in usual and set(value) == usual[attribute.name]):
                node.attribute.remove(attribute)


def _quantise(source: Source, model: Any) -> Any:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = ({"pixels": some} for some in np.array_split(source.calibration().numpy(), 10))
    # Places in an image cannot be told by 8 bits.
    aligning = [
        node.name
        for node in model.graph.node
        if any("'alignment'" in prop.value for prop in node.metadata_props)
    ]

    logging.disable(logging.WARNING)  # of norms, which have no second axis
    try:
        with tempfile.TemporaryDirectory() as folder:
            ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
            quant_pre_process(model, ready)
            quantize_static(
                ready,
                done,
                SimpleNamespace(get_next=lambda: next(batches, None)),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=aligning,
            )
            return onnx.load(done)
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def load(content: bytes, source: Source) -> Iterator[Loaded]:
    """Open the file in onnxruntime, on one thread."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    yield Loaded(lambda pixels: session.run(["logits"], {"pixels": pixels})[0])
