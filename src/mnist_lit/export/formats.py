"""The formats that a network can be exported to. Needs no torch."""

from typing import NamedTuple


class Format(NamedTuple):
    """One format.

    Attributes:
        words: What it is, for a person.
        ending: Of its file's name.
        module: Has ``write`` and ``load``.
        int8: Whether the weights are rounded to 8 bits; a few images may then be read otherwise.
        compact: Whether only a :class:`~mnist_lit.network.compact.CompactCNN` can be written so.
    """

    words: str
    ending: str
    module: str
    int8: bool = False
    compact: bool = False


FORMATS = {
    "onnx": Format("for ONNX Runtime and what reads ONNX", ".onnx", "mnist_lit.export.onnx"),
    "onnx-int8": Format(
        *("the same with 8-bit weights", "-int8.onnx", "mnist_lit.export.onnx"), int8=True
    ),
    "safetensors": Format("weights to share", ".safetensors", "mnist_lit.export.safetensors"),
    "torch": Format("a torch.export program: PyTorch alone", ".pt2", "mnist_lit.export.torch"),
    "c": Format(*("a C99 header that needs no library", ".h", "mnist_lit.export.c"), compact=True),
    "c-int8": Format(
        *("the same in whole numbers alone", "-int8.h", "mnist_lit.export.c"),
        int8=True,
        compact=True,
    ),
    "arduino": Format(
        *("a library for the Arduino IDE, with a sketch", ".zip", "mnist_lit.export.arduino"),
        int8=True,
        compact=True,
    ),
    "web": Format(
        *("a page to draw on, with the network inside", ".html", "mnist_lit.export.web"),
        compact=True,
    ),
}
