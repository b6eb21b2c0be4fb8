"""A trained network as one C header, for machines without an operating system.

The code is ``engine.h``: the rows of a picture pass through the layers one after the other, each
layer keeps only the rows that it still needs, and zeros are skipped. This module makes the arrays
and the table of layers. A batch norm becomes a scale and a shift for each filter. In int8, weights
have a scale for each filter, maps are bytes, sums have 32 bits, and a norm multiplies and shifts
bits (Jacob et al., Quantization and training of neural networks for efficient
integer-arithmetic-only inference, 2018). That needs no floating point, so every compiler and
processor gives the same bits.
"""

import copy
import ctypes
import hashlib
import math
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mnist_lit.errors import UserError
from mnist_lit.export.layers import Layer, layers_of, linear_of
from mnist_lit.export.source import Run, Source, rendered
from mnist_lit.network.alignment import LIMITS, Alignment
from mnist_lit.network.fused import compile_c

LANES = 4  # filters are padded to a multiple of it
LARGEST_ALIGNED = 128  # side of an image, in pixels; the moments of larger ones overflow
# Fields that the table leaves out if they are 0 in every layer.
OPTIONAL = ("wide", "depthwise_shift", "norm_before_pool", "residual")
ARM = "arm-none-eabi-gcc"
SELFTEST = 8  # pictures
PLACES = 2  # decimals of their logits, if those are floats
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-align", "-Werror", "-pedantic")
LOGIT = re.compile(r"^#define \w+_LOGIT (\S+)f$", flags=re.MULTILINE)  # only with whole numbers
OPTIONS = ["-std=c99", "-O3", *WARNINGS, "-shared", "-fPIC"]

# By their names in the header; whole numbers have the dtype of their type in C.
Arrays = dict[str, ndarray]
Row = dict[str, int]  # fields of the header's table


def make(source: Source, int8: bool) -> bytes:
    """Return the header.

    Raises:
        UserError: The engine does not support the network, or the C compiler fails.
    """
    side, seen = source.facts.side, source.compact.seen
    reach = max(side, math.ceil(seen * source.compact.description["shrink"]))
    if source.compact.description["align"] and reach > LARGEST_ALIGNED:
        raise UserError(f"the C code aligns images of up to {LARGEST_ALIGNED} pixels a side")
    first, *others = layers_of(source.compact)
    if first.residual:
        raise UserError("a first block with residual=true cannot be exported to C")
    # A pixel of 0 is not 0 after normalisation, so the first map already has its padding.
    border = first.padding
    layers = [replace(first, size=seen + 2 * border, padding=0), *others]
    if not int8:
        layers = [_widened(layer) for layer in layers]
    arrays, rows, more = (_whole if int8 else _floating)(source, layers)
    table, length = _table(layers, rows, 2 if int8 else LANES)
    under = [layer.weight[0].size for layer in layers]  # weights of a filter
    pictures = source.calibration()[:SELFTEST].numpy()
    weights = (tensor.numpy().tobytes() for tensor in source.network.state_dict().values())
    header = partial(
        rendered,
        "engine.h",
        source=source,
        version=version("mnist-lit"),
        digest=hashlib.sha256(b"".join(weights)).hexdigest(),
        int8=int8,
        layers=layers,
        table=table,
        fields={name: _unsigned(max(row[name] for row in table)) for name in table[0]},
        arrays=arrays,
        text=_text,
        border=border,
        span=max(layer.kernel + layer.pool for layer in layers),
        maps=length,
        at_t=_unsigned(max(n * row["padded"] for n, row in zip(under, table, strict=True))),
        row_t=_unsigned(layers[0].size + border),
        **LIMITS,
        reach=4 * reach,
        squeeze=2 ** max(0, math.ceil(math.log2(2 * 65025 * side**6)) - 46),
        pictures=pictures,
        **_sizes(layers, under, max(row.get("wide", 0) for row in table), more["stem"], int8),
        **more,
    )
    # Floats depend on the compiler, so few of their places are written.
    _, run = _compiled(header(answers=None), source, "-O0")
    answers = run(pictures) if int8 else run(pictures).round(PLACES)
    return header(answers=answers, tolerance=2 * 10**-PLACES).encode()


