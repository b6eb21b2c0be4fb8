"""A trained network in one HTML file, which reads drawn digits without a server."""

import base64
import json

import numpy as np
from numpy import ndarray

from mnist_lit.errors import UserError, need
from mnist_lit.evaluation.page import filled
from mnist_lit.export.layers import layers_of, linear_of
from mnist_lit.export.source import Run, Source
from mnist_lit.facts import THINNEST
from mnist_lit.network.alignment import STEEPEST

racer = need("py_mini_racer", "export")  # V8, which runs the page's code here
# The attributes of a layer that the page needs.
SHAPE = ("channels", "filters", "kernel", "size", "padding", "out")
ORDER = ("pool", "norm_before_pool", "residual")


def make(source: Source, int8: bool) -> bytes:
    """Return the page.

    Raises:
        UserError: The network's training images are not laid out as MNIST's are.
    """
    network, facts = source.compact, source.facts
    if not facts.centred:
        raise UserError(f"{facts.name}: a page to draw on needs images laid out as MNIST's are")
    layers = layers_of(network)
    parts: list[ndarray] = []

    def put(values: ndarray) -> int:
        """Add numbers to those of the page, and return the position of the first."""
        parts.append(np.ascontiguousarray(values, np.float32).ravel())
        return sum(map(len, parts)) - len(parts[-1])

    described, filters = [], {}
    for layer in layers:
        if layer.block not in filters:
            depthwise = layer.depthwise
            first = -1 if depthwise is None else put(depthwise.transpose(1, 2, 0))
            weights = put(layer.weight.transpose(2, 3, 1, 0))
            filters[layer.block] = {"depthwise": first, "weights": weights}
        norm = put(np.concatenate([layer.scale, layer.shift]))
        described.append({**layer.numbers(*SHAPE, *ORDER), **filters[layer.block], "norm": norm})
    linear = put(np.concatenate([values.ravel() for values in linear_of(network)]))
    numbers = np.concatenate(parts)
    page = filled(
        "export/web.html",
        source=source,
        layers=described,
        linear=linear,
        numbers=base64.b64encode(numbers.astype("<f4").tobytes()).decode(),
        count=len(numbers),
        steepest=STEEPEST,
        thinnest=THINNEST,
    )
    return (page + "\n").encode()


def load(content: bytes, source: Source) -> tuple[Run, list[str]]:
    """Run the network's part of the page in V8."""
    _, _, script = content.decode().partition('<script id="network">')
    engine = racer.MiniRacer()
    engine.eval(script.partition("</script>")[0])

    def run(pixels: ndarray) -> ndarray:
        rows = json.dumps(pixels.reshape(len(pixels), -1).tolist())
        answer = engine.eval(f"JSON.stringify({rows}.map((pixels) => logits(pixels)))")
        return np.array(json.loads(answer), np.float32)

    return run, []
