"""Train the network that decides whether a picture shows a digit at all.

``python research/nothing.py FOLDER`` draws pictures without digits and writes them with MNIST's
training images into a folder in MNIST's layout (eleven classes: the digits, and ``none``). It
prints the command that trains on the folder, and the command that puts the result into the package.
No test image of MNIST is used; 5,000 of its training images are the test images of the folder.

The pictures without digits are letters and symbols of matplotlib's fonts, scribbles, boxes, filled
shapes, patterns, and digits of MNIST's training images that are mirrored, turned, cut, crossed out
or joined. Letters with the shape of a digit (O, I, l, S, Z, B and the like) are left out.
"""

import argparse
import gzip
import string
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import strokes
import torch
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage
from scipy.interpolate import CubicSpline
from tqdm import tqdm

from mnist_lit import MNISTDataModule
from mnist_lit.checkpoints.read import read_file
from mnist_lit.checkpoints.write import packed
from mnist_lit.errors import PictureError
from mnist_lit.files import write_bytes
from mnist_lit.inference.pictures import lay_out
from mnist_lit.inference.reading import REJECTOR
from mnist_lit.inference.segment import segment

FONTS = (
    "DejaVuSans*",
    "DejaVuSerif*",
    "STIXGeneral*",
    "cmr10",
    "cmss10",
    "cmti10",
    "cmtt10",
    "cmb10",
)
# Letters that do not look like a digit, in any font or handwriting.
LETTERS = "".join(c for c in string.ascii_letters if c not in "OoDIiLlSsZzBbgqYy")
SIGNS = "#%&@?+*=<>~^{}[]$€§"
# Letters of other scripts, and digits of one, that do not look like our digits.
SCRIPTS = (
    *"ΓΔΛΞΠΣΦΨΩαεηκλμνπτυφχψωГДЖИЙКЛПФЦШЩЫЮЯдживйклмнптфцшщыюяԱԲԳԴԵԸԺԻԼԽԿՀՂՄՆՈՊՋՌՍՎՐՓՖ",
    *"אהחטכלמעפצקשתبتثجحخسشصضطظغكلني٢٣٤",
)
# Arrows, signs of mathematics, filled shapes, and pictures such as ☎ and ✂.
SYMBOLS = (
    *map(chr, (*range(0x2190, 0x21BE), *range(0x2701, 0x274D), *range(0x2600, 0x2654))),
    *"∀∃∏∑√∝∞∠∧∨∩∪≈≠≡≤≥⊂⊃⊆⊇⊕⊗⊞⊠⊢⊣⊤⋈■▬▲▼◀▶◆◈●◐◑◒◓◔◕◖◗◢◣◤◥★♚♛♜♝♞♟♠♣♥♦♪♫♯⚑⚒⚓⚔⚖",
)
NONE = 10
SHARES = {  # of the drawn pictures
    "letters": 0.3,
    "signs": 0.04,
    "scripts": 0.05,
    "symbols": 0.05,
    "shapes": 0.06,
    "scribbles": 0.1,
    "curves": 0.12,
    "boxes": 0.12,
    "patterns": 0.03,
    "mirrored": 0.06,
    "pairs": 0.06,
    "crossed": 0.04,
    "cut": 0.03,
}
SIDE = 120
SANS = slice(4)  # the first fonts have all scripts and symbols