def _sizes(
    layers: list[Layer], under: list[int], half: int, stem: int, int8: bool
) -> dict[str, Any]:
    """Return what the header needs to know of separable layers, of which ``half`` is the widest."""
    deep = [layer for layer in layers if layer.depthwise is not None]
    usual = max((layer.kernel for layer in deep), default=0)
    # Where the fast code would need more than one column outside.
    slow = any(
        one.kernel != usual or one.padding > 1 or (one.padding and not one.pool and one.out % 2)
        for one in deep
    )
    listing = zip(layers[stem > 0 :], under[stem > 0 :], strict=True)
    mixed = [count for one, count in listing if one.depthwise is None]
    listed = _up(max([*mixed, 2 if int8 else half]), 2)  # some processors take two at once
    entries = max(listed, 2 * half) if int8 else listed
    return {"half": half, "usual": usual, "slow": slow, "listed": listed, "entries": entries}


def _compiled(header: str, source: Source, *options: str) -> tuple[ctypes.CDLL, Run]:
    """Compile a header to a shared library; return it, and its function from images to logits."""
    dtype = np.dtype(np.int32 if LOGIT.search(header) else np.float32)
    around = rendered(
        "around.c",
        name=source.name,
        sum_t="int32_t" if dtype == np.int32 else "float",
        arrays=re.findall(r"^static const .*? (\w+)\[", header, flags=re.MULTILINE),
    )
    with tempfile.TemporaryDirectory() as folder:
        # Of a program in its standard input, a compiler would take the working folder's header.
        (Path(folder) / "network.h").write_text(header, "utf-8")
        (Path(folder) / "around.c").write_text(around, "utf-8")
        library = f"{folder}/network.so"
        compile_c([*OPTIONS, *options, "-o", library, f"{folder}/around.c"])
        code = ctypes.CDLL(library)

    def run(pixels: ndarray) -> ndarray:
        logits = np.empty((len(pixels), len(source.facts.classes)), dtype)
        code.many(pixels.ctypes, len(pixels), pixels[0].size, logits.ctypes, logits.shape[1])
        return logits

    return code, run


def load(content: bytes, source: Source) -> tuple[Run, list[str]]:
    """Compile a header to a shared library, and return its function from images to logits."""
    text = content.decode()
    code, run = _compiled(text, source)
    notes = [f"constants {code.constants():,} bytes, memory {code.memory():,} bytes"]
    if shutil.which(ARM):
        notes.append(_flash(content, source.name))
    unit = LOGIT.search(text)
    factor = np.float32(unit[1] if unit else 1)
    return lambda pixels: run(pixels).astype(np.float32) * factor, notes


def _flash(header: bytes, name: str) -> str:
    """Return the bytes of code and constants compiled for a Cortex-M3, as a note."""
    options = ["-mcpu=cortex-m3", "-mthumb", "-std=c99", "-O2", f"-D{name.upper()}_IMPLEMENTATION"]
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/network.o"
        command = [ARM, *options, "-c", "-x", "c", "-", "-o", program]
        subprocess.run(command, input=header, check=True)
        said = subprocess.check_output([ARM.replace("gcc", "size"), program], text=True)
    text, data = map(int, said.splitlines()[1].split()[:2])
    return f"flash {text + data:,} bytes on a Cortex-M3 ({ARM} -O2)"


