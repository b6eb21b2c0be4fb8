"""A trained network as one C99 header, for machines without an operating system.

The batch norms become a scale and a shift of each channel. With int8 weights every filter has a
scale of its own, which joins its channel's; the maps stay in floats.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from mnist_lit.errors import ExportError, reason
from mnist_lit.export.source import Logits, Run, Source
from mnist_lit.network.alignment import BLANK, STEEPEST, Alignment
from mnist_lit.network.compact import CompactCNN, ConvBlock
from mnist_lit.network.fused import CompileError, compile_c

# What the header's functions are tested with: images in, a float for each class out.
PROGRAM = """
#include <stdio.h>
#include "HEADER"
int main(void) {
    uint8_t pixels[PIXELS];
    float logits[CLASSES];
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        if (predict_logits(pixels, logits) != predict(pixels)) return 1;
        fwrite(logits, sizeof *logits, CLASSES, stdout);
        fflush(stdout);
    }
    return 0;
}
"""

FUNCTIONS = """
/* Keep the largest of each 2x2, in place. */
static inline void mnist_lit_pool(float *map, int channels, int size) {
    int to = size / 2;
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < to; y++)
            for (int x = 0; x < to; x++) {
                const float *corner = map + (c * size + 2 * y) * size + 2 * x;
                float best = corner[0];
                if (corner[1] > best) best = corner[1];
                if (corner[size] > best) best = corner[size];
                if (corner[size + 1] > best) best = corner[size + 1];
                map[(c * to + y) * to + x] = best;
            }
}

/* Convolve with stride 1 and so many zeros around; depthwise filters have a channel each. With
 * pool, only the largest of each 2x2 is kept. Maps are [channel][row][column]. */
static inline void mnist_lit_conv(const float *in, int channels, int size, const weight_t *w, int k,
                                  int zeros, int filters, int depthwise, int pool, float *out) {
    static float map[PIXELS];
    int count = depthwise ? 1 : channels, to = size + 2 * zeros - k + 1, pixels = size * size;
    int kept = pool ? to / 2 * (to / 2) : to * to;
    for (int f = 0; f < filters; f++) {
        for (int i = 0; i < to * to; i++) map[i] = 0.0f;
        for (int tap = 0; tap < count * k * k; tap++) {
            const float *from = in + (depthwise ? f : tap / (k * k)) * pixels;
            int dy = tap / k % k - zeros, dx = tap % k - zeros;
            int left = dx < 0 ? -dx : 0, right = dx > size - to ? size - dx : to;
            float weight = (float)w[f * count * k * k + tap];
            for (int y = dy < 0 ? -dy : 0; y < to && y + dy < size; y++)
                for (int x = left; x < right; x++)
                    map[y * to + x] += weight * from[(y + dy) * size + x + dx];
        }
        if (pool) mnist_lit_pool(map, 1, to);
        for (int i = 0; i < kept; i++) out[f * kept + i] = map[i];
    }
}

/* Scale and shift each channel, cut off below 0, and add what went in if it is given. */
static inline void mnist_lit_norm_relu(float *map, int channels, int size, const float *scale,
                                const float *shift, const float *added) {
    for (int c = 0; c < channels; c++)
        for (int i = c * size * size; i < (c + 1) * size * size; i++) {
            float value = map[i] * scale[c] + shift[c];
            map[i] = (value > 0.0f ? value : 0.0f) + (added ? added[i] : 0.0f);
        }
}

static inline void mnist_lit_scale(float *map, int channels, int size, const float *scale) {
    for (int i = 0; i < channels * size * size; i++) map[i] *= scale[i / (size * size)];
}
"""

ALIGN = """
/* Move the centre of mass of what differs from the paper to the middle, and undo the slant; in and
 * out are other places. */
