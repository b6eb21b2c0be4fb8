"""Trained networks in other formats, each checked on the test digits before it gets its name."""

import copy
import logging
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from mnist_lit import c_source
from mnist_lit.data import MEAN, STD, Digits, load_digits, normalize
from mnist_lit.evaluation import classify
from mnist_lit.network import CLASSES, CompactCNN, count_parameters

TOLERANCE = 1e-4  # of a float format's logits
ALLOWED_LOSS = 10  # digits of the 10,000 that an int8 format may read wrong besides
CALIBRATION = 1000  # training images
TIMED = 200  # images, one at a time

Logits = Float[ndarray, "n 10"]
Run = Callable[[UInt8[ndarray, "n 1 28 28"]], Logits]


class ExportError(ValueError):
    """An export that cannot be made or does not agree with its network; the message says why."""


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        path: The file.
        size: In bytes.
        correct: Test digits that it reads right, of 10,000.
        reference: The same of the network itself.
        largest_difference: Of a logit from the network's.
        milliseconds: For one image at a time, the median; the start not counted.
    """

    path: Path
    size: int
    correct: int
    reference: int
    largest_difference: float
    milliseconds: float


class FromPixels(nn.Module):
    """A network with its normalisation: pixels 0–255 in, logits out."""

    def __init__(self, network: CompactCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``uint8 [B, 1, 28, 28]`` to ``float32 [B, 10]``."""
        return self.network(normalize(pixels))


