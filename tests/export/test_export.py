"""Networks in other formats, read back by other programs."""

import copy
import os
import resource
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mnist_lit
from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.cli import main
from mnist_lit.errors import MissingPackageError, UserError, WriteError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.formats import FORMATS
from mnist_lit.export.layers import layers_of
from mnist_lit.export.run import export
from mnist_lit.export.source import Source
from mnist_lit.network.alignment import Alignment
from mnist_lit.network.compact import CompactCNN, ConvBlock
from mnist_lit.training.classifier import LitClassifier
from tests.conftest import needs_compiler


def of(form: str, whole: bool = False) -> Any:
    """A format; its test is skipped without its package, and slow with all images."""
    marks = [needs_compiler] if form.startswith("c") else []
    marks += [pytest.mark.slow] if whole and form not in ("c", "safetensors") else []
    return pytest.param(form, marks=marks)


FINAL, NANO = pretrained.load("final"), pretrained.load("nano")
# Every kind of block.
EVERYTHING: list[dict[str, Any]] = [
    {"channels": 6, "kernel": 5, "pool": "after_conv", "bias": True},
    {"channels": 6, "padding": False, "norm_scale": False},
    {"channels": 6, "repeats": 2, "residual": True, "separable": True, "pool": "after_activation"},
    {"channels": 8, "separable": True, "padding": False},
    {"channels": 8, "separable": True, "pointwise": False},
    {"channels": 8, "residual": True, "pool": "after_activation"},
    {"channels": 20, "kernel": 1},
]


@pytest.fixture(scope="module")
def odd_network() -> CompactCNN:
    """A network with every kind of block, and statistics other than the initial ones."""
    torch.manual_seed(0)
    seen: dict[str, Any] = {"crop": 26, "shrink": 1.1, "resize": True}
    network = CompactCNN(EVERYTHING, 0.1, align=True, paper=MNIST.paper, **seen)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.3)
            torch.nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize("form", [of(form, whole=True) for form in FORMATS])