static inline void mnist_lit_align(const float *in, float paper, float *out) {
    const float middle = (SIDE - 1) / 2.0f;
    float mass = 0.0f, x = 0.0f, y = 0.0f, xy = 0.0f, yy = 0.0f, slant = 0.0f;
    for (int i = 0; i < SIDE * SIDE; i++) {
        float ink = in[i] - paper, dx = (float)(i % SIDE) - middle, dy = (float)(i / SIDE) - middle;
        mass += ink, x += ink * dx, y += ink * dy, xy += ink * dx * dy, yy += ink * dy * dy;
    }
    if (mass > BLANKf) {
        x /= mass, y /= mass, xy = xy / mass - x * y, yy = yy / mass - y * y;
        slant = xy / (yy > 1e-6f ? yy : 1e-6f);
        slant = slant < -STEEPf ? -STEEPf : slant > STEEPf ? STEEPf : slant;
    } else x = y = 0.0f;
    for (int i = 0; i < SIDE * SIDE; i++) {
        float dy = (float)(i / SIDE) - middle, v = (float)(i / SIDE) + y;
        float u = (float)(i % SIDE) + x + slant * dy, sum = 0.0f;
        int left = (int)(u + 2.0f * SIDE) - 2 * SIDE, top = (int)(v + 2.0f * SIDE) - 2 * SIDE;
        for (int row = top; row <= top + 1; row++)
            for (int column = left; column <= left + 1; column++) {
                float down = v - (float)row, across = u - (float)column;
                if (row < 0 || row >= SIDE || column < 0 || column >= SIDE) continue;
                sum += (in[row * SIDE + column] - paper) * (1.0f - (down < 0 ? -down : down)) *
                       (1.0f - (across < 0 ? -across : across));
            }
        out[i] = sum + paper;
    }
}
""".replace("BLANK", str(BLANK)).replace("STEEP", str(STEEPEST))


def make(source: Source, int8: bool) -> bytes:
    """Return the header, with what it says of itself on top."""
    return header(source, int8).encode()


@contextmanager
def load(content: bytes, source: Source) -> Iterator[Run]:
    """Compile a header with a program around it that answers images with logits."""
    classes, side = len(source.facts.classes), source.facts.side
    text = PROGRAM.replace("HEADER", "network.h").replace("PIXELS", str(side * side))
    text = text.replace("CLASSES", str(classes))
    options = ["-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-pedantic", "-x", "c", "-"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "network.h").write_bytes(content)
        program = Path(folder) / "program"
        try:
            compile_c([*options, "-I", folder, "-o", str(program)], text)
            process = subprocess.Popen(
                [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except (CompileError, OSError) as error:  # programs may be forbidden to run there
            raise ExportError(f"the export cannot be checked: {reason(error)}") from None
        with process:
            into, out_of = process.stdin, process.stdout
            assert into is not None
            assert out_of is not None

            def run(pixels: ndarray) -> Logits:
                rows = []
                for image in pixels:
                    into.write(image.tobytes())
                    answer = b""
                    while len(answer) < 4 * classes:
                        part = out_of.read(4 * classes - len(answer))
                        if not part:
                            raise ExportError("the export cannot be checked: its program ended")
                        answer += part
                    rows.append(np.frombuffer(answer, dtype=np.float32))
                return np.stack(rows)

            yield run
            into.close()


def header(source: Source, int8: bool) -> str:
    """Return the text of a header with ``predict`` and ``predict_logits``.

    Args:
        source: Its network is a :class:`CompactCNN`.
        int8: Whether the weights are rounded to 8 bits.
    """
    network, facts = source.network, source.facts
    assert isinstance(network, CompactCNN)
    side, classes = facts.side, len(facts.classes)
    arrays: list[str] = []
    steps: list[str] = []
    size, channels, largest = side, 1, side * side

    def array(name: str, values: Tensor, kind: str = "float") -> None:
        numbers = values.detach().flatten().tolist()
        words = [f"{n:d}" if kind == "int8_t" else _literal(n) for n in numbers]
        lines = [", ".join(words[i : i + 10]) for i in range(0, len(words), 10)]
        body = ",\n    ".join(lines)
        arrays.append(f"static const {kind} mnist_lit_{name}[{len(words)}] = {{\n    {body}}};")

    def filters(name: str, weight: Tensor) -> Tensor:
        """Add the filters and return what each has to be multiplied by."""
        if not int8:
            array(name, weight)
            return torch.ones(len(weight))
        scale = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        rounded = (weight.detach() / scale.view(-1, *[1] * (weight.ndim - 1))).round()
        array(name, rounded.to(torch.int8), "int8_t")
        return scale

    functions = FUNCTIONS
    if isinstance(network.alignment, Alignment):
        functions = ALIGN.replace("SIDE", str(side)) + functions
        paper = _literal(network.alignment.paper)
        steps += [f"mnist_lit_align(a, {paper}, b);", "t = a; a = b; b = t;"]
    for number, block in enumerate(network.blocks, 1):
        assert isinstance(block, ConvBlock)
        width = block.conv.out_channels
        if isinstance(block.depthwise, nn.Conv2d):
            unit = filters(f"depthwise{number}", block.depthwise.weight)
            if int8:
                array(f"depthwise{number}_scale", unit)
        unit = filters(f"conv{number}", block.conv.weight)
        for repeat, norm in enumerate(block.norms, 1):
            assert isinstance(norm, nn.BatchNorm2d)
            name = f"norm{number}" + (f"_{repeat}" if len(block.norms) > 1 else "")
            scale, shift = _fold(norm, block.conv.bias)
            array(f"{name}_scale", scale * unit)
            array(f"{name}_shift", shift)
            given = "a"
            largest = max(largest, channels * size**2)
            if isinstance(block.depthwise, nn.Conv2d):
                steps.append(
                    f"mnist_lit_conv(a, {channels}, {size}, mnist_lit_depthwise{number}, "
                    f"{_taps(block.depthwise)}, {channels}, 1, 0, c);"
                )
                size = _side(block.depthwise, size)
                if int8:
                    steps.append(
                        f"mnist_lit_scale(c, {channels}, {size}, "
                        f"mnist_lit_depthwise{number}_scale);"
                    )
                given = "c"
            pooled = block.pool == "after_conv"
            steps.append(
                f"mnist_lit_conv({given}, {channels}, {size}, mnist_lit_conv{number}, "
                f"{_taps(block.conv)}, {width}, 0, {int(pooled)}, b);"
            )
            size = _side(block.conv, size) // (2 if pooled else 1)
            largest = max(largest, width * size**2)
            added = "a" if block.residual else "0"
            steps.append(
                f"mnist_lit_norm_relu(b, {width}, {size}, mnist_lit_{name}_scale, "
                f"mnist_lit_{name}_shift, {added});"
            )
            steps.append("t = a; a = b; b = t;")
            channels = width
        if block.pool == "after_activation":
            steps.append(f"mnist_lit_pool(a, {channels}, {size});")
            size //= 2
    unit = filters("linear", network.linear.weight)
    array("linear_scale", unit)
    array("linear_bias", network.linear.bias)
    body = "\n    ".join(steps)
    what = "digit" if facts.noun == "digits" else "class"
    about = "\n".join(f" * {key}: {value}" for key, value in source.about.items())
    return f"""/* Made by mnist-lit; C99, needs no library.
{about}
 *
 * predict(pixels) returns the {what} on a {side}x{side} image, rows from the top, 0 for the
 * background and 255 for ink; predict_logits also gives the {classes} logits. Not for several
 * threads at once.
 */
