"""ONNX, in floats or with 8-bit weights."""

import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mnist_lit.errors import need
from mnist_lit.export.layers import layers_of, linear_of
from mnist_lit.export.source import FromPixels, Run, Source, rendered
from mnist_lit.network.alignment import LIMITS, Alignment
from mnist_lit.network.compact import CompactCNN

onnx, passes, runtime = (
    need(name, "export") for name in ("onnx", "onnx_ir.passes.common", "onnxruntime")
)


def make(source: Source, int8: bool) -> bytes:
    """Return the file, with its metadata and without data of the machine that made it."""
    model = _folded(source) if isinstance(source.network, CompactCNN) else _traced(source)
    if int8:
        model = _quantise(source, model)
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.extend(opsets)
    onnx.helper.set_model_props(model, source.about)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _folded(source: Source) -> Any:
    """Return a ``CompactCNN``, with norms and scaling of pixels folded into the convolutions."""
    network, facts = source.compact, source.facts
    layers = layers_of(network)
    weights = {"outside": np.array(facts.mean * 255)}  # the pixel that is 0 after normalisation
    for number, layer in enumerate(layers, 1):
        weight = layer.weight / (255 * facts.std) if number == 1 else layer.weight
        if layer.depthwise is not None:
            weights[f"depthwise{number}"] = layer.depthwise[:, None]
        if layer.pool and not layer.norm_before_pool and (layer.scale < 0).any():
            # Not folded: a negative scale must follow the max-pool.
            weights[f"scale{number}"] = layer.scale[:, None, None]
            weights[f"shift{number}"] = layer.shift[:, None, None]
        else:
            weight = weight * layer.scale[:, None, None, None]
            weights[f"bias{number}"] = layer.shift
        weights[f"weight{number}"] = weight
    weights["linear"], weights["linear_bias"] = linear_of(network)
    if isinstance(network.alignment, Alignment):
        weights["basis"] = network.alignment.basis.numpy()
    model = onnx.parser.parse_model(
        rendered("network.onnxtxt", source=source, layers=layers, weights=weights, **LIMITS)
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(values, np.float32), name)
        for name, values in weights.items()
    )
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return model


def _traced(source: Source) -> Any:
    """Return any other network as torch exports it, without lines of its source code."""
    side = source.facts.side
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        program: Any = torch.onnx.export(
            FromPixels(source).eval(),
            (torch.zeros(2, 1, side, side, dtype=torch.uint8),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    passes.ClearMetadataAndDocStringPass()(program.model)
    program.model.producer_version = None  # torch's version
    return program.model_proto


def _quantise(source: Source, model: Any) -> Any:
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = ({"pixels": some} for some in np.array_split(source.calibration().numpy(), 10))
    # 8 bits are too few for coordinates, so the alignment stays in floats.
    nodes = {node.output[0]: number for number, node in enumerate(model.graph.node)}
    aligning = [node.name for node in model.graph.node[: nodes.get("map0", 0)]]
    with tempfile.TemporaryDirectory() as folder:
        ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
        quant_pre_process(model, ready)
        quantize_static(
            ready,
            done,
            SimpleNamespace(get_next=lambda: next(batches, None)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=aligning,
        )
        return onnx.load(done)


def load(content: bytes, source: Source) -> tuple[Run, list[str]]:
    """Open the file in onnxruntime, on one thread."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    notes = []
    if b"QuantizeLinear" in content and (size := len(make(source, False))) < len(content):
        notes.append(f"--to onnx is smaller ({size:,} bytes) and faster for a network of this size")
    return lambda pixels: session.run(["logits"], {"pixels": pixels})[0], notes
