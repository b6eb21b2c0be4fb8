"""The formats that a network can be exported to. Needs no torch."""

from typing import NamedTuple


class Format(NamedTuple):
    """One format.

    Attributes:
        ending: Of its file's name.
        module: Has ``write`` and ``load``.
        int8: Whether the weights are rounded to 8 bits; a few images may then be read otherwise.
        compact: Whether only a :class:`~mnist_lit.network.compact.CompactCNN` can be written so.
    """

    ending: str
    module: str
    int8: bool = False
    compact: bool = False


FORMATS = {
    "onnx": Format(".onnx", "mnist_lit.export.onnx"),
    "onnx-int8": Format("-int8.onnx", "mnist_lit.export.onnx", int8=True),
    "torch": Format(".pt2", "mnist_lit.export.torch"),
    "c": Format(".h", "mnist_lit.export.c", compact=True),
    "c-int8": Format("-int8.h", "mnist_lit.export.c", int8=True, compact=True),
}
