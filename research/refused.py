"""Count the refused pictures: of those without a digit, and of digits.

``python research/refused.py`` draws both, reads them with ``final-world`` as ``mnist-lit predict``
does, prints the shares and writes ``results/refused.json`` beside it. It needs ``pip install
Hershey-Fonts segno font-roboto font-amatic-sc font-intuitive font-fredoka-one font-manrope
font-source-serif-pro font-hanken-grotesk``: fonts and codes that were not used for training or
tuning. Letters with the shape of a digit (O, D, I, l, S, Z, B, b, g, q and the like) are left out.
The digits are MNIST's test digits as photographs and, as a separate group, digits of the fonts.
"""

import argparse
import io
import json
import string
import sys
from collections.abc import Callable, Iterator
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torchmetrics.functional.classification import binary_auroc
from tqdm import tqdm

from mnist_lit import MNISTDataModule, load_pretrained, predict
from mnist_lit.facts import MNIST
from mnist_lit.inference.pictures import prepare_for
from mnist_lit.inference.reading import digit_probabilities

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests make the photographs

from tests.inference.photographs import photograph

RESULTS = Path(__file__).with_name("results") / "refused.json"
FONTS = (
    *("amatic_sc", "fredoka_one", "hanken_grotesk", "intuitive", "manrope", "roboto"),
    "source_serif_pro",
)
LETTERS = "".join(c for c in string.ascii_letters if c not in "OoDIiLlSsZzBbgqYy")
HANDS = ("scripts", "scriptc", "cursive", "rowmans", "timesi", "gothiceng", "gothitt", "futural")
SIDE = 220
COUNT = 300  # of each kind


def paper(rng: Generator) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a white sheet, and a pen for it."""
    image = Image.new("L", (SIDE, SIDE), 255)
    return image, ImageDraw.Draw(image)


def files() -> list[Path]:
    """Return the files of the fonts."""
    folders = [Path(str(import_module(f"font_{name}").__file__)).parent for name in FONTS]
    return sorted(file for folder in folders for file in folder.rglob("*.ttf"))


def printed(characters: str, rng: Generator) -> Image.Image:
    """Draw a character in any of the fonts."""
    image, pen = paper(rng)
    font = ImageFont.truetype(
        str(rng.choice(np.array(files(), dtype=str))), int(rng.integers(60, 150))
    )
    pen.text((SIDE / 2, SIDE / 2), str(rng.choice(list(characters))), 0, font, anchor="mm")
    return image


def written(rng: Generator) -> Image.Image:
    """Draw a letter as strokes of a pen, with a random shift of each point."""
    known: Any = import_module("HersheyFonts").HersheyFonts()
    known.load_default_font(str(rng.choice(HANDS)))
    known.normalize_rendering(100)
    lines = np.array(list(known.lines_for_text(str(rng.choice(list(LETTERS))))), float)
    lines = lines * (1, -1) + rng.normal(0, 1, (len(lines), 1, 2))
    lines += SIDE / 2 - (lines.reshape(-1, 2).max(axis=0) + lines.reshape(-1, 2).min(axis=0)) / 2
    image, pen = paper(rng)
    width = int(rng.integers(4, 13))
    for one, two in lines:
        pen.line([*one, *two], 0, width)
        for x, y in (one, two):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 0)
    return image


def boxes(rng: Generator) -> Image.Image:
    """Draw an empty box."""
    image, pen = paper(rng)
    left, top = rng.uniform(15, 80, 2)
    right, bottom = rng.uniform(130, SIDE - 15, 2)
    pen.rectangle((left, top, right, bottom), None, 0, int(rng.integers(3, 14)))
    return image


def codes(rng: Generator) -> Image.Image:
    """Draw a QR code."""
    stored = io.BytesIO()
    import_module("segno").make(str(rng.integers(10**12))).save(
        stored, kind="png", scale=int(rng.integers(3, 8))
    )
    return Image.open(stored).convert("L")


def strokes(rng: Generator) -> Image.Image:
    """Draw a random smooth curve with several turns."""
    image, pen = paper(rng)
    knots = rng.uniform(20, SIDE - 20, (int(rng.integers(4, 8)), 2))
    steps = np.linspace(0, len(knots) - 1, 120)
    curve = np.stack([ndimage.map_coordinates(knots[:, k], [steps], order=3) for k in (0, 1)], 1)
    pen.line([tuple(point) for point in curve], 0, int(rng.integers(5, 16)), "curve")
    return image


def textures(rng: Generator) -> Image.Image:
    """Draw smoothed noise."""
    noise = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), rng.uniform(1, 14))
    noise = (noise - noise.min()) / np.ptp(noise)
    return Image.fromarray((255 * noise).astype(np.uint8))


KINDS: dict[str, Callable[[Generator], Image.Image]] = {
    "printed letters": lambda rng: printed(LETTERS, rng),
    "written letters": written,
    "empty boxes": boxes,
    "QR codes": codes,
    "random strokes": strokes,
    "textures": textures,
}


def photographs(rng: Generator) -> Iterator[Image.Image]:
    """Yield photographs of test digits."""
    test = MNISTDataModule().images("test")
    for number in range(1000):
        yield Image.open(io.BytesIO(photograph(test.images[number, 0].numpy(), rng)))


def read(pictures: list[Image.Image]) -> dict[str, Any]:
    """Count the statuses of pictures; return them with each probability of being a digit."""
    network = load_pretrained("final-world")
    said = []
    scores = []
    for picture in tqdm(pictures, unit="picture", disable=None, leave=False):
        said.append(predict(picture, network)[0].status)
        found = prepare_for(MNIST, picture, single=True)
        if isinstance(found, str):
            scores.append(0.0)
        else:
            scores += digit_probabilities([found[0].candidates[0].pixels], torch.device("cpu"))
    counts = {status: said.count(status) for status in ("read", "unsure", "none")}
    return {"n": len(pictures), **counts, "scores": scores}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Measure."""
    options = command_line().parse_args()
    rng = np.random.default_rng(0)
    groups = {"digits": read(list(photographs(rng)))}
    real = groups["digits"]["scores"]
    printed_digits = [printed(string.digits, rng) for _ in range(COUNT)]
    groups["printed digits"] = read(printed_digits)
    for name, make in KINDS.items():
        groups[name] = read([make(rng) for _ in range(COUNT)])
    for name, found in groups.items():
        scores = torch.tensor(real + found.pop("scores"))
        labels = torch.tensor([1] * len(real) + [0] * found["n"])
        found["auroc"] = round(float(binary_auroc(scores, labels)), 4)
        kept = found["read"] / found["n"]
        print(f"{name:<16}{found}  not read as sure {1 - kept:.1%}", flush=True)
    results = {"command": "python research/refused.py", "date": date.today().isoformat()}
    options.output.write_text(json.dumps({**results, "groups": groups}, indent=1) + "\n")


if __name__ == "__main__":
    main()
