"""A trained network in one HTML file, which reads drawn digits without a server."""

import base64
import hashlib
import json
import re

import numpy as np
from numpy import ndarray

from mnist_lit.errors import UserError, need
from mnist_lit.evaluation.page import filled
from mnist_lit.export.layers import layers_of, linear_of
from mnist_lit.export.source import Run, Source
from mnist_lit.facts import THINNEST
from mnist_lit.network.alignment import LIMITS

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
    scales: list[ndarray] = []
    weights: list[ndarray] = []

    def put(values: ndarray, parts: list[ndarray]) -> int:
        """Add numbers to those of the page, and return the position of the first."""
        parts.append(values.ravel())
        return sum(map(len, parts[:-1]))

    def rounded(values: ndarray) -> tuple[int, ndarray]:
        """Add weights in 16 bits; return their position, and units along the last axis."""
        unit = np.abs(values).reshape(-1, values.shape[-1]).max(0) / 32767
        unit[unit == 0] = 1
        return put(np.round(values / unit), weights), unit

    described, filters = [], {}
    for layer in layers_of(network):
        if layer.block not in filters:
            first, channels = -1, np.ones(layer.channels)
            if layer.depthwise is not None:
                first, channels = rounded(layer.depthwise.transpose(1, 2, 0))
            at, unit = rounded(layer.weight.transpose(2, 3, 1, 0) * channels[:, None])
            filters[layer.block] = {"depthwise": first, "weights": at}, unit
        places, unit = filters[layer.block]
        norm = put(np.concatenate([layer.scale * unit, layer.shift]), scales)
        described.append({**layer.numbers(*SHAPE, *ORDER), **places, "norm": norm})
    weight, bias = linear_of(network)
    at, unit = rounded(weight.T)
    linear = {"weights": at, "norm": put(np.concatenate([unit, bias]), scales)}
    floats, whole = (np.concatenate(parts) for parts in (scales, weights))
    numbers = floats.astype("<f4").tobytes() + whole.astype("<i2").tobytes()
    page = filled(
        "export/web.html",
        source=source,
        layers=described,
        linear=linear,
        numbers=base64.b64encode(numbers).decode(),
        floats=len(floats),
        count=len(whole),
        **LIMITS,
        thinnest=THINNEST,
    )
    return (page.replace("HASHES", _hashes(page), 1) + "\n").encode()


def _hashes(page: str) -> str:
    """Return the directives of a Content-Security-Policy for the page's style and scripts."""
    sources = {"style": "style-src", "script": "script-src"}
    for kind, text in re.findall(r"<(style|script)\b[^>]*>(.*?)</\1>", page, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        sources[kind] += f" 'sha256-{digest}'"
    return "; ".join(sources.values())


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