class Drawing:
    """Draws pictures with and without digits.

    Args:
        images: Digits, ``uint8 [N, 28, 28]``.
        labels: Their labels, ``[N]``.
        rng: Source of all random numbers.
    """

    def __init__(self, images: ndarray, labels: ndarray, rng: Generator) -> None:
        self.images = images
        self.labels = labels
        self.rng = rng
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        files = [file for name in FONTS for file in sorted(folder.glob(f"{name}.ttf"))]
        self.fonts = [ImageFont.truetype(str(file), 80) for file in files]

    def digit(self, among: str = "0123456789") -> ndarray:
        """Return a digit as light ink, ``uint8 [28, 28]``."""
        while True:
            number = int(self.rng.integers(len(self.images)))
            if str(self.labels[number]) in among:
                return self.images[number]

    def text(self, characters: Sequence[str], fonts: slice = slice(None)) -> ndarray:
        """Draw a character in any of the fonts, turned, slanted, thickened and bent a little."""
        character = str(self.rng.choice(list(characters)))
        among = self.fonts[fonts]
        font = among[int(self.rng.integers(len(among)))]
        paper = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(paper).text((SIDE / 2, SIDE / 2), character, 255, font, anchor="mm")
        slant = self.rng.uniform(-0.25, 0.25)
        paper = paper.transform(
            paper.size,
            Image.Transform.AFFINE,
            (1, slant, -slant * SIDE / 2, 0, 1, 0),
            Image.Resampling.BILINEAR,
        )
        paper = paper.rotate(self.rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        thicker = int(self.rng.integers(0, 4))
        if thicker:
            paper = paper.filter(ImageFilter.MaxFilter(2 * thicker + 1))
        return self.bent(np.asarray(paper))

    def bent(self, drawn: ndarray) -> ndarray:
        """Bend a drawing a little at random, as handwriting varies."""
        far = self.rng.uniform(0, 6)
        noise = self.rng.normal(size=(2, *drawn.shape))
        field = ndimage.gaussian_filter(noise, (0, SIDE / 8, SIDE / 8))
        places = np.indices(drawn.shape) + far * field / field.std()
        return ndimage.map_coordinates(drawn, places, order=1)

    def letters(self) -> ndarray:
        """Draw a letter."""
        return self.text(LETTERS)

    def signs(self) -> ndarray:
        """Draw a sign."""
        return self.text(SIGNS)

    def scripts(self) -> ndarray:
        """Draw a letter of another script."""
        return self.text(SCRIPTS, SANS)

    def symbols(self) -> ndarray:
        """Draw a symbol."""
        return self.text(SYMBOLS, SANS)

    def shapes(self) -> ndarray:
        """Draw a filled disc, polygon or star, or a half of it."""
        corners = int(self.rng.choice([3, 4, 5, 6, 60]))
        angles = np.arange(2 * corners) * np.pi / corners + self.rng.uniform(0, np.pi)
        star = self.rng.uniform(0.3, 0.7) if corners < 60 and self.rng.random() < 0.4 else 1
        radii = self.rng.uniform(20, 55, (2, 1)) * np.where(np.arange(2 * corners) % 2, star, 1)
        points = SIDE / 2 + radii * np.stack([np.cos(angles), np.sin(angles)])
        paper = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(paper).polygon([*map(tuple, points.T)], 255)
        drawn = self.bent(np.asarray(paper))
        if self.rng.random() < 0.4:
            drawn = drawn[:, : SIDE // 2]
        return np.rot90(drawn, int(self.rng.integers(4)))

    def scribbles(self) -> ndarray:
        """Draw one to three random walks."""
        paper = Image.new("L", (SIDE, SIDE))
        pen = ImageDraw.Draw(paper)
        width = int(self.rng.integers(4, 12))
        for _ in range(int(self.rng.integers(1, 4))):
            place = self.rng.uniform(20, SIDE - 20, 2)
            pace = self.rng.normal(0, 14, 2)
            points = [tuple(place)]
            for _ in range(int(self.rng.integers(3, 14))):
                pace = 0.6 * pace + self.rng.normal(0, 12, 2)
                place = np.clip(place + pace, 8, SIDE - 8)
                points.append(tuple(place))
            pen.line(points, 255, width, "curve")
        return np.asarray(paper)

    def curves(self) -> ndarray:
        """Draw a smooth curve through a few random points."""
        paper = Image.new("L", (SIDE, SIDE))
        places = self.rng.uniform(12, SIDE - 12, (int(self.rng.integers(4, 10)), 2))
        curve = CubicSpline(np.arange(len(places)), places)
        points = [tuple(point) for point in curve(np.linspace(0, len(places) - 1, 150))]
        ImageDraw.Draw(paper).line(points, 255, int(self.rng.integers(3, 11)), "curve")
        return np.asarray(paper)

    def boxes(self) -> ndarray:
        """Draw one to three rectangles and triangles, empty or filled."""
        paper = Image.new("L", (SIDE, SIDE))
        pen = ImageDraw.Draw(paper)
        if self.rng.random() < 0.4:
            left, top = self.rng.uniform(8, 45, 2)
            right, bottom = self.rng.uniform(SIDE - 45, SIDE - 8, 2)
            pen.rectangle((left, top, right, bottom), None, 255, int(self.rng.integers(2, 10)))
            return self.bent(np.asarray(paper))
        for _ in range(int(self.rng.integers(1, 4))):
            x, y = (sorted(self.rng.uniform(8, SIDE - 8, 2).tolist()) for _ in range(2))
            full = 255 if self.rng.random() < 0.4 else None
            width = int(self.rng.integers(3, 10))
            if self.rng.random() < 0.7:
                pen.rectangle((x[0], y[0], x[1], y[1]), full, 255, width)
            else:
                pen.polygon([(x[0], y[1]), (x[1], y[1]), (sum(x) / 2, y[0])], full, 255, width)
        return np.asarray(paper)

    def patterns(self) -> ndarray:
        """Draw random squares, as of a QR code, or blots."""
        cells = int(self.rng.integers(4, 22))
        squares = self.rng.random((cells, cells))
        if self.rng.random() < 0.5:
            kept = squares > self.rng.uniform(0.3, 0.7)
            small = Image.fromarray((255 * kept).astype(np.uint8))
            return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))
        small = Image.fromarray((255 * squares).astype(np.uint8))
        smooth = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        return np.where(smooth > self.rng.uniform(90, 190), 255, 0).astype(np.uint8)

    def mirrored(self) -> ndarray:
        """Mirror a digit, or turn it by 90°, so that it is none."""
        if self.rng.random() < 0.5:
            return self.digit("34679")[:, ::-1]
        return np.rot90(self.digit("234578"), int(self.rng.choice([1, 3])))

    def pairs(self) -> ndarray:
        """Draw two or three digits in a row, or two in a column, that touch or nearly touch."""
        above = self.rng.random() < 0.25
        strips = []
        for _ in range(2 if above else int(self.rng.choice([2, 3], p=[0.8, 0.2]))):
            digit = self.digit().T if above else self.digit()
            used = np.flatnonzero((digit > 60).any(axis=0))
            strips.append(digit[:, used[0] : used[-1] + 1])
        wide = sum(strip.shape[1] for strip in strips) + 12
        paper = np.zeros((34, wide), np.uint8)
        left = 2
        for strip in strips:
            top = int(self.rng.integers(1, 6))
            place = paper[top : top + 28, left : left + strip.shape[1]]
            np.maximum(place, strip, out=place)
            left += strip.shape[1] + int(self.rng.integers(-2, 4))
        return paper.T if above else paper

    def crossed(self) -> ndarray:
        """Draw a digit with lines through it, or in a box."""
        paper = Image.fromarray(self.digit()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(paper)
        width = int(self.rng.integers(4, 10))
        if self.rng.random() < 0.3:
            pen.rectangle((14, 8, SIDE - 14, SIDE - 8), None, 255, width)
        for _ in range(
            int(self.rng.integers(2, 5))
        ):  # with one line a seven would be a crossed seven
            pen.line(self.rng.uniform(5, SIDE - 5, 4).tolist(), 255, width)
        return np.asarray(paper)

    def cut(self) -> ndarray:
        """Join a half of a wide digit with a part of another one."""
        one, two = self.digit("023456789"), self.digit("023456789")
        middle = int(self.rng.integers(12, 17))
        return np.concatenate([one[:, middle:23], two[:, 5:middle]], axis=1)


def draw(drawing: Drawing, count: int) -> Iterator[tuple[ndarray, int]]:
    """Yield images laid out as MNIST's digits are, ``uint8 [28, 28]``, and their labels.

    Half of them show no digit. A tenth are digits of the fonts. The rest are the drawing's digits,
    also laid out again: otherwise traces of the layout would separate the classes.

    Args:
        drawing: Draws the images.
        count: Number of images.
    """
    kinds: list[Callable[[], ndarray]] = [getattr(drawing, name) for name in SHARES]
    shares = np.array(list(SHARES.values()))
    for number in tqdm(range(count), disable=None, unit="image"):
        while True:
            if number < 0.5 * count:
                made = kinds[int(drawing.rng.choice(len(kinds), p=shares / shares.sum()))]()
                label = NONE
            elif number < 0.6 * count:
                label = number % 10
                made = drawing.text(str(label))
            else:
                label = number % 10
                made = drawing.digit(str(label))
            try:
                (found,) = segment(photographed(made, drawing.rng), several=False).found
                yield lay_out(found.ink), label
            except PictureError:  # no ink is found
                continue
            break


def photographed(light: ndarray, rng: Generator) -> ndarray:
    """Return light ink as on a photograph: of random size, turned, blurred, with noise."""
    side = max(light.shape)
    scale = np.exp(rng.uniform(np.log(9), np.log(130))) / side
    size = [max(4, round(length * scale)) for length in light.shape[::-1]]
    paper = Image.fromarray(np.pad(light, side // 8)).resize(
        (size[0] * 5 // 4, size[1] * 5 // 4), Image.Resampling.BICUBIC
    )
    paper = paper.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
    paper = paper.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.012) * max(paper.size)))
    gray = np.asarray(paper).astype(np.float32) / 255
    gray = 0.1 + rng.uniform(0.3, 0.8) * gray + rng.normal(0, rng.uniform(0, 0.03), gray.shape)
    return gray.clip(0, 1).astype(np.float32)


