"""Test digits as people's pictures of many kinds."""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage

from tests.inference.photographs import on_paper, photograph

Digits = Iterable[tuple[ndarray, str]]  # uint8 [28, 28] each, and its label
COLOURS = {  # pairs of equal gray: ink, paper
    "red on green": ((200, 0, 0), (0, 102, 0)),
    "red on blue": ((76, 0, 0), (0, 0, 200)),
    "orange on turquoise": ((255, 140, 0), (64, 190, 224)),
    "green on magenta": ((0, 130, 60), (170, 0, 230)),
}


@dataclass(frozen=True)
class Case:
    """A picture, and the text on it."""

    picture: Image.Image
    text: str


def cropped(digit: ndarray) -> ndarray:
    """Return a digit without its margin."""
    rows, columns = (np.flatnonzero((digit > 60).any(axis=axis)) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def resized(gray: ndarray, width: int, height: int) -> ndarray:
    """Scale ``uint8 [h, w]``."""
    kind = Image.Resampling.BICUBIC if width > gray.shape[1] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(gray).resize((width, height), kind))


def either(gray: ndarray, rng: Generator) -> Image.Image:
    """Return light ink on dark, or dark on light."""
    return Image.fromarray(gray if rng.random() < 0.5 else 255 - gray)


def low8(digits: Digits, rng: Generator) -> Iterator[Case]:
    """8×8 pixels without a margin."""
    for digit, label in digits:
        yield Case(either(_filling(digit, 8), rng), label)


def low16(digits: Digits, rng: Generator) -> Iterator[Case]:
    """16×16 pixels without a margin: gray as USPS has them, black and white as Semeion has them."""
    for number, (digit, label) in enumerate(digits):
        if number % 2:
            small = np.where(resized(cropped(digit), 16, 16) > 110, 255, 0).astype(np.uint8)
        else:
            small = _filling(digit, 16)
        yield Case(either(small, rng), label)


def _filling(digit: ndarray, side: int) -> ndarray:
    ink = cropped(digit)
    height, width = (max(1, round(side * length / max(ink.shape))) for length in ink.shape)
    small = np.zeros((side, side), np.uint8)
    left, top = (side - width) // 2, (side - height) // 2
    small[top : top + height, left : left + width] = resized(ink, width, height)
    return small


