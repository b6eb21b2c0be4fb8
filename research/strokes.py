"""Draw the synthetic digits of ``src/mnist_lit/data/synthetic.npz``.

python research/strokes.py     # writes the file again; the same bytes with any version of torch

They are ones with a flag, a foot or both, sixes with a hook or a small loop, crossed sevens and
sevens with a wave, open fours and fours that are nearly nines, slashed zeros, and others; and the
digits of displays, of seven segments or of 5×7 dots. A form consists of a few strokes. Its points
(but those of displays), slant, width and pen are random, and it is laid out as the digits of MNIST
are: in a box of 20×20, its centre of mass in the middle.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from mnist_lit.data.mnist import EACH, SYNTHETIC
from mnist_lit.network.blocks import IMAGE_SIZE

BOX = 20
STEPS = 3  # pieces of a curve between two of its points
JITTER = 0.035  # standard deviation of the points, as a share of the height
CHUNK = 500  # images drawn at a time
LEVELS = 15  # of gray; the file is half as large as with all
KINDS = ("bar", "line", "curve")
Stroke = tuple[str, tuple[tuple[float, float], ...]]


def _stroke(text: str) -> Stroke:
    """Read ``curve 0,50 99,0``: percent of the width from the left, of the height from the top.

    The kinds are ``curve``, ``line``, and ``bar``, a line whose points are not random.
    """
    kind, *points = text.split()
    pairs = [point.split(",") for point in points]
    return kind, tuple((int(x) / 100, int(y) / 100) for x, y in pairs)


LOOP = "curve 72,12 45,0 20,8 10,28 20,46 42,52 66,42 75,24 72,10"
RING = "curve 58,1 42,2 15,20 4,52 15,84 50,99 82,84 95,50 85,18 54,0"
# The forms of each digit, as people write them.
WRITTEN: tuple[tuple[tuple[Stroke, ...], ...], ...] = tuple(
    tuple(tuple(map(_stroke, form.split(" + "))) for form in forms)
    for forms in (
        (
            RING,
            f"{RING} + line 85,0 15,100",
            "curve 40,3 12,22 5,52 18,86 50,100 84,84 95,50 82,14 60,0 35,10",
        ),
        (
            "line 25,25 50,0 50,100",
            "line 20,25 50,0 50,100 + line 20,100 80,100",
            "line 0,55 60,0 60,100",
            "curve 15,28 38,18 55,0 + line 55,0 55,100",
            "line 50,0 50,100 + line 25,100 75,100",
            "line 5,45 55,0 55,100 + line 25,100 85,100",
            "line 0,80 60,0 60,100",
        ),
        (
            "curve 10,25 45,0 82,25 50,65 12,96 12,80 40,84 92,98",
            "curve 10,22 50,0 85,25 50,65 8,99 + line 8,99 92,99",
            "curve 5,15 50,0 80,20 45,60 5,95 + curve 5,95 35,88 60,100 95,92",
        ),
        (
            "line 10,0 85,0 42,40 + curve 42,40 88,60 75,95 10,92",
            "curve 12,12 55,0 80,22 40,45 85,65 65,98 8,90",
            "curve 15,8 70,2 72,32 38,45 46,48 85,68 60,100 5,88",
        ),
        (
            "line 65,100 65,0 5,70 100,70",
            "line 15,0 10,55 90,55 + line 70,10 70,100",
            "line 75,0 10,50 82,50 + line 75,0 72,100",
            "curve 20,0 8,30 15,52 85,48 + line 78,0 74,100",
            "line 70,0 5,60 95,60 + line 60,35 60,100",
        ),
        (
            "line 25,0 20,45 + curve 20,45 60,38 85,66 60,99 10,90 + line 25,0 88,0",
            "line 85,3 25,3 + curve 25,3 15,45 60,42 88,70 55,100 10,88",
            "curve 85,0 30,5 20,42 60,40 85,70 50,100 5,95",
        ),
        (
            "curve 85,12 60,0 25,30 10,70 40,100 80,80 60,52 15,68",
            "curve 60,0 25,45 15,82 35,100 62,90 50,70 20,80",
            "line 38,0 20,62 + curve 20,62 20,95 60,100 80,76 50,55 20,72",
            "curve 75,5 45,0 15,45 18,90 50,100 75,82 55,66 20,82",
        ),
        (
            "line 5,4 90,4 40,100 + line 20,50 82,48",
            "curve 2,16 20,2 50,12 92,2 + line 92,2 35,100",
            "line 8,20 8,2 90,2 45,100",
            "line 8,18 8,2 92,2 42,100 + line 22,52 80,46",
            "line 5,4 92,4 + curve 92,4 55,45 45,100",
        ),
        (
            "curve 80,12 45,0 20,22 55,45 85,72 50,100 15,75 45,48 80,15 60,0",
            "curve 55,0 32,5 24,22 34,40 52,46 70,38 78,22 68,5 48,0 + "
            "curve 55,46 26,54 14,74 26,94 50,100 76,94 88,74 74,54 48,46",
        ),
        (
            f"{LOOP} + line 78,8 72,100",
            f"{LOOP} + curve 78,8 76,75 50,100 15,90",
            f"{LOOP} + line 78,5 40,100",
        ),
    )
)

# Segments that are on, and other ways of some displays.
SEGMENTS = (
    *("abcdef", "bc", "abdeg", "abcdg", "bcfg"),
    *("acdfg", "acdefg", "abc", "abcdefg", "abcdfg"),
)
OTHER_SEGMENTS = (*SEGMENTS[:6], "cdefg", "abcf", "abcdefg", "abcfg")
# Rows of five dots, from the top; a row is a number of two digits, base 16.
DOTS = (
    *("0E11131519110E", "040C040404040E", "0E11010204081F", "1F02040201110E", "02060A121F0202"),
    *("1F101E0101110E", "0608101E11110E", "1F010204080808", "0E11110E11110E", "0E11110F01020C"),
)
OTHER_DOTS = (
    *("0E11111111110E", "060A0202020202", "0E11010E10101F", "0E11010601110E", "1111111F010101"),
    *("1F10101E01011E", "0E11101E11110E", "1F010102040404", "0E11110E11110E", "0E11110F01110E"),
)


def _segments(names: str, gap: int) -> tuple[Stroke, ...]:
    """Return the segments of a digit, each shorter by the gap at both ends."""
    left, right, low = 15 + gap, 85 - gap, 50 - gap
    ends = {
        **{
            "a": f"{left},0 {right},0",
            "g": f"{left},50 {right},50",
            "d": f"{left},100 {right},100",
        },
        **{"f": f"15,{gap} 15,{low}", "e": f"15,{50 + gap} 15,{50 + low}"},
        **{"b": f"85,{gap} 85,{low}", "c": f"85,{50 + gap} 85,{50 + low}"},
    }
    return tuple(_stroke(f"bar {ends[name]}") for name in names)


def _dots(rows: str) -> tuple[Stroke, ...]:
    """Return the dots of a digit."""
    places = [
        f"{10 + 20 * column},{100 * row // 6}"
        for row, value in enumerate(bytes.fromhex(rows))
        for column in range(5)
        if value >> (4 - column) & 1
    ]
    return tuple(_stroke(f"bar {place} {place}") for place in places)


FORMS = tuple(
    (*written, _segments(one, 3), _segments(two, 10), _dots(three), _dots(four))
    for written, one, two, three, four in zip(
        WRITTEN, SEGMENTS, OTHER_SEGMENTS, DOTS, OTHER_DOTS, strict=True
    )
)


def draw(labels: Int64[Tensor, " n"], generator: torch.Generator) -> UInt8[Tensor, "n 1 28 28"]:
    """Draw digits, each in one of its forms.

    Args:
        labels: The digits, 0 to 9.
        generator: Source of all random numbers.
    """
    drawn = [_draw(some, generator) for some in torch.split(labels, CHUNK)]
    return torch.cat(drawn)


def _draw(labels: Int64[Tensor, " n"], generator: torch.Generator) -> UInt8[Tensor, "n 1 h w"]:
    forms = torch.tensor([len(FORMS[label]) for label in labels.tolist()])
    chosen = (torch.rand(len(labels), generator=generator) * forms).long().tolist()
    points, kinds = _points()
    first = torch.tensor([sum(map(len, FORMS[:digit])) for digit in range(len(FORMS))])
    number = first[labels] + torch.tensor(chosen)
    places = points[number]  # [n, points, 2], NaN between strokes

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(labels), 1, generator=generator)

    jitter = JITTER * torch.randn(places.shape, generator=generator)
    jitter *= kinds[number].unsqueeze(2) >= 0
    x, y = (places + jitter).unbind(dim=2)
    narrow = labels[:, None] == 1
    x = (x - 0.5) * torch.where(narrow, uniform(0.5, 0.9), uniform(0.55, 0.95))
    y = y - 0.5
    x = x - uniform(-0.15, 0.4) * y  # the slant
    angle = uniform(-0.12, 0.12)
    x, y = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
    lines = _smooth(torch.stack([x, y], dim=2), kinds[number])
    pen = uniform(1.3, 3.4)  # pixels
    low, high = (
        torch.nan_to_num(lines, nan=fill).reshape(len(labels), -1, 2) for fill in (9.0, -9.0)
    )
    low, high = low.amin(dim=1), high.amax(dim=1)
    scale = (BOX - 1 - pen) / (high - low).amax(dim=1, keepdim=True)
    centre = (low + high) / 2
    lines = (lines - centre[:, None, None]) * scale[:, None, None]
    ink = _ink(lines, pen)
    # Move the centre of mass to the middle, by whole pixels, as in MNIST.
    across = torch.arange(IMAGE_SIZE) - IMAGE_SIZE / 2
    mass = ink.sum(dim=(1, 2))
    off = torch.stack([(ink.sum(dim=1) @ across) / mass, (ink.sum(dim=2) @ across) / mass], dim=1)
    steps = off.round().long()
    places = torch.arange(IMAGE_SIZE)
    rows = (places + steps[:, 1:]) % IMAGE_SIZE
    columns = (places + steps[:, :1]) % IMAGE_SIZE
    numbers = torch.arange(len(labels))[:, None, None]
    ink = ink[numbers, rows[:, :, None], columns[:, None]]
    return (255 // LEVELS * (LEVELS * ink).round()).to(torch.uint8).unsqueeze(1)


@cache
def _points() -> tuple[Float[Tensor, "forms p 2"], Float[Tensor, "forms p"]]:
    """Return the points of all forms, with NaN after each stroke; and their kinds.

    -1 is a bar, 0 a line and 1 a curve.
    """
    forms = [form for forms in FORMS for form in forms]
    most = max(sum(len(points) + 1 for _, points in form) for form in forms)
    places, kinds = torch.full((len(forms), most, 2), torch.nan), torch.zeros(len(forms), most)
    for number, form in enumerate(forms):
        start = 0
        for kind, points in form:
            end = start + len(points)
            places[number, start:end] = torch.tensor(points)
            kinds[number, start:end] = KINDS.index(kind) - 1
            start = end + 1
    return places, kinds


def _smooth(
    points: Float[Tensor, "n p 2"], curved: Float[Tensor, "n p"]
) -> Float[Tensor, "n s 2 2"]:
    """Return the pieces of the strokes, each with its two ends; NaN where there is none.

    Curves go through their points (E. Catmull and R. Rom, A class of local interpolating splines,
    1974).
    """
    one, two = points[:, :-1], points[:, 1:]
    before = torch.roll(points, 1, dims=1)[:, :-1]
    before = torch.where(before.isnan(), one, before)
    before[:, 0] = one[:, 0]
    after = torch.roll(points, -1, dims=1)[:, 1:]
    after = torch.where(after.isnan(), two, after)
    after[:, -1] = two[:, -1]
    t = torch.linspace(0, 1, STEPS + 1).view(-1, 1, 1, 1)
    straight = one + t * (two - one)
    bow = 0.5 * (
        2 * one
        + (two - before) * t
        + (2 * before - 5 * one + 4 * two - after) * t**2
        + (3 * one - before - 3 * two + after) * t**3
    )
    path = torch.where(curved[:, :-1, None] > 0, bow, straight)
    return torch.stack([path[:-1], path[1:]], dim=3).permute(1, 2, 0, 3, 4).flatten(1, 2)


def _ink(lines: Float[Tensor, "n s 2 2"], pen: Float[Tensor, "n 1"]) -> Float[Tensor, "n h w"]:
    """Return the share of each pixel within half the pen's width of a piece."""
    across = torch.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2
    nearest = torch.full((len(lines), IMAGE_SIZE, IMAGE_SIZE), torch.inf)
    for piece in range(lines.shape[1]):
        one, two = lines[:, piece, 0], lines[:, piece, 1]
        along = two - one
        length = (along**2).sum(dim=1).clamp(min=1e-6)[:, None, None]
        away_x, away_y = (across - one[:, axis, None] for axis in (0, 1))
        dot = (away_x * along[:, :1])[:, None, :] + (away_y * along[:, 1:])[:, :, None]
        share = (dot / length).clamp(0, 1)
        squared = (away_x**2)[:, None, :] + (away_y**2)[:, :, None]
        squared += share * (share * length - 2 * dot)
        nearest = torch.fmin(nearest, squared)  # ignores NaN
    return (pen[:, :, None] / 2 + 0.5 - nearest.clamp(min=0).sqrt()).clamp(0, 1)


def main() -> None:
    """Write the file."""
    digits = torch.arange(len(FORMS)).repeat_interleave(EACH)
    images = draw(digits, torch.Generator().manual_seed(0))
    np.savez_compressed(SYNTHETIC, images=images[:, 0].numpy())


if __name__ == "__main__":
    main()