def export(network: CompactCNN, form: str, path: Path, data_root: Path | None = None) -> Exported:
    """Write a network to a file in another format, if it agrees there with itself.

    Args:
        network: On the CPU.
        form: A key of :data:`FORMATS`.
        path: Where it goes; a file there is replaced once the new one is checked.
        data_root: The folder above ``MNIST/raw``; None for the default.

    Raises:
        ExportError: A package or the C compiler is missing, the file cannot be written, or what was
            written reads the test digits otherwise than it should.
    """
    write, load = FORMATS[form]
    # The exporters warn of weights in another order than the usual.
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
    test = load_digits(data_root, "test")
    wanted = torch.cat([classify(network, x) for x in torch.split(test.images, 1000)]).numpy()
    labels = test.labels.numpy()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that the last step is a renaming.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            draft = Path(folder) / path.name
            facts = describe(network, int((wanted.argmax(1) == labels).sum()))
            write(network, draft, facts, data_root)
            with load(draft) as run:
                got = np.concatenate([run(x.numpy()) for x in torch.split(test.images, 1000)])
                milliseconds = _time(run, test)
            result = _compare(got, wanted, labels, path, draft.stat().st_size, milliseconds)
            _check(result, got, wanted, exact=not form.endswith("int8"))
            draft.replace(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from None
    return result


def describe(network: CompactCNN, correct: int) -> dict[str, str]:
    """Return what an export says of itself."""
    return {
        "task": "MNIST digits; uint8 [batch, 1, 28, 28], light on black, to logits [batch, 10]",
        "classes": " ".join(str(digit) for digit in range(CLASSES)),
        "normalisation": f"(pixel / 255 - {MEAN}) / {STD}, inside",
        "parameters": str(count_parameters(network)),
        "test_correct": f"{correct} of 10000, before the export",
    }


def _compare(
    got: Logits, wanted: Logits, labels: ndarray, path: Path, size: int, milliseconds: float
) -> Exported:
    return Exported(
        path=path,
        size=size,
        correct=int((got.argmax(1) == labels).sum()),
        reference=int((wanted.argmax(1) == labels).sum()),
        largest_difference=float(np.abs(got - wanted).max()),
        milliseconds=milliseconds,
    )


def _check(result: Exported, got: Logits, wanted: Logits, exact: bool) -> None:
    if exact:
        others = int((got.argmax(1) != wanted.argmax(1)).sum())
        if others or result.largest_difference > TOLERANCE:
            raise ExportError(
                f"{result.path}: not written, for it differs from the network: "
                f"{others} predictions, logits by up to {result.largest_difference:.2g} "
                f"({TOLERANCE:g} is allowed)"
            )
    elif result.correct < result.reference - ALLOWED_LOSS:
        raise ExportError(
            f"{result.path}: not written, for it reads {result.correct:,} of 10,000 test digits "
            f"right and the network {result.reference:,}; {ALLOWED_LOSS} fewer are allowed"
        )


def _time(run: Run, test: Digits) -> float:
    times = []
    for image in test.images[:TIMED].numpy():
        started = time.perf_counter()
        run(image[None])
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def _need(package: str) -> Any:
    try:
        return __import__(package)
    except ModuleNotFoundError:
        raise ExportError(
            f"{package} is not installed; pip install 'mnist-lit[export]', or in a checkout "
            "pip install -e '.[export]'"
        ) from None


def _write_onnx(
    network: CompactCNN, path: Path, facts: dict[str, str], data_root: Path | None
) -> None:
    onnx, _, _ = (_need(package) for package in ("onnx", "onnxscript", "onnxruntime"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            FromPixels(network),
            (torch.zeros(2, 1, 28, 28, dtype=torch.uint8),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _write_onnx_int8(
    network: CompactCNN, path: Path, facts: dict[str, str], data_root: Path | None
) -> None:
    whole = path.with_name("whole.onnx")
    _write_onnx(network, whole, facts, data_root)
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    pictures = load_digits(data_root, "train").images[:CALIBRATION].numpy()

    # onnxruntime ships no types.
    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the calibration images out, a hundred at a time."""

        def __init__(self) -> None:
            self.batches = iter(np.split(pictures, 10))

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
    onnx = _need("onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)


@contextmanager
def _load_onnx(path: Path) -> Iterator[Run]:
    runtime = _need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    yield lambda pixels: session.run(["logits"], {"pixels": pixels})[0]


def _write_torch(
    network: CompactCNN, path: Path, facts: dict[str, str], data_root: Path | None
) -> None:
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 1, 28, 28, dtype=torch.uint8),)
    program = torch.export.export(FromPixels(network), example, dynamic_shapes=({0: batch},))
    text = "\n".join(f"{key}: {value}" for key, value in facts.items())
    torch.export.save(program, path, extra_files={"about.txt": text})


@contextmanager
def _load_torch(path: Path) -> Iterator[Run]:
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(pixels: ndarray) -> Logits:
        return module(torch.from_numpy(pixels)).numpy()

    yield run


def _write_c(
    network: CompactCNN, path: Path, facts: dict[str, str], data_root: Path | None
) -> None:
    path.write_text(c_source.header(network, facts, int8=False), encoding="utf-8")


def _write_c_int8(
    network: CompactCNN, path: Path, facts: dict[str, str], data_root: Path | None
) -> None:
    path.write_text(c_source.header(network, facts, int8=True), encoding="utf-8")


@contextmanager
def _load_c(path: Path) -> Iterator[Run]:
    """Compile a header with a program around it that answers images with logits."""
    program = path.with_name("program")
    compiler = os.environ.get("CC", "cc")
    source = c_source.PROGRAM.replace("HEADER", path.name)
    command = [compiler, "-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    command += ["-x", "c", "-", "-I", str(path.parent), "-o", str(program)]
    try:
        subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    except OSError:
        raise ExportError(
            f"{compiler}: no such C compiler to check the export with; name one in CC"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ExportError(f"{compiler}: {error.stderr.strip().splitlines()[0]}") from None
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        into, out_of = process.stdin, process.stdout
        assert into is not None
        assert out_of is not None

        def run(pixels: ndarray) -> Logits:
            rows = []
            for image in pixels:
                into.write(image.tobytes())
                answer = b""
                while len(answer) < 4 * CLASSES:
                    answer += out_of.read(4 * CLASSES - len(answer))
                rows.append(np.frombuffer(answer, dtype=np.float32))
            return np.stack(rows)

        yield run
        into.close()


# How each is written, and how it is run again.
FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path], Any]]] = {
    "onnx": (_write_onnx, _load_onnx),
    "onnx-int8": (_write_onnx_int8, _load_onnx),
    "torch": (_write_torch, _load_torch),
    "c": (_write_c, _load_c),
    "c-int8": (_write_c_int8, _load_c),
}
