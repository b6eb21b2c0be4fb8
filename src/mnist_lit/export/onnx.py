"""ONNX, in floats or with 8-bit weights."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from mnist_lit.errors import need
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
    side, network = source.facts.side, copy.deepcopy(source.network)
    if isinstance(network, CompactCNN) and isinstance(network.alignment, Alignment):
        network.alignment = Gathered(side, network.alignment.paper)
    source = replace(source, network=network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            FromPixels(source),
            (torch.zeros(2, 1, side, side, dtype=torch.uint8),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = _quantise(source, program.model_proto) if int8 else program.model_proto
    used = _strip(model)
    unused = [opset for opset in model.opset_import if opset.domain not in used]
    for opset in unused:
        model.opset_import.remove(opset)
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


def _quantise(source: Source, model: Any) -> Any:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    pictures = source.calibration().numpy()
    # Places in an image cannot be told by 8 bits.
    aligning = [
        node.name
        for node in model.graph.node
        if any("'network.alignment'" in prop.value for prop in node.metadata_props)
    ]

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        """Hands the calibration images out, a hundred at a time."""

        def __init__(self) -> None:
            self.batches = iter(np.array_split(pictures, 10))

        def get_next(self) -> dict[str, ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch}

    logging.disable(logging.WARNING)  # of norms, which have no second axis
    try:
        with tempfile.TemporaryDirectory() as folder:
            ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
            quant_pre_process(model, ready)
            quantize_static(
                ready,
                done,
                Reader(),
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
