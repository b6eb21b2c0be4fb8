"""Digits that boards read from a camera's picture by ``camera_digit.h`` of the archives.

``python benchmarks/camera.py`` draws 1,000 test digits into pictures of each size: dark ink on
light paper, with uneven light and noise. It prints how many ``final`` and ``nano`` read right
in int8 C code and by ``mnist-lit predict``, and for the header alone the instructions, flash and
stack on a Cortex-M4 (QEMU). ``results/edge.json`` keeps them.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from edge import RESULTS, correct, measure, on_pc, stream, write_digits
from numpy import ndarray
from PIL import Image

from mnist_lit import MNISTDataModule, predict
from mnist_lit.checkpoints import pretrained
from mnist_lit.export.arduino import CAMERA
from mnist_lit.export.run import export
from mnist_lit.export.source import rendered

COUNT = 1000
ON_BOARD = 10  # pictures, because QEMU's flash has 4 MB
SIZES = ((96, 96), (160, 120))  # width, height
HEADER = """
#include "camera_digit.h"
struct camera_state {{ int unused; }};
static int camera_predict(struct camera_state *state, const uint8_t *picture, int32_t *logits) {{
    static uint8_t pixels[784];
    (void)state;
    int failed = camera_digit(picture, {width}, {height}, pixels);
    for (int i = 0; logits && i < 784; i++) logits[i % 10] = 31 * logits[i % 10] + pixels[i];
    return failed ? 255 : {answer};
}}
"""
READ = '#include "{name}.h"\nstatic struct {name}_state own;\n'


def draw(rng: np.random.Generator, digit: ndarray, width: int, height: int) -> ndarray:
    """Draw a digit, ``uint8 [28, 28]``, somewhere on paper: ``uint8 [height, width]``."""
    side = int(rng.integers(min(width, height) // 2, 9 * min(width, height) // 10))
    left, top = rng.integers(width - side + 1), rng.integers(height - side + 1)
    ink = np.zeros((height, width))
    scaled = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    ink[top : top + side, left : left + side] = np.asarray(scaled) / 255
    x, y = np.arange(width) / width - 0.5, np.arange(height)[:, None] / height - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.6) * (np.cos(angle) * x + np.sin(angle) * y)
    light = 255 * rng.uniform(0.55, 0.9) * (1 + slope)
    noisy = light * (1 - rng.uniform(0.4, 0.8) * ink) + rng.normal(0, 5, ink.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def measure_size(width: int, height: int, folder: Path) -> dict[str, Any]:
    """Measure pictures of a size."""
    test = MNISTDataModule().images("test")
    labels = test.labels[:COUNT].numpy()
    rng = np.random.default_rng(0)
    digits = test.images[:COUNT, 0].numpy()
    pictures = np.stack([draw(rng, digit, width, height) for digit in digits])
    given = {"width": width, "height": height}
    found: dict[str, Any] = {}
    for network in ("final", "nano"):
        export(pretrained.load(network), "c-int8", folder / f"{network}.h")
        answer = f"{network}_predict(&own, pixels, 0)"
        text = READ.format(name=network) + HEADER.format(answer=answer, **given)
        (folder / "camera.h").write_text(f"#define {network.upper()}_IMPLEMENTATION\n{text}")
        said = stream("gcc -O2", "camera", folder, pictures, "int32_t")
        read = predict(pictures, network, device="cpu", single=True)
        right = sum(
            one.status != "none" and one.text == str(label)
            for one, label in zip(read, labels, strict=True)
        )
        found[network] = {
            "right": correct(said, labels),
            "without a digit": int((said["digit"] == 255).sum()),
            "right by predict": right,
        }
    (folder / "camera.h").write_text(HEADER.format(answer=0, **given))
    write_digits(folder / "digits.h", pictures[:ON_BOARD])
    found["header"] = measure("camera", "m4", folder, on_pc("camera", folder))
    return found


def main() -> None:
    """Measure."""
    results = json.loads(RESULTS.read_text())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "camera_digit.h").write_text(rendered(f"archive/{CAMERA}"))
        results["camera"] = {
            f"{width}×{height}": measure_size(width, height, folder) for width, height in SIZES
        }
    print(json.dumps(results["camera"], indent=1, ensure_ascii=False))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