def photographs(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Photographs of a digit somewhere on uneven paper."""
    for digit, label in digits:
        yield Case(Image.open(io.BytesIO(photograph(digit, rng))), label)


def margin(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Digits cut out to the last pixel of ink: half of them photographs, half drawings."""
    for number, (digit, label) in enumerate(digits):
        scale = rng.uniform(4, 10)
        ink = cropped(digit)
        width, height = (max(2, round(side * scale)) for side in ink.shape[::-1])
        large = resized(ink, width, height) / 255
        if number % 2:
            seen = 1.0 - (large > 0.4)
        else:
            y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
            slope = rng.uniform(-0.2, 0.2, 2)
            paper = rng.uniform(0.6, 0.85) + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
            seen = paper * (1 - large * rng.uniform(0.5, 0.85))
            seen = seen + rng.normal(0, rng.uniform(0.01, 0.03), seen.shape)
        gray = (255 * np.clip(seen, 0, 1)).astype(np.uint8)
        yield Case(Image.fromarray(gray), label)


def cells(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Cells of a scanned form: a digit in a frame of thin lines, cut out a little askew."""
    for digit, label in digits:
        side = int(rng.integers(40, 90))
        thick = max(1, round(side * rng.uniform(0.015, 0.05)))
        pad = int(side * 0.3)
        sheet = np.full((side + 2 * pad, side + 2 * pad), 245.0)
        shade = rng.uniform(40, 150)
        for at in (pad, pad + side - thick):
            sheet[at : at + thick, :] = shade
            sheet[:, at : at + thick] = shade
        inner = round(side * rng.uniform(0.55, 0.8))
        top, left = (pad + int(rng.integers(thick, side - thick - inner + 1)) for _ in range(2))
        ink = resized(digit, inner, inner) / 255
        place = sheet[top : top + inner, left : left + inner]
        place[:] = np.minimum(place, 245 - ink * rng.uniform(150, 230))
        turned = Image.fromarray(sheet.astype(np.float32)).rotate(
            rng.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=245
        )
        # Cut so that the picture has all, a part or nothing of each line.
        edges = [pad + int(rng.integers(-thick - 3, thick + 2)) for _ in range(4)]
        whole = side + 2 * pad
        box = (edges[0], edges[1], whole - edges[2], whole - edges[3])
        gray = np.asarray(turned.crop(box)) + rng.normal(0, 4, (box[3] - box[1], box[2] - box[0]))
        yield Case(Image.fromarray(gray.clip(0, 255).astype(np.uint8)), label)


def page(millimetres: float, digits: Digits, rng: Generator) -> Iterator[Case]:
    """A sheet of A4 at 150 dots an inch with one digit of this height."""
    pixels = round(millimetres / 25.4 * 150)
    for digit, label in digits:
        ink = cropped(digit)
        height, width = pixels, max(2, round(pixels * ink.shape[1] / ink.shape[0]))
        large = resized(ink, width, height) / 255
        sheet = np.full((1754, 1240), 240.0)
        top = int(rng.integers(100, 1754 - 100 - height))
        left = int(rng.integers(100, 1240 - 100 - width))
        sheet[top : top + height, left : left + width] -= 190 * large
        sheet += rng.normal(0, 3, sheet.shape)
        yield Case(Image.fromarray(sheet.clip(0, 255).astype(np.uint8)), label)


def colours(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Ink and paper that are equally light."""
    pairs = list(COLOURS.values())
    for number, (digit, label) in enumerate(digits):
        yield Case(_painted(digit, *pairs[number % len(pairs)], rng), label)


def random_colours(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Ink and paper of any two colours that differ by a fifth of the range in one channel."""
    for digit, label in digits:
        while True:
            ink, paper = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
            if np.abs(ink - paper).max() >= 51:
                break
        yield Case(_painted(digit, ink, paper, rng), label)


def _painted(digit: ndarray, ink: Any, paper: Any, rng: Generator) -> Image.Image:
    side = int(rng.integers(120, 260))
    large = resized(digit, side, side)[..., None] / 255
    seen = large * np.asarray(ink, float) + (1 - large) * np.asarray(paper, float)
    seen += rng.normal(0, 2, seen.shape)
    return Image.fromarray(seen.clip(0, 255).astype(np.uint8))


def strokes(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Faint and dashed strokes."""
    for digit, label in digits:
        side = int(rng.integers(150, 300))
        large = resized(digit, side, side) / 255
        y, x = np.mgrid[:side, :side]
        angle = rng.uniform(0, np.pi)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / (side * 0.045))
        large = large * (wave > rng.uniform(-0.6, -0.2))
        seen = 235 - large * rng.uniform(60, 180) + rng.normal(0, 3, large.shape)
        yield Case(Image.fromarray(seen.clip(0, 255).astype(np.uint8)), label)


def numbers(apart: bool, digits: Digits, rng: Generator) -> Iterator[Case]:
    """Photographs of numbers of two to eight digits; all are separate, or some touch."""
    given = list(digits)
    while given:
        count = int(rng.integers(2, 9))
        some, given = given[:count], given[count:]
        if len(some) < 2:
            return
        tall = rng.uniform(30, 90)
        gaps = rng.uniform(*((0.12, 0.5) if apart else (-0.12, 0.1)), len(some))
        yield Case(_photographed(_line([d for d, _ in some], tall, gaps, rng), rng), _text(some))


def lines_of_numbers(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Photographs of two to four lines of two to six digits."""
    given = list(digits)
    while given:
        rows, texts = [], []
        tall = rng.uniform(24, 50)
        for _ in range(int(rng.integers(2, 5))):
            some, given = given[: (count := int(rng.integers(2, 7)))], given[count:]
            if len(some) < 2:
                return
            rows.append(_line([d for d, _ in some], tall, rng.uniform(0.15, 0.5, len(some)), rng))
            texts.append(_text(some))
        wide = max(row.shape[1] for row in rows)
        gap = round(tall * rng.uniform(0.25, 0.8))
        padded = [np.pad(row, ((0, gap), (0, wide - row.shape[1]))) for row in rows]
        yield Case(_photographed(np.concatenate(padded), rng), "\n".join(texts))


def _text(some: Digits) -> str:
    return "".join(label for _, label in some)


def _line(digits: list[ndarray], tall: float, gaps: ndarray, rng: Generator) -> ndarray:
    """Write digits in a row: of nearly the same height, not quite on a line."""
    written = []
    for digit in digits:
        ink = cropped(digit)
        scale = tall * rng.uniform(0.85, 1.15) / max(ink.shape[0], 14)
        height, width = (max(2, round(side * scale)) for side in ink.shape)
        written.append(resized(ink, width, height))
    high = round(tall * 1.6)
    line = np.zeros((high, 40 + sum(one.shape[1] for one in written) + round(tall * 4)), np.uint8)
    left = 20.0
    for one, gap in zip(written, gaps, strict=True):
        height, width = one.shape
        top = int(np.clip((high - height) / 2 + rng.normal(0, 0.06) * tall, 0, high - height))
        place = line[top : top + height, round(left) : round(left) + width]
        np.maximum(place, one, out=place)
        left += width + gap * tall
    used = np.flatnonzero(line.any(axis=0))
    return line[:, : used[-1] + 20]


def _photographed(ink: ndarray, rng: Generator) -> Image.Image:
    """Photograph ink ``uint8 [h, w]`` on a larger sheet of uneven paper."""
    tall = ink.shape[0]
    pads = [round(tall * rng.uniform(0.1, 1.5)) for _ in range(4)]
    covered = np.pad(ink / 255, ((pads[0], pads[1]), (pads[2], pads[3])))
    turned = Image.fromarray(covered.astype(np.float32)).rotate(
        rng.uniform(-5, 5), Image.Resampling.BICUBIC, expand=True
    )
    return Image.open(io.BytesIO(on_paper(np.asarray(turned).clip(0, 1), rng)))


def painted(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Numbers whose digits have colours of their own, of which some are pale, on white or black."""
    for some in _numbers(digits, rng, 2, 7):
        white = 255 * int(rng.integers(2))
        inks = []
        for digit, _ in some:
            line = _line([digit], rng.uniform(40, 60), np.zeros(1), rng)
            ink = np.pad(line[:, 10:-10], ((0, 100 - len(line)), (0, 0)))[..., None] / 255
            colour = rng.permutation([white, 255 - white, int(rng.integers(256))])
            inks.append(white + ink * (colour - float(white)))
        seen = np.concatenate(inks, axis=1)
        seen += rng.normal(0, 2, seen.shape)
        yield Case(Image.fromarray(seen.clip(0, 255).astype(np.uint8)), _text(some))


def uphill(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Photographs of numbers whose upright digits rise or fall by a fifth to a half of the way."""
    for some in _numbers(digits, rng, 3, 6):
        tall, slope = rng.uniform(30, 60), rng.uniform(0.2, 0.5) * rng.choice((-1, 1))
        inks = [cropped(digit) for digit, _ in some]
        scales = [tall * rng.uniform(0.9, 1.1) / max(ink.shape[0], 14) for ink in inks]
        shapes = [
            [max(2, round(n * s)) for n in i.shape] for i, s in zip(inks, scales, strict=True)
        ]
        lefts = np.cumsum([0] + [wide + 0.25 * tall for _, wide in shapes]).astype(int)
        tops = np.array([slope * left for left in lefts[:-1]], int)
        tops -= tops.min()
        covered = np.zeros((tops.max() + round(1.5 * tall), lefts[-1]), np.uint8)
        for ink, (height, wide), top, left in zip(inks, shapes, tops, lefts, strict=False):
            covered[top : top + height, left : left + wide] = resized(ink, wide, height)
        yield Case(_photographed(covered, rng), _text(some))


def filling(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Numbers as high as their small pictures, cut out to the last pixel of ink."""
    for some in _numbers(digits, rng, 2, 6):
        line = _line(
            [d for d, _ in some], rng.uniform(10, 24), rng.uniform(0.15, 0.4, len(some)), rng
        )
        yield Case(either(cropped(line), rng), _text(some))


def cut(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Photographs of numbers whose first or last digit touches the edge."""
    for some in _numbers(digits, rng, 2, 7):
        line = _line(
            [d for d, _ in some], rng.uniform(30, 80), rng.uniform(0.15, 0.5, len(some)), rng
        )
        used = np.flatnonzero((line > 60).any(axis=0))
        ink = line[:, used[0] : used[-1] + 1]
        pads = [round(ink.shape[0] * rng.uniform(0.1, 1)) for _ in range(4)]
        pads[2 + int(rng.integers(2))] = 0
        covered = np.pad(ink / 255, (pads[:2], pads[2:]))
        yield Case(Image.open(io.BytesIO(on_paper(covered, rng))), _text(some))


def frames(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Cells of puzzles with thick lines on some sides, also empty ones."""
    for number, (digit, label) in enumerate(digits):
        side = int(rng.integers(26, 110))
        cell = np.full((side, side), rng.uniform(150, 250))
        for turn in range(4):
            thick = round(side * rng.uniform(0.02, 0.14))
            if rng.random() < 0.75:
                np.rot90(cell, turn)[:thick] = rng.uniform(0, 60)
        inner = round(side * rng.uniform(0.5, 0.68))
        top, left = (round(side * rng.uniform(0.16, 0.18)) for _ in range(2))
        if number % 8:
            ink = resized(digit, inner, inner) / 255
            place = cell[top : top + inner, left : left + inner]
            place[:] = place * (1 - ink * rng.uniform(0.55, 0.95))
        cell += rng.normal(0, 4, cell.shape)
        yield Case(Image.fromarray(cell.clip(0, 255).astype(np.uint8)), label if number % 8 else "")


def desk(digits: Digits, rng: Generator) -> Iterator[Case]:
    """A light sheet with a digit or a number, on a darker desk."""
    for some in _numbers(digits, rng, 1, 4):
        tall = rng.uniform(40, 90)
        line = _line([d for d, _ in some], tall, rng.uniform(0.15, 0.5, len(some)), rng) / 255
        around = [round(tall * rng.uniform(0.3, 1.2)) for _ in range(4)]
        sheet = 235 * (1 - np.pad(line, (around[:2], around[2:])) * rng.uniform(0.6, 0.9))
        wide = round(min(sheet.shape) * rng.uniform(0.1, 0.5))
        tone = rng.uniform(30, 150)
        seen = Image.fromarray(np.pad(sheet, wide, constant_values=tone).astype(np.float32))
        seen = seen.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, fillcolor=tone)
        noisy = np.asarray(seen) + rng.normal(0, 4, seen.size[::-1])
        yield Case(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), _text(some))


def shadow(digits: Digits, rng: Generator) -> Iterator[Case]:
    """A sharp shadow's edge runs through a digit; the shadow has 0.35 of the light."""
    for digit, label in digits:
        side = int(rng.integers(60, 160))
        pads = [round(side * rng.uniform(0.2, 0.7)) for _ in range(4)]
        ink = np.pad(resized(digit, side, side) / 255, (pads[:2], pads[2:]))
        y, x = np.indices(ink.shape)
        angle = rng.uniform(0, 2 * np.pi)
        away = (x - pads[2] - side / 2) * np.cos(angle) + (y - pads[0] - side / 2) * np.sin(angle)
        light = np.where(away > rng.uniform(-0.15, 0.15) * side, 1.0, 0.35)
        seen = 220 * light * (1 - ink * rng.uniform(0.6, 0.9)) + rng.normal(0, 3, ink.shape)
        yield Case(Image.fromarray(seen.clip(0, 255).astype(np.uint8)), label)


def ledger(digits: Digits, rng: Generator) -> Iterator[Case]:
    """Small numbers cut out of a ledger; a ruled line runs under or through their feet."""
    for some in _numbers(digits, rng, 2, 6):
        tall = rng.uniform(24, 50)
        line = _line([d for d, _ in some], tall, rng.uniform(0.05, 0.4, len(some)), rng) / 255
        pads = [round(tall * rng.uniform(0, 0.5)) for _ in range(4)]
        covered = np.pad(cropped(np.round(255 * line)) / 255, (pads[:2], pads[2:]))
        covered = np.pad(covered, ((0, round(tall * 0.3)), (0, 0)))
        foot = covered.shape[0] - pads[1] - round(tall * rng.uniform(0.25, 0.4))
        covered[foot : foot + max(1, round(tall * 0.04))] = rng.uniform(0.4, 1)
        yield Case(Image.open(io.BytesIO(_dark(covered, rng))), _text(some))


def blurred(digits: Digits, rng: Generator) -> Iterator[Case]:
    """A digit of a meter: small, blurred, of little contrast, light or dark."""
    for digit, label in digits:
        side = int(rng.integers(20, 40))
        ink = np.pad(resized(cropped(digit), round(side * 0.7), side), rng.integers(1, 5))
        ink = ndimage.gaussian_filter(ink / 255, side * rng.uniform(0.03, 0.07))
        seen = 90 + ink * rng.uniform(50, 120) + rng.normal(0, 2, ink.shape)
        yield Case(either(seen.clip(0, 255).astype(np.uint8), rng), label)


SEGMENTS = (
    *("abcdef", "bc", "abdeg", "abcdg", "bcfg"),
    *("acdfg", "acdefg", "abc", "abcdefg", "abcdfg"),
)
OTHER_SEGMENTS = (*SEGMENTS[:6], "cdefg", "abcf", "abcdefg", "abcfg")  # of some displays
# Seven rows of five dots, a row in two hexadecimal digits.
DOTS = (
    *("0E11131519110E", "040C040404040E", "0E11010204081F", "1F02040201110E", "02060A121F0202"),
    *("1F101E0101110E", "0608101E11110E", "1F010204080808", "0E11110E11110E", "0E11110F01020C"),
)
OTHER_DOTS = ("0E11111111110E", *DOTS[1:3], "0E11010601110E", *DOTS[4:])
TALL = 140  # pixels of a drawn digit


def shown(style: Callable[[str, Generator], Image.Image], many: bool) -> Any:
    """Return a maker of pictures of displays: each with one digit, or with a number."""

    def pictures(digits: Digits, rng: Generator) -> Iterator[Case]:
        """Lit or dark digits of a display, on its background."""
        for some in _numbers(digits, rng, 2, 6) if many else ([one] for one in digits):
            ink = np.asarray(style(_text(some), rng)) / 255
            tall = rng.uniform(10 if style is _dots else 16, 90)
            pads = [round(TALL * rng.uniform(0.1, 0.6)) for _ in range(4)]
            ink = np.pad(ink, (pads[:2], pads[2:]))
            ink = ndimage.gaussian_filter(ink, TALL * rng.uniform(0, 0.02))
            small = Image.fromarray((255 * ink).astype(np.uint8))
            height, wide = (max(4, round(side * tall / TALL)) for side in ink.shape)
            small = small.resize((wide, height), Image.Resampling.BOX)
            ink = np.asarray(small.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC)) / 255
            seen = rng.uniform(20, 80) + ink * rng.uniform(80, 170) + rng.normal(0, 2, ink.shape)
            yield Case(either(seen.clip(0, 255).astype(np.uint8), rng), _text(some))

    return pictures


def _segments(text: str, rng: Generator) -> Image.Image:
    """Draw digits of seven segments as light ink."""
    wide, thick, gap = TALL * rng.uniform((0.42, 0.08, 0), (0.65, 0.17, 0.03))
    pitch = wide + TALL * rng.uniform(0.2, 0.4)
    paper = Image.new("L", (round(pitch * len(text)), TALL))
    pen = ImageDraw.Draw(paper)
    known = SEGMENTS if rng.random() < 0.7 else OTHER_SEGMENTS
    half, slant = thick / 2, rng.uniform(0, 0.2)
    xs, ys = (half, wide - half), (half, TALL / 2, TALL - half)
    ends = {
        **{"a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2)},
        **{"e": (0, 1, 0, 2), "f": (0, 0, 0, 1), "g": (0, 1, 1, 1)},
    }
    for number, digit in enumerate(text):
        for name in known[int(digit)]:
            x1, y1, x2, y2 = ends[name]
            one, two = (np.array([number * pitch + xs[x], ys[y]]) for x, y in ((x1, y1), (x2, y2)))
            along = (two - one) / np.linalg.norm(two - one)
            one, two = one + gap * along, two - gap * along
            aside = half * along[::-1]
            forward, aside = half * along, half * along[::-1]
            inner = one + forward, two - forward
            six = one, inner[0] + aside, inner[1] + aside, two, inner[1] - aside, inner[0] - aside
            pen.polygon([tuple(corner) for corner in six], 255)
    return _slanted(paper, slant)


def _dots(text: str, rng: Generator) -> Image.Image:
    """Draw digits of 5×7 round or square dots as light ink."""
    step = TALL / 7
    space = int(rng.integers(6, 8)) * step
    paper = Image.new("L", (round(space * len(text)), TALL))
    pen = ImageDraw.Draw(paper)
    known = DOTS if rng.random() < 0.5 else OTHER_DOTS
    half = step / 2 * rng.uniform(0.65, 1)
    draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
    for number, digit in enumerate(text):
        for row, value in enumerate(bytes.fromhex(known[int(digit)])):
            for column in range(5):
                if value >> (4 - column) & 1:
                    x, y = number * space + (column + 0.5) * step, (row + 0.5) * step
                    draw((x - half, y - half, x + half, y + half), 255)
    return paper


def _slanted(paper: Image.Image, slant: float) -> Image.Image:
    """Slant a drawing to the right."""
    wide = paper.width + round(slant * paper.height)
    shift = (1, slant, -slant * paper.height, 0, 1, 0)
    return paper.transform((wide, paper.height), Image.Transform.AFFINE, shift)


def _numbers(digits: Digits, rng: Generator, least: int, most: int) -> Iterator[list[Any]]:
    """Yield digits in numbers of ``least`` to ``most``."""
    given = list(digits)
    while len(given) >= least:
        count = int(rng.integers(least, most + 1))
        some, given = given[:count], given[count:]
        if len(some) >= least:
            yield some


def _dark(covered: ndarray, rng: Generator) -> bytes:
    """Return a JPEG of dark ink on light paper."""
    paper = rng.uniform(0.55, 0.8)
    seen = paper * (1 - covered * rng.uniform(0.5, 0.9)) + rng.normal(0, 0.02, covered.shape)
    stored = io.BytesIO()
    Image.fromarray((255 * seen.clip(0, 1)).astype(np.uint8)).save(stored, "JPEG", quality=80)
    return stored.getvalue()


SEVERAL: dict[str, Callable[[Digits, Generator], Iterator[Case]]] = {
    "numbers": partial(numbers, True),
    "touching": partial(numbers, False),
    "lines": lines_of_numbers,
    "filling": filling,
    "cut": cut,
    "desk": desk,
    "ledger": ledger,
    "uphill": uphill,
    "painted": painted,
    "segment numbers": shown(_segments, True),
    "dot numbers": shown(_dots, True),
}
GROUPS: dict[str, Callable[[Digits, Generator], Iterator[Case]]] = {
    "8×8": low8,
    "16×16": low16,
    "photographs": photographs,
    "margin": margin,
    "cells": cells,
    "page 25 mm": partial(page, 25),
    "page 15 mm": partial(page, 15),
    "page 10 mm": partial(page, 10),
    "page 8 mm": partial(page, 8),
    "equal gray": colours,
    "random colours": random_colours,
    "broken strokes": strokes,
    "frames": frames,
    "shadow": shadow,
    "blurred": blurred,
    "segments": shown(_segments, False),
    "dots": shown(_dots, False),
}