def write_idx(folder: Path, name: str, images: ndarray, labels: ndarray) -> None:
    """Write ``uint8 [N, 28, 28]`` and ``[N]`` in MNIST's layout."""
    for kind, array, code in (("images-idx3", images, 2051), ("labels-idx1", labels, 2049)):
        header = struct.pack(f">{1 + array.ndim}i", code, *array.shape)
        with gzip.open(folder / f"{name}-{kind}-ubyte.gz", "wb", 1) as file:
            file.write(header + array.astype(np.uint8).tobytes())


def main() -> None:
    """Write the folder that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="to write; with --take, that of a run")
    parser.add_argument("--take", action="store_true", help="put a run's network in the package")
    parser.add_argument("--count", type=int, default=50_000, help="default: %(default)s")
    options = parser.parse_args()
    if options.take:
        whole = read_file(options.folder / "checkpoints" / "last.ckpt")
        write_bytes(REJECTOR, packed({k: whole[k] for k in ("hyper_parameters", "state_dict")}))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    digits = MNISTDataModule().images("train")
    images, labels = digits.images[:, 0].numpy(), digits.labels.numpy()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    parts = {"train": (order[5000:], options.count), "t10k": (order[:5000], options.count // 12)}
    for name, (some, count) in parts.items():
        forms = np.arange(count // 5) % 10  # those of people and displays
        written = strokes.draw(torch.from_numpy(forms), torch.Generator().manual_seed(count))[:, 0]
        pool = np.concatenate([images[some], written.numpy()])
        drawing = Drawing(pool, np.concatenate([labels[some], forms]), rng)
        drawn, meant = zip(*draw(drawing, count), strict=True)
        some = some[: count // 2]
        write_idx(
            *(options.folder, name, np.concatenate([images[some], np.stack(drawn), written])),
            np.concatenate([labels[some], np.array(meant), forms]),
        )
    names = ",".join(f'"{name}"' for name in [*string.digits, "none"])
    print(
        f"python train.py experiment=small data=idx data.root={options.folder} "
        f"'data.classes=[{names}]' data.centred=true data.name=digits-or-none "
        "requirements.enforce=false\n"
        "python research/nothing.py --take outputs/<date>/<time>"
    )


if __name__ == "__main__":
    main()
