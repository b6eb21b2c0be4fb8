"""A trained network as one C header, for machines without an operating system.

The code is ``engine.h``: rows of the picture stream through the layers, each of which keeps only
the rows that it still needs, and what is 0 is skipped. Here its arrays and its table are made. A
batch norm becomes a scale and a shift of each filter. In int8 the weights have a scale for each
filter, maps are bytes, sums 32 bits, and a norm is a multiplication and a shift (Jacob et al.,
Quantization and training of neural networks for efficient integer-arithmetic-only inference, 2018):
there is no floating point, and every compiler and processor gives the same bits.
"""

import copy
import ctypes
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from mnist_lit.errors import ExportError, reason
from mnist_lit.export.layers import LANES, Layer, layers_of
from mnist_lit.export.source import Loaded, Logits, Source
from mnist_lit.network.alignment import STEEPEST, Alignment
from mnist_lit.network.compact import CompactCNN, ConvBlock
from mnist_lit.network.fused import CompileError, compile_c
from mnist_lit.text import for_c

LARGEST_ALIGNED = 128  # side of an image whose moments fit
ARM = "arm-none-eabi-gcc"
OPTIONS = ["-std=c99", "-O3", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
# What the header's functions are tested with.
AROUND = """
#define {NAME}_IMPLEMENTATION
#include "{file}"
int many(const uint8_t *pixels, int count, int pixels_each, {sum} *logits, int classes) {{
    static struct {name}_state state;
    for (int i = 0; i < count; i++)
        {name}_predict(&state, pixels + i * pixels_each, logits + i * classes);
    return 0;
}}
int memory(void) {{ return (int)sizeof(struct {name}_state); }}
int constants(void) {{ return (int)({constants}); }}
"""


@dataclass(frozen=True)
class Array:
    """An array of the header."""

    name: str
    kind: str
    values: ndarray

    @property
    def count(self) -> int:
        """How many values there are."""
        return self.values.size

    @property
    def text(self) -> str:
        """The values as C has them."""
        words = [_literal(v) if self.kind == "float" else f"{int(v)}" for v in self.values.ravel()]
        lines = [", ".join(words[i : i + 16]) for i in range(0, len(words), 16)]
        return ",\n    ".join(lines)


def make(source: Source, int8: bool) -> bytes:
    """Return the header.

    Raises:
        ExportError: The engine cannot hold the network.
    """
    network, facts = source.network, source.facts
    assert isinstance(network, CompactCNN)
    if isinstance(network.alignment, Alignment):
        if facts.side > LARGEST_ALIGNED:
            raise ExportError(f"the C code straightens images of up to {LARGEST_ALIGNED} pixels")
        if abs(network.alignment.paper - facts.paper) > 1e-5:
            raise ExportError("the C code straightens images whose paper is the pixel 0 alone")
    layers, end = layers_of(network, facts.side)
    border = layers[0].table["border"]
    if not int8:
        for layer in layers:
            layer.widen()
    at = 0
    for layer in layers:
        layer.table["map"], at = at, at + layer.slots * layer.size * layer.channels
    numbers = _whole if int8 else _floating
    arrays, more = numbers(source, layers, end)
    fields = _fields(layers, int8)
    separable = any(layer.separable for layer in layers)
    entries = max(
        layer.wide if layer.separable else layer.kernel**2 * layer.channels for layer in layers
    )
    weights = max(
        (1 if layer.separable else layer.kernel**2) * layer.channels * layer.padded
        for layer in layers
    )
    text = _template().render(
        file=for_c(source.file),
        name=source.name,
        NAME=source.name.upper(),
        int8=int8,
        about={key: for_c(words) for key, words in source.about.items()},
        what="digit" if facts.noun == "digits" else "class",
        side=facts.side,
        classes=len(facts.classes),
        align=isinstance(network.alignment, Alignment),
        layers=layers,
        last=layers[-1],
        arrays=arrays,
        fields=fields,
        border=border,
        separable=separable,
        late=any(layer.late for layer in layers),
        residual=any(layer.added for layer in layers),
        widest=max(layer.padded for layer in layers),
        span=max(layer.kernel + layer.pool for layer in layers),
        entries=entries + entries % 2,  # some processors take two at once
        maps=at + (LANES - 1) * separable,
        map_t="uint8_t" if int8 else "float",
        sum_t="int32_t" if int8 else "float",
        weight_t="int8_t" if int8 else "float",
        norm_t="int32_t" if int8 else "float",
        entry_t="int16_t" if int8 else "float",
        place_t="int32_t" if int8 else "float",
        moment_t="int32_t" if facts.side <= 48 else "int64_t",
        at_t=_unsigned(weights),
        row_t=_unsigned(layers[0].size + border),
        half=2**31,
        steep=int(STEEPEST * 65536),
        steepest=STEEPEST,
        squeeze=2 ** max(0, math.ceil(math.log2(2 * 65025 * facts.side**6)) - 46),
        **more,
    )
    return text.encode()


@contextmanager
def load(content: bytes, source: Source) -> Iterator[Loaded]:
    """Compile a header into a library of its own, which answers images with logits."""
    classes, side, text = len(source.facts.classes), source.facts.side, content.decode()
    names = re.findall(r"^static const .*? (\w+)\[", text, flags=re.MULTILINE)
    unit = re.search(r"^#define \w+_LOGIT (\S+)f$", text, flags=re.MULTILINE)
    around = AROUND.format(
        NAME=source.name.upper(),
        name=source.name,
        file="network.h",
        sum="int32_t" if unit else "float",
        constants=" + ".join(f"sizeof {name}" for name in names),
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "network.h").write_bytes(content)
        library = Path(folder) / "network.so"
        try:
            compile_c(
                [*OPTIONS, "-shared", "-fPIC", "-x", "c", "-", "-I", folder, "-o", str(library)],
                around,
            )
            code = ctypes.CDLL(str(library))
        except (CompileError, OSError) as error:  # libraries may be forbidden to load there
            raise ExportError(f"the export cannot be checked: {reason(error)}") from None

        def run(pixels: ndarray) -> Logits:
            logits = np.empty((len(pixels), classes), np.int32 if unit else np.float32)
            given = np.ascontiguousarray(pixels)
            code.many(
                *(given.ctypes.data_as(ctypes.c_void_p), len(given), side * side),
                *(logits.ctypes.data_as(ctypes.c_void_p), classes),
            )
            return logits.astype(np.float32) * np.float32(unit[1] if unit else 1)

        notes = [f"constants {code.constants():,} bytes, memory {code.memory():,} bytes"]
        if shutil.which(ARM):
            notes.append(
                f"flash {_flash(Path(folder), source.name):,} bytes on a Cortex-M3 ({ARM} -O2)"
            )
        yield Loaded(run, tuple(notes))


def _flash(folder: Path, name: str) -> int:
    """Return how many bytes code and constants take that are compiled for a Cortex-M3."""
    program, code = folder / "network.o", f"-D{name.upper()}_IMPLEMENTATION"
    options = ["-mcpu=cortex-m3", "-mthumb", "-std=c99", "-O2", "-c", "-x", "c", code]
    subprocess.run([ARM, *options, folder / "network.h", "-o", program], check=True)
    size = ARM.replace("gcc", "size")
    said = subprocess.run([size, program], check=True, stdout=subprocess.PIPE, text=True).stdout
    text, data, *_ = said.splitlines()[1].split()
    return int(text) + int(data)


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.undefined = jinja2.StrictUndefined
    return environment.get_template("engine.h")


def _fields(layers: list[Layer], int8: bool) -> dict[str, str]:
    """Return the fields of the table that are numbers, and of what type each has to be."""
    names = ["map", "slots", "size", "out", "channels", "filters", "padded", "kernel", "reach"]
    names += ["pool"]
    separable = any(layer.separable for layer in layers)
    names += ["wide"] * separable
    if int8:
        names += ["before", "after"] + ["apart_shift"] * separable
    if any(layer.late for layer in layers):
        names.append("late")
    if any(layer.added for layer in layers):
        names.append("added")
    return {name: _unsigned(max(layer[name] for layer in layers)) for name in names}


def _unsigned(largest: int) -> str:
    """Return the smallest type that holds a number from 0."""
    return next(f"uint{bits}_t" for bits in (8, 16, 32) if largest < 2**bits)


def _apart(weight: ndarray) -> ndarray:
    """Reorder ``[C, k, k]`` as ``[k, k, C padded]``."""
    channels = len(weight)
    return np.pad(weight.transpose(1, 2, 0), ((0, 0), (0, 0), (0, -channels % LANES)))


def _filters(weight: ndarray, padded: int) -> ndarray:
    """Reorder ``[F, C, k, k]`` as ``[k, k, C, padded]``."""
    filters, channels, kernel, _ = weight.shape
    ordered = np.zeros((kernel, kernel, channels, padded))
    ordered[..., :filters] = weight.transpose(2, 3, 1, 0)
    return ordered


def _from_pixels(layer: Layer, source: Source) -> tuple[float, ndarray]:
    """Return what a pixel counts for and, of each filter, what all its weights come to at paper.

    Outside the picture is what is 0 once normalised, :func:`_outside`; that it is 0 there and a
    pixel of 0 is not goes into the shift of the first norm.
    """
    if layer.added:
        raise ExportError("a first block with residual=true cannot be exported to C")
    unit = 1 / (255 * source.facts.std)
    weights = layer.weight.sum((2, 3))
    if layer.apart is not None:
        weights = weights * layer.apart.sum((1, 2))
    return unit, weights.sum(1) * unit * _outside(source)


def _outside(source: Source) -> float:
    """Return the pixel that is 0 when it is normalised, as everything outside the picture is."""
    return source.facts.mean * 255


def _floating(
    source: Source, layers: list[Layer], places: int
) -> tuple[list[Array], dict[str, Any]]:
    """Return the arrays of a network in floats, and what else the header needs."""
    arrays = {}
    unit, paper = _from_pixels(layers[0], source)
    for number, layer in enumerate(layers, 1):
        key, scale, shift = layer.block, layer.scale, layer.shift
        if number == 1:
            scale, shift = scale * unit, shift - scale * paper
        if layer.apart is not None:
            arrays[f"apart{key}"] = _apart(layer.apart)
        arrays[f"conv{key}"] = _filters(layer.weight, layer.padded)
        arrays[f"norm{number}"] = np.stack([scale, shift])
    linear = _linear(source)
    weight = linear.weight.detach().double().numpy() / places
    arrays["linear"] = np.pad(weight, ((0, 0), (0, layers[-1].filters - weight.shape[1])))
    arrays["linear_bias"] = linear.bias.detach().double().numpy()
    made = [Array(name, "float", values) for name, values in arrays.items()]
    return made, {"outside": _literal(_outside(source))}


def _whole(source: Source, layers: list[Layer], places: int) -> tuple[list[Array], dict[str, Any]]:
    """Return the arrays of a network in whole numbers, and what else the header needs.

    The fields of the table that depend on it are added to the layers.
    """
    arrays: dict[str, Array] = {}

    def array(name: str, kind: str, values: ndarray) -> None:
        values = np.round(values)
        most = np.iinfo(kind.removesuffix("_t"))
        assert values.min(initial=0) >= most.min, name
        assert values.max(initial=0) <= most.max, name
        arrays[name] = Array(name, kind, values)

    outside = round(_outside(source))
    coming, paper = _from_pixels(layers[0], source)  # what 1 of the map that comes in stands for
    tops = _tops(source)
    for number, (layer, top) in enumerate(zip(layers, tops, strict=True), 1):
        key, unit = layer.block, coming
        if layer.apart is not None:
            most = np.abs(layer.apart).max((1, 2)).clip(1e-9) / 127
            rounded = np.round(layer.apart / most[:, None, None])
            # All channels to one scale, and to 16 bits.
            to_one = np.round(most / most.max() * 1024).clip(1)
            largest = float((np.abs(rounded).sum((1, 2)) * 255 * to_one).max())
            if largest > 2**31 - 2**17:
                raise ExportError(f"block {key}: its depthwise sums need more than 32 bits")
            shift = max(1, math.ceil(math.log2(largest / 32767)))
            layer.table["apart_shift"] = shift
            unit = unit * float(most.max()) / 1024 * 2**shift
            array(f"apart{key}", "int8_t", _apart(rounded))
            array(f"apart{key}_scale", "int16_t", _apart(to_one[:, None, None]))
        else:
            layer.table["apart_shift"] = 0
        weight_unit = np.abs(layer.weight).max((1, 2, 3)).clip(1e-9) / 127
        rounded = np.round(layer.weight / weight_unit[:, None, None, None])
        largest = float(np.abs(rounded).sum((1, 2, 3)).max()) * (32767 if layer.separable else 255)
        if largest > 2**30:
            raise ExportError(f"block {key}: its sums need more than 32 bits")
        array(f"conv{key}", "int8_t", _filters(rounded, layer.padded))
        scale, shifted = layer.scale * unit * weight_unit, layer.shift
        if number == 1 and layer.separable:
            shifted = shifted - layer.scale * paper
        elif number == 1:
            shifted = shifted - scale * rounded.sum((1, 2, 3)) * _outside(source)
        going = top / 255
        array(f"norm{number}", "int32_t", _norm(layer, scale, shifted, coming, going))
        coming = going
    linear = _linear(source)
    real = linear.weight.detach().double().numpy() * coming / places
    bias = linear.bias.detach().double().numpy()
    most = (np.abs(real).sum(1) * 255 * places + np.abs(bias)).max() / 2**30
    unit = max(float(most), float(np.abs(real).max()) / 32767)
    array("linear", "int16_t", real / unit)
    array("linear_bias", "int32_t", bias / unit)
    made = list(arrays.values())
    negative = any((a.values[:, 1] < 0).any() for a in made if a.name.startswith("norm"))
    return made, {"outside": outside, "unit": f"{unit:.9g}", "negative": negative}


def _norm(
    layer: Layer, scale: ndarray, shift: ndarray, coming: float, going: float
) -> Float[ndarray, "f 3"]:
    """Return of each filter what is added to its sum, what that is multiplied by, and up to where.

    The sum, moved right by ``before`` bits, times the second and moved right by ``after`` bits, is
    a byte. Both go to the table of the layer, as does what comes in if it is added.

    Args:
        layer: Where they go.
        scale, shift: What turns a filter's sum of whole numbers into what the network has there.
        coming, going: What 1 stands for in the map that comes in, and in the one that goes out.
    """
    after = 24
    if layer.added:
        ratio = coming / going
        after = min(23, 31 - math.ceil(math.log2(255 * ratio + 1)))
        layer.table["added"] = max(1, round(ratio * 2**after))
    size = np.abs(scale).clip(1e-30)
    full = 255.49 * going / size  # the sum that is 255
    before = max(0, math.ceil(math.log2(np.median(full) / 2**17)))
    times = np.round(size * 2.0**before / going * 2.0**after).clip(1, 2**31 - 1)
    limit = np.minimum(np.floor(255.49 * 2.0**after / times), 2**31 - 1)
    layer.table |= {"before": before, "after": after}
    added = np.round(shift / size).clip(-(2**30), 2**30)
    return np.stack([added, np.where(scale < 0, -times, times), limit], 1)


@torch.inference_mode()
def _tops(source: Source) -> list[float]:
    """Return of each layer's map which value is its 255: the one with the least squared error."""
    # In float64, as the layers are.
    network = copy.deepcopy(source.network).double()
    assert isinstance(network, CompactCNN)
    if isinstance(align := network.alignment, Alignment):
        align.basis, align.places = align.basis.double(), align.places.double()
    x = network.alignment(source.facts.standardise(source.calibration().double() / 255))
    tops = []
    for block in network.blocks:
        assert isinstance(block, ConvBlock)
        for norm in block.norms:
            assert isinstance(norm, nn.BatchNorm2d)
            y = block.apply_once(x, norm)
            x = x + y if block.residual else y
            tops.append(_top(x.flatten()))
        if block.pool == "after_activation":
            x = nn.functional.max_pool2d(x, 2)
    return tops


def _top(values: Tensor) -> float:
    some = values[values > 0]
    some = some[:: 1 + len(some) // 300_000]
    if not len(some):
        return 1.0
    best = (math.inf, 1.0)
    for share in np.linspace(0.4, 1, 31):
        top = float(some.max()) * float(share)
        rounded = (some * (255 / top)).round().clamp(max=255) * (top / 255)
        best = min(best, (float((rounded - some).square().mean()), top))
    return best[1]


def _linear(source: Source) -> nn.Linear:
    assert isinstance(source.network, CompactCNN)
    return source.network.linear


def _literal(value: float) -> str:
    """Write a float32 so that it reads back as itself."""
    text = f"{value:.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")