#ifndef MNIST_LIT_H
#define MNIST_LIT_H
#include <stdint.h>

typedef {"int8_t" if int8 else "float"} weight_t;

{chr(10).join(arrays)}
{functions.replace("PIXELS", str(side * side))}
static inline int predict_logits(const uint8_t pixels[{side**2}], float logits[{classes}]) {{
    static float buffers[3][{largest}];
    float *a = buffers[0], *b = buffers[1], *c = buffers[2], *t;
    int best = 0;
    for (int i = 0; i < {side**2}; i++)
        a[i] = ((float)pixels[i] / 255.0f - {facts.mean}f) / {facts.std}f;
    {body}
    (void)c;
    for (int f = 0; f < {channels}; f++) {{
        float sum = 0.0f;
        for (int i = 0; i < {size**2}; i++) sum += a[f * {size**2} + i];
        b[f] = sum / {size**2}.0f;
    }}
    for (int d = 0; d < {classes}; d++) {{
        float sum = 0.0f;
        for (int f = 0; f < {channels}; f++)
            sum += b[f] * (float)mnist_lit_linear[d * {channels} + f];
        logits[d] = sum * mnist_lit_linear_scale[d] + mnist_lit_linear_bias[d];
        if (logits[d] > logits[best]) best = d;
    }}
    return best;
}}

static inline int predict(const uint8_t pixels[{side**2}]) {{
    float logits[{classes}];
    return predict_logits(pixels, logits);
}}
#endif
"""


def _fold(
    norm: nn.BatchNorm2d, bias: Tensor | None
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Return what a batch norm, after a convolution's bias, multiplies by and adds."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    return scale.detach(), (norm.bias - mean * scale).detach()


def _taps(conv: nn.Conv2d) -> str:
    """Return the side of a kernel and how many zeros are put around the map."""
    return f"{conv.kernel_size[0]}, {int(conv.padding[0])}"


def _side(conv: nn.Conv2d, size: int) -> int:
    return size + 2 * int(conv.padding[0]) - conv.kernel_size[0] + 1


def _literal(value: float) -> str:
    """Write a float32 so that it reads back as itself."""
    text = f"{value:.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")
