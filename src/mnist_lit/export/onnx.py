"""ONNX, in floats or with 8-bit weights."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from mnist_lit.errors import need
from mnist_lit.export.source import FromPixels, Run, Source

onnx, _, runtime = (need(name, "export") for name in ("onnx", "onnxscript", "onnxruntime"))


def write(source: Source, path: Path, int8: bool) -> None:
    """Write the file, with what it says of itself."""
    whole = path.with_name("whole.onnx") if int8 else path
    side = source.facts.side
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
    onnx.checker.check_model(program.model_proto, full_check=True)
    onnx.save(program.model_proto, whole)
    if int8:
        _quantise(source, whole, path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, source.about)
    onnx.save(model, path)


def _quantise(source: Source, whole: Path, path: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    pictures = source.calibration().numpy()

    # onnxruntime ships no types.
    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the calibration images out, a hundred at a time."""

        def __init__(self) -> None:
            self.batches = iter(np.array_split(pictures, 10))

        def get_next(self) -> dict[str, ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch}

    ready = path.with_name("ready.onnx")
    logging.disable(logging.WARNING)  # of norms, which have no second axis
    try:
        quant_pre_process(str(whole), str(ready))
        quantize_static(
            str(ready),
            str(path),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def load(path: Path, source: Source) -> Iterator[Run]:
    """Open the file in onnxruntime, on one thread."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    yield lambda pixels: session.run(["logits"], {"pixels": pixels})[0]