def _table(layers: list[Layer], more: list[Row], lanes: int) -> tuple[list[Row], int]:
    """Return a row of the table for each layer, and the length of all their maps.

    Args:
        layers: In order.
        more: The last fields of each row.
        lanes: Channels of a separable layer are padded to a multiple of it.
    """
    table, end = [], 0
    for layer, others in zip(layers, more, strict=True):
        row = {
            "map": end,  # where its rows begin in `maps`
            "slots": min(layer.kernel + layer.pool, layer.size),  # number of rows kept
            **layer.numbers("size", "out", "channels", "filters"),
            "padded": _up(layer.filters),
            **layer.numbers("kernel", "padding", "pool"),
            "wide": _up(layer.channels, lanes) * (layer.depthwise is not None),
            **others,
        }
        table.append(row)
        end += row["slots"] * layer.size * layer.channels
    unused = {name for name in OPTIONAL if not any(row.get(name) for row in table)}
    table = [{name: row[name] for name in row if name not in unused} for row in table]
    # The code reads beyond a row of a separable layer, and ignores what it finds there.
    return table, end + max(row.get("wide", 1) for row in table)


def _up(count: int, multiple: int = LANES) -> int:
    """Round up to a multiple."""
    return -(-count // multiple) * multiple


def _unsigned(largest: int) -> str:
    """Return the smallest unsigned type for numbers up to ``largest``."""
    return next(f"uint{bits}_t" for bits in (8, 16, 32) if largest < 2**bits)


def _widened(layer: Layer) -> Layer:
    """Return a layer with filters and channels zero-padded to a multiple of four."""
    filters = -layer.filters % LANES
    channels = -layer.channels % LANES if layer.channels > 1 else 0
    depthwise = layer.depthwise
    if depthwise is not None:
        depthwise = np.pad(depthwise, ((0, channels), (0, 0), (0, 0)))
    weight = np.pad(layer.weight, ((0, filters), (0, channels), (0, 0), (0, 0)))
    scale, shift = (np.pad(values, (0, filters)) for values in (layer.scale, layer.shift))
    return replace(layer, weight=weight, depthwise=depthwise, scale=scale, shift=shift)


def _by_place(weight: ndarray) -> ndarray:
    """Reorder ``[F, C, k, k]`` as ``[k, k, C, F]``, filters padded to a multiple of four."""
    return np.pad(weight.transpose(2, 3, 1, 0), 3 * [(0, 0)] + [(0, -len(weight) % LANES)])


def _by_pairs(weight: ndarray) -> ndarray:
    """Reorder ``[F, C, 1, 1]`` as ``[F/4, C/2, 2, 2, 2]``: pairs of filters, channel, filter."""
    filters, channels = weight.shape[:2]
    padded = np.pad(weight[:, :, 0, 0], ((0, -filters % LANES), (0, channels % 2)))
    return padded.reshape(-1, 2, 2, (channels + 1) // 2, 2).transpose(0, 3, 1, 4, 2)


def _from_pixels(layer: Layer, source: Source) -> tuple[float, float, ndarray]:
    """Return constants of the first layer, which replace the normalisation of the pixels.

    Returns:
        The factor of a pixel; the pixel value that is 0 after normalisation, used outside the
        picture; and for each filter its sum over an image of that value, to subtract in the norm.
    """
    unit, outside = 1 / (255 * source.facts.std), source.facts.mean * 255
    weights = layer.weight.sum((2, 3))
    if layer.depthwise is not None:
        weights = weights * layer.depthwise.sum((1, 2))
    return unit, outside, weights.sum(1) * unit * outside


def _floating(source: Source, layers: list[Layer]) -> tuple[Arrays, list[Row], dict[str, Any]]:
    """Return arrays, last fields of the table, and other values of the header, in floats."""
    arrays: Arrays = {}
    first = layers[0]
    unit, outside, paper = _from_pixels(first, source)
    adapted = replace(first, scale=first.scale * unit, shift=first.shift - first.scale * paper)
    for number, layer in enumerate([adapted, *layers[1:]], 1):
        if layer.depthwise is not None:
            arrays[f"depthwise{layer.block}"] = _by_place(layer.depthwise[:, None])
        if layer.mixed:
            arrays[f"conv{layer.block}"] = _by_place(layer.weight)
        arrays[f"norm{number}"] = np.stack([layer.scale, layer.shift])
    weight, bias = linear_of(source.compact)
    weight = weight / layers[-1].out ** 2
    arrays["linear"] = np.pad(weight, ((0, 0), (0, layers[-1].filters - weight.shape[1])))
    arrays["linear_bias"] = bias
    rows = [layer.numbers("norm_before_pool", "residual") for layer in layers]
    return arrays, rows, {"outside": _literal(outside), "stem": 0}


def _whole(source: Source, layers: list[Layer]) -> tuple[Arrays, list[Row], dict[str, Any]]:
    """Return the same in whole numbers."""
    arrays: Arrays = {}
    rows: list[Row] = []
    # `coming` is the real value of 1 in the input map of a layer.
    coming, outside, paper = _from_pixels(layers[0], source)
    # The kernel of a first layer whose sums need no list, in a network where none needs one.
    first, *others = layers
    alone = others and first.channels == 1 and first.pool and not first.norm_before_pool
    listed = [layer for layer in others if layer.depthwise is None]
    stem = first.kernel if alone and first.depthwise is None and not listed else 0
    for number, (layer, top) in enumerate(zip(layers, _tops(source), strict=True), 1):
        key, unit, depthwise_shift = layer.block, coming, 0
        if layer.depthwise is not None:
            rounded, to_one, depthwise_shift, factor = _depthwise(layer.depthwise[:, None], key)
            unit *= factor
            scales = to_one.astype("<i2").reshape(-1, 1).view(np.int8)
            weights = rounded.astype(np.int8).reshape(len(scales), -1)
            arrays[f"depthwise{key}"] = np.hstack([weights, scales])
        weight_unit = np.abs(layer.weight).max((1, 2, 3)).clip(1e-9) / (127 if layer.mixed else 1)
        rounded = np.round(layer.weight / weight_unit[:, None, None, None])
        most = 255 if layer.depthwise is None else 32767
        if float(np.abs(rounded).sum((1, 2, 3)).max()) * most > 2**30:
            raise UserError(f"block {key}: its sums need more than 32 bits")
        if layer.mixed:
            by_use = _by_place if layer.depthwise is None else _by_pairs
            # The code reads a word of four, so one more behind the first layer's.
            ordered = np.pad(rounded.ravel(), (0, 1)) if number == 1 and stem else by_use(rounded)
            arrays[f"conv{key}"] = ordered.astype(np.int8)
        scale, shift = layer.scale * unit * weight_unit, layer.shift
        if number == 1 and layer.depthwise is not None:
            shift = shift - layer.scale * paper
        elif number == 1:
            shift = shift - scale * rounded.sum((1, 2, 3)) * outside
        norm, before, after, residual = _norm(layer, scale, shift, coming, top / 255)
        arrays[f"norm{number}"] = norm.astype(np.int32)
        row = {"before": before, "after": after, "depthwise_shift": depthwise_shift}
        rows.append({**row, **layer.numbers("norm_before_pool"), "residual": residual})
        coming = top / 255
    weight, bias = linear_of(source.compact)
    places = layers[-1].out ** 2
    real = weight * coming / places
    largest = (np.abs(real).sum(1) * 255 * places + np.abs(bias)).max() / 2**30
    unit = max(float(largest), float(np.abs(real).max()) / 32767)
    arrays["linear"] = np.round(real / unit).astype(np.int16)
    arrays["linear_bias"] = np.round(bias / unit).astype(np.int32)
    negative = any((layer.scale < 0).any() for layer in layers)
    more = {"outside": round(outside), "unit": f"{unit:.9g}", "negative": negative, "stem": stem}
    return arrays, rows, more


def _depthwise(weight: ndarray, block: int) -> tuple[ndarray, ndarray, int, float]:
    """Quantise a depthwise convolution to bytes, and its sums to 16 bits.

    Returns:
        The weights, in whole numbers; a factor for the sum of each channel, which brings all sums
        to one scale; the number of bits of the right shift after it; the real value of 1 then.
    """
    most = np.abs(weight).max((1, 2, 3), keepdims=True).clip(1e-9) / 127
    rounded = np.round(weight / most)
    to_one = np.round(most / most.max() * 1024).clip(1)
    largest = float((np.abs(rounded).sum((1, 2, 3), keepdims=True) * 255 * to_one).max())
    if largest > 2**31 - 2**17:
        raise UserError(f"block {block}: its depthwise sums need more than 32 bits")
    shift = max(1, math.ceil(math.log2(largest / 32767)))
    return rounded, to_one, shift, float(most.max()) / 1024 * 2**shift


def _norm(
    layer: Layer, scale: ndarray, shift: ndarray, coming: float, going: float
) -> tuple[ndarray, int, int, int]:
    """Return for each filter an addend, a factor and a limit of its sum: ``[F, 3]``.

    The sum plus the addend is shifted right by ``before`` bits, clamped to the limit, multiplied by
    the factor and shifted right by ``after`` bits: the result is a byte. Also return ``before``,
    ``after`` and the factor of the input map that a residual block adds.

    Args:
        layer: The layer; only ``residual`` is used.
        scale, shift: They map a filter's sum of whole numbers to the value in the network.
        coming, going: The real value of 1 in the input map, and in the output map.
    """
    after, residual = 24, 0
    if layer.residual:
        ratio = coming / going
        after = min(23, 31 - math.ceil(math.log2(255 * ratio + 1)))
        residual = max(1, round(ratio * 2**after))
    size = np.abs(scale).clip(1e-30)
    full = 255.49 * going / size  # the sum that becomes 255
    before = max(0, math.ceil(math.log2(np.median(full) / 2**17)))
    times = np.round(size * 2.0**before / going * 2.0**after).clip(1, 2**31 - 1)
    limit = np.minimum(np.floor(255.49 * 2.0**after / times), 2**31 - 1)
    added = np.round(shift / size).clip(-(2**30), 2**30)
    norm = np.stack([added, np.where(scale < 0, -times, times), limit], 1)
    return norm, before, after, residual


@torch.inference_mode()
def _tops(source: Source) -> list[float]:
    """Return the real value of 255 in each layer's map, with the least squared error."""
    # In float64, as the layers are.
    network: Any = copy.deepcopy(source.compact).double()
    if isinstance(align := network.alignment, Alignment):
        align.basis, align.places = align.basis.double(), align.places.double()
    x = network.alignment(source.facts.standardise(source.calibration().double() / 255))
    tops = []
    for block in network.blocks:
        for norm in block.norms:
            y = block.apply_once(x, norm)
            x = x + y if block.residual else y
            tops.append(_top(x.flatten()))
        if block.pool == "after_activation":
            x = torch.max_pool2d(x, 2)
    return tops


def _top(values: Tensor) -> float:
    some = values[values > 0]
    some = some[:: 1 + len(some) // 300_000]
    if not len(some):
        return 1.0

    def error(top: float) -> float:
        rounded = (some * (255 / top)).round().clamp(max=255) * (top / 255)
        return float((rounded - some).square().mean())

    return min((float(some.max()) * np.linspace(0.4, 1, 31)).tolist(), key=error)


def _text(values: ndarray) -> str:
    """Return the values of an array as C source."""
    numbers = values.ravel().tolist()
    words = [_literal(v) if values.dtype.kind == "f" else str(v) for v in numbers]
    return ",\n    ".join(", ".join(words[i : i + 16]) for i in range(0, len(words), 16))


def _literal(value: float) -> str:
    """Return a float32 as C source, without loss."""
    text = f"{value:.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")