def test_a_shipped_network_is_read_back_as_it_was(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"model{FORMATS[form].ending}"
    # 10,000 images on one core
    name = {"c": "tiny", "c-int8": "tiny", "onnx": "final"}.get(form, "nano")
    main(["export", name, "--to", form, "--output", str(file)])
    assert file.is_file()
    words = capsys.readouterr().out
    correct = pretrained.record(name)["test_correct"]
    assert f"(the network: {correct:,})" in words
    assert f"{file.stat().st_size:,} bytes" in words
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("int8", [False, True])
def test_onnx_aligns_with_what_every_reader_has(
    int8: bool, odd_network: CompactCNN, mnist: MNISTDataModule
) -> None:
    onnx = pytest.importorskip("onnx")
    source = Source(odd_network, MNIST, 1, 1, calibration=lambda: mnist.train.images[:50])
    content = import_module("mnist_lit.export.onnx").make(source, int8)
    nodes = list(onnx.load_from_string(content).graph.node)
    kinds = [node.op_type for node in nodes]
    assert kinds.count("Gather") >= 4
    assert not {"GridSample", "GatherElements", "GatherND"} & {*kinds}
    # Also in 8 bits, quantisation begins after the alignment, at the first convolution's input.
    last = max(i for i, kind in enumerate(kinds) if kind == "Floor")
    assert kinds.index("QuantizeLinear") > last if int8 else "QuantizeLinear" not in kinds
    assert type(odd_network.alignment) is Alignment  # not changed


@pytest.mark.parametrize("int8", [False, True])
def test_onnx_has_few_operators_and_no_attribute_that_goes_without_saying(
    int8: bool, mnist: MNISTDataModule
) -> None:
    onnx = pytest.importorskip("onnx")
    source = Source(FINAL.network, MNIST, 1, 1, calibration=lambda: mnist.train.images[:50])
    content = import_module("mnist_lit.export.onnx").make(source, int8)
    nodes = onnx.load_from_string(content).graph.node
    kinds = {node.op_type for node in nodes} - {"QuantizeLinear", "DequantizeLinear", "Relu"}
    assert kinds == {"Cast", "Sub", "Conv", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"}
    assert {(node.op_type, one.name) for node in nodes for one in node.attribute} - {
        ("DequantizeLinear", "axis")
    } == {
        *(("Cast", "to"), ("Conv", "kernel_shape"), ("Conv", "pads"), ("Gemm", "transB")),
        *(("MaxPool", "kernel_shape"), ("MaxPool", "strides")),
    }


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("form", ["onnx", of("torch", whole=True), of("c")])
def test_every_kind_of_block_can_be_exported(
    form: str, odd_network: CompactCNN, tmp_path: Path
) -> None:
    done = export(Trained(odd_network, MNIST), form, tmp_path / "odd")
    assert done.largest_difference <= FORMATS[form].tolerance
    assert done.correct == done.reference


def test_onnx_takes_raw_pixels_of_any_batch_and_says_what_it_is(
    tmp_path: Path, mnist: MNISTDataModule
) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    file = tmp_path / "nano.onnx"
    network = mnist_lit.load_pretrained("nano")
    export(NANO, "onnx", file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = mnist.test.images[:count]
        (logits,) = session.run(None, {"pixels": images.numpy()})
        np.testing.assert_allclose(logits, classify(network, images), atol=1e-4)
    facts = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert facts["parameters"] == "990"
    assert facts["classes"] == "0 1 2 3 4 5 6 7 8 9"
    assert facts["test_correct"].startswith(str(pretrained.record("nano")["test_correct"]))


@pytest.mark.usefixtures("few_images")
def test_int8_onnx_holds_its_weights_in_bytes(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    done = export(NANO, "onnx-int8", tmp_path / "nano.onnx")
    kinds = [t.data_type for t in onnx.load(done.path).graph.initializer if len(t.dims) == 4]
    assert kinds == 9 * [onnx.TensorProto.INT8]
    assert done.correct >= done.reference - 10


@pytest.mark.parametrize(
    ("form", "size"),
    [
        ("onnx", 34_000),
        ("onnx-int8", 41_000),
        pytest.param("torch", 0, marks=pytest.mark.slow),
    ],
)
def test_a_file_holds_the_network_and_nothing_of_the_machine(
    form: str, size: int, tmp_path: Path, mnist: MNISTDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = import_module(f"mnist_lit.export.{form.removesuffix('-int8')}").make
    source = Source(NANO.network, MNIST, 1, 1, calibration=lambda: mnist.train.images[:50])
    files = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        files.append(make(source, FORMATS[form].int8))
    assert files[0] == files[1]
    places = str(Path(mnist_lit.__file__).parent), sys.prefix, str(tmp_path), str(Path.home())
    for words in (*(place for place in places if place != "/"), 'File "', ".py", "return "):
        assert words.encode() not in files[0]
    if size:
        assert len(files[0]) <= size
        onnx = pytest.importorskip("onnx")
        assert [one.domain for one in onnx.load_from_string(files[0]).opset_import] == [""]


def test_a_network_that_answers_with_not_a_number_is_refused(tmp_path: Path) -> None:
    network = copy.deepcopy(NANO.network)
    assert isinstance(network, CompactCNN)
    network.linear.bias.data[3] = torch.nan
    for form in ("onnx-int8", "c"):
        with pytest.raises(UserError, match=r"odd: not written: .* are not finite"):
            export(Trained(network, MNIST), form, tmp_path / "odd")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("form", ["onnx", of("c-int8")])
def test_a_default_of_float64_changes_nothing(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.set_default_dtype(torch.float64)
    try:
        done = export(pretrained.load("nano"), form, Path("~/nano"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert done.correct >= done.reference - 10
    assert (tmp_path / "nano").stat().st_size == done.size


@pytest.mark.usefixtures("few_images")
def test_only_a_regular_file_is_replaced_and_only_by_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "nano.pt2"
    os.mkfifo(pipe)
    file.write_text("older")
    for place, words in ((pipe, "not a regular file"), (tmp_path, "a folder")):
        with pytest.raises(WriteError, match=f"cannot be written: it is {words}"):
            export(NANO, "torch", place)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # torch's modules would be cut as well
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"nano\.pt2: cannot be written: File too large"):
            export(NANO, "torch", file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == "older"
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [file, pipe]


@pytest.mark.usefixtures("few_images")
@needs_compiler
def test_a_person_can_include_the_header(
    tmp_path: Path, mnist: MNISTDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("network.h").write_text("#error of another program")
    main(["export", "nano", "--to", "c-int8", "--output", str(tmp_path / "digits.h")])
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#define DIGITS_IMPLEMENTATION\n#include "digits.h"\n'
        "static const uint8_t pixels[784] = {"
        + ",".join(map(str, mnist.test.images[0].flatten().tolist()))
        + "};\nstatic struct digits_state state;\nint main(void) { "
        'printf("%d\\n", digits_predict(&state, pixels, 0)); return 0; }\n'
    )
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "main.c", "-o", "main"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert int(done.stdout) == mnist.test.labels[0]


@pytest.mark.usefixtures("few_images")
@needs_compiler
def test_what_does_not_agree_is_not_written(
    odd_network: CompactCNN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "odd.h"
    file.write_text("older")
    monkeypatch.setitem(FORMATS, "c", FORMATS["c"]._replace(tolerance=0.0))
    with pytest.raises(UserError, match=r"odd\.h: not written: .*: it differs from the network: "):
        export(Trained(odd_network, MNIST), "c", file)
    assert file.read_text() == "older"
    assert list(tmp_path.iterdir()) == [file]


class Branches(torch.nn.Module):
    """A network that cannot be exported: its branch depends on the pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(1)[:, :10]
        return pixels if pixels.sum() > 0 else -pixels


@pytest.mark.usefixtures("few_images")
def test_a_network_that_an_exporter_cannot_take_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not written: Branches cannot be exported to torch"):
        export(Trained(Branches(), MNIST), "torch", tmp_path / "odd.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_images")
def test_a_missing_package_or_compiler_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler: no such C compiler"):
        export(FINAL, "c", tmp_path / "final.h")
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "mnist_lit.export.onnx", raising=False)
    with pytest.raises(
        MissingPackageError, match=r"onnx is not installed; pip install .*\[export\]"
    ):
        export(FINAL, "onnx", tmp_path / "final.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_images")
def test_a_checkpoint_can_be_exported(tmp_path: Path) -> None:
    checkpoint = pretrained.checkpoint_of("nano")
    again = LitClassifier.load_from_checkpoint(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = export(Trained(again.network, again.facts), "torch", tmp_path / "model.pt2")
    program = torch.export.load(done.path).module()
    assert program(torch.zeros(3, 1, 28, 28, dtype=torch.uint8)).shape == (3, 10)


# Prints a hash of a header, whose weights are folded and whose maps are calibrated.
HASH = """
import hashlib
from mnist_lit import MNIST
from mnist_lit.checkpoints import pretrained
from mnist_lit.data.reopen import reopen, split
from mnist_lit.export import c
from mnist_lit.export.source import Source
images = split(reopen(MNIST), "train", MNIST).images[:1000]
source = Source(pretrained.load("nano").network, MNIST, 1, 1, calibration=lambda: images)
print(hashlib.sha256(c.make(source, True)).hexdigest())
"""


@pytest.mark.slow
def test_every_processor_makes_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    # With torch's operations for any processor: their sums differ in float32.
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", HASH], env=plain, capture_output=True, text=True, check=True
    )
    exec(HASH, {})  # with those for this processor
    assert capsys.readouterr().out == done.stdout


def test_a_layer_is_folded_in_float64(odd_network: CompactCNN) -> None:
    layers = layers_of(odd_network)
    for layer in layers:
        for values in (layer.weight, layer.scale, layer.shift):
            assert values.dtype == np.float64
    first = odd_network.blocks[0]
    assert isinstance(first, ConvBlock)
    norm = first.norms[0]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_var is not None
    wanted = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    np.testing.assert_allclose(layers[0].scale, wanted, rtol=1e-14)


@pytest.mark.parametrize("int8", [False, True])
def test_onnx_has_no_name_or_version_of_the_exporter(
    int8: bool, odd_network: CompactCNN, mnist: MNISTDataModule
) -> None:
    onnx = pytest.importorskip("onnx")
    source = Source(odd_network, MNIST, 1, 1, calibration=lambda: mnist.train.images[:50])
    content = import_module("mnist_lit.export.onnx").make(source, int8)
    model = onnx.load_from_string(content)
    named = [name for node in model.graph.node for name in (node.name, *node.output)]
    assert not [name for name in named if "torch" in name or "aten" in name]
    for word in (torch.__version__, "pytorch", "onnxscript"):
        assert word.encode() not in content
