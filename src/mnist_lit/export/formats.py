"""The formats that a network can be exported to. Needs no torch."""

from typing import NamedTuple


class Format(NamedTuple):
    """One format.

    Attributes:
        words: Description in the help.
        ending: Ending of the file's name.
        int8: Whether the weights are rounded to 8 bits; a few answers may then differ.
        tolerance: Largest difference of the logits otherwise.
        module: The module with ``make`` and ``load``, if not of the format's name without -int8.
    """

    words: str
    ending: str
    int8: bool = False
    tolerance: float = 1e-4
    module: str = ""


FORMATS = {
    "onnx": Format("for ONNX Runtime and other programs that read ONNX", ".onnx"),
    "onnx-int8": Format("the same with 8-bit weights", "-int8.onnx", int8=True),
    "safetensors": Format("weights to share", ".safetensors"),
    "torch": Format("a torch.export program: PyTorch alone", ".pt2"),
    "c": Format("a C99 header that needs no library", ".h"),
    "c-int8": Format("the same, only in whole numbers", "-int8.h", int8=True),
    "arduino": Format(
        "a library for Arduino, PlatformIO, ESP-IDF, Zephyr, CMake", ".zip", int8=True
    ),
    "embedded": Format("another name of arduino", ".zip", int8=True, module="arduino"),
    "web": Format("a page to draw on, with the network inside", ".html", tolerance=0.01),
}
