"""A network's reading of one picture: the digits in order, and how sure it is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, repeat
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn.utils import convert_conv2d_weight_memory_format

from mnist_lit.checkpoints.read import Trained, read
from mnist_lit.errors import CheckpointError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.facts import DIGITS
from mnist_lit.inference.boxes import bounds, shared, size, window
from mnist_lit.inference.pictures import Candidate, Look, Prepared
from mnist_lit.inference.views import STAGES

BATCH = 256
# A second network, with the blocks of `small`, which separates digits from other things.
REJECTOR = Path(__file__).with_name("digit-or-none.ckpt")
# A score is the probability of being a digit, times that of the class. Below NONE it is no digit;
# below UNSURE, the reading is unsure. Of photographs of 2,000 training digits that the second
# network was not trained on, 0.05 % and 0.95 % have such scores.
NONE = 0.01
UNSURE = 0.25
FURTHER = 0.4  # below it other views are tried; least score of a digit that only these show
PARTIAL = 0.1  # most that the score of a view without some of the ink counts for
SAME_LINE = 0.4  # share of the lower digit's height that is beside the other
LEFT = 0.5  # height of something that may be a digit, as a share of the digits'
LOWEST = 0.6  # height of a digit, as a share of the highest one
RISE = 0.8  # of the lower digit's height, at most, from the middle of a digit to the next
UPRIGHT = 1.7  # height of a zero of a display, divided by its width
# Of the further views only those without frames are tried: a frame looks like ones that touch.
PARTED = "digits that touch were cut apart"
LIKELY = 0.8  # least probability that all digits of a picture are right


@dataclass(frozen=True, repr=False)
class Prediction:
    """A network's answer for one digit.

    Two are equal if they have the same probabilities and the same box.

    Attributes:
        probabilities: One per class, in the order of ``classes``.
        prepared: The network's input, ``uint8 [side, side]``.
        classes: The names of the classes, for MNIST the digits 0 to 9.
        box: The digit's place on the picture, in pixels: left, top, right and bottom; the last two
            are the first column and row beyond it.
    """

    probabilities: tuple[float, ...]
    prepared: ndarray = field(compare=False)
    classes: tuple[str, ...]
    box: tuple[int, int, int, int]

    def __repr__(self) -> str:
        return f"Prediction({self.name!r}, {self.probability:.1%})"

    @property
    def digit(self) -> int:
        """The most probable class by its number, for MNIST the digit."""
        return self.top(1)[0][0]

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.classes[self.digit]

    @property
    def probability(self) -> float:
        """The probability of the most probable class."""
        return max(self.probabilities)

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the most probable classes and their probabilities, most probable first."""
        return sorted(enumerate(self.probabilities), key=lambda pair: -pair[1])[:count]


@dataclass(frozen=True, repr=False)
class Reading:
    """A network's answer for one picture; ``str()`` gives it in one line.

    If the picture has exactly one digit, ``digit``, ``name``, ``probabilities``, ``prepared`` and
    ``top`` are those of its ``Prediction``; otherwise they raise a ``ValueError``.

    Attributes:
        lines: The digits, line by line from the top, each line from left to right.
        status: ``read``, ``unsure`` or ``none``. ``none``: there is no digit.
        why: The reason for ``none`` or ``unsure``; otherwise empty.
    """

    lines: tuple[tuple[Prediction, ...], ...]
    status: Literal["read", "unsure", "none"]
    why: str = ""

    def __str__(self) -> str:
        if self.status == "none":
            return self.why
        said = f"{self.text} ({self.probability:.1%})".replace("\n", " / ")
        return f"{said}  unsure: {self.why}" if self.status == "unsure" else said

    def __repr__(self) -> str:
        return f"Reading({self.text!r}, {self.probability:.1%}, {self.status})"

    @property
    def digits(self) -> tuple[Prediction, ...]:
        """All digits, in the order of reading."""
        return tuple(digit for line in self.lines for digit in line)

    @property
    def text(self) -> str:
        """The names of the classes, with a line break between lines."""
        return "\n".join("".join(digit.name for digit in line) for line in self.lines)

    @property
    def probability(self) -> float:
        """The probability that all digits are right, taken as independent; 0 without a digit."""
        return float(np.prod([digit.probability for digit in self.digits])) if self.lines else 0.0

    @property
    def _one(self) -> Prediction:
        if len(self.digits) != 1:
            raise ValueError(f"{len(self.digits)} digits on this picture; see .digits and .text")
        return self.digits[0]

    digit = property(attrgetter("_one.digit"))
    name = property(attrgetter("_one.name"))
    probabilities = property(attrgetter("_one.probabilities"))
    prepared = property(attrgetter("_one.prepared"))
    top = property(attrgetter("_one.top"))


Scored = tuple[Prediction, float]  # with its score


class Seen(NamedTuple):
    """The reading of a view of a picture.

    Attributes:
        reading: The reading.
        score: The least score of a digit.
        whole: Whether nothing seems to be left out or added.
        signs: Whether there seem to be signs beside the digits.
    """

    reading: Reading
    score: float
    whole: bool
    signs: bool = False

    @property
    def rank(self) -> tuple[int, float, int]:
        """A greater one counts: more digits, if they are read; otherwise the score decides."""
        many = len(self.reading.digits)
        if self.reading.status == "read":
            return many, self.score, 0
        return 0, min(self.score, UNSURE if self.whole else PARTIAL), many if self.whole else 0


def read_all(
    trained: Trained,
    pages: Sequence[Prepared],
    device: torch.device,
    further: Callable[[Sequence[int], int], Iterable[Prepared]],
) -> list[Reading]:
    """Classify the possible digits of pictures; of several views of a picture the best counts.

    Args:
        trained: The network.
        pages: The prepared digits of each picture, or the reason why there is none.
        device: The device to compute on.
        further: Prepares further views of the pictures with these numbers; it also gets the stage.

    Raises:
        CheckpointError: The network does not return a finite number for each class.
    """
    best = _best(trained, pages, device)
    colourful = [not isinstance(page, str) and page[0].colourful for page in pages]
    for stage in range(1, STAGES + 1):
        rest = [
            number
            for number, seen in enumerate(best)
            if seen.score < FURTHER
            or not (seen.reading.status == "read" or (stage > 1 and seen.reading.why == PARTED))
            or (stage == STAGES and colourful[number])
        ]
        more = _best(trained, [*further(rest, stage)], device)
        for number, seen in zip(rest, more, strict=True):
            before = best[number]
            same = seen.reading.text == before.reading.text
            if before.signs and same and len(before.reading.digits) > 1:
                continue  # other views may have too few pixels for a sign
            # Pictures of other things have views that look a little like digits.
            if seen.score >= FURTHER or before.reading.lines:
                best[number] = max(before, seen, key=attrgetter("rank"))
            if before.reading.status == "read" and seen.score >= FURTHER:
                # Gray hid some of the digits.
                best[number] = max(before, seen, key=lambda one: len(one.reading.digits))
    return [seen.reading for seen in best]


def _best(trained: Trained, pages: Sequence[Prepared], device: torch.device) -> list[Seen]:
    """Return the best view of each picture."""
    looks = [[] if isinstance(page, str) else page for page in pages]
    candidates = [one for look in chain(*looks) for one in look.candidates]
    pixels = [seen.pixels for one in candidates for seen in (one, *chain(*one.ways))]
    rows = _classify(trained, pixels, device)
    digits = trained.facts.classes == DIGITS and trained.facts.centred
    sure = iter(digit_probabilities(pixels, device)) if digits else repeat(1.0)

    def classified(seen: Candidate) -> Scored:
        """Return a prediction and its score."""
        found = Prediction(tuple(next(rows)), seen.pixels, trained.facts.classes, seen.box)
        return found, next(sure) * found.probability

    def read_look(look: Look) -> Seen:
        kept, others, parted = list[Scored](), list[Scored](), False
        for candidate in look.candidates:
            ways = [[classified(seen) for seen in way] for way in ((candidate,), *candidate.ways)]
            best = max(ways, key=lambda way: min(score for _, score in way))
            parted |= len(best) > 1
            for one in best:
                (kept if one[1] >= NONE or not candidate.sought else others).append(one)
        return _in_order(kept, others, parted, look.left)._replace(signs=look.signs)

    def best_of(page: Prepared) -> Seen:
        if isinstance(page, str):
            return Seen(Reading((), "none", page), 0, False)
        return max(map(read_look, page), key=attrgetter("rank"))

    return list(map(best_of, pages))


def _classify(
    trained: Trained, pixels: Sequence[ndarray], device: torch.device
) -> Iterator[list[float]]:
    """Yield the probabilities of the classes for images, ``uint8 [side, side]`` each.

    Raises:
        CheckpointError: The network does not return a finite number for each class.
    """
    # float32, whatever the dtype of the network or torch's default; channels last, which halves the
    # time of convolutions on a CPU.
    network = trained.network.to(device, torch.float32).eval()
    convert_conv2d_weight_memory_format(network, torch.channels_last)
    classes = len(trained.facts.classes)
    for start in range(0, len(pixels), BATCH):
        batch = pixels[start : start + BATCH]
        images = torch.from_numpy(np.stack(batch)).unsqueeze(1).to(device)
        logits: Float[Tensor, "b classes"] = classify(network, images, trained.facts)
        if logits.shape != (len(batch), classes) or not logits.isfinite().all():
            many = f"{list(logits.shape[1:])} values for {classes} classes"
            words = "values that are not finite; give one whose training did not diverge"
            raise CheckpointError(f"the network returns {many}, or {words}")
        yield from logits.softmax(dim=1).tolist()


def _in_order(kept: Sequence[Scored], others: Sequence[Scored], parted: bool, left: bool) -> Seen:
    """Order the digits of a view in lines, and set the status.

    Args:
        kept: The digits.
        others: What is no digit.
        parted: Whether digits that touched were cut apart.
        left: Whether something of a digit's size was left out before.
    """
    if not kept:
        return Seen(Reading((), "none", "no digit found, but something else"), 0, False)
    heights = [_height(one) for one, _ in kept]
    left |= any(_height(one) >= LEFT * np.median(heights) for one, _ in others)
    score = min(score for _, score in kept)
    lines = in_lines([digit.box for digit, _ in kept])
    reading = Reading(tuple(tuple(kept[number][0] for number in line) for line in lines), "read")
    uneven = min(heights) < LOWEST * max(heights)
    reasons = {
        "something is left out": left,
        "something may be no digit": score < UNSURE,
        # They are hardly more often right than wrong.
        PARTED: parted,
        "digits of very different heights": uneven,
        f"less probable than {LIKELY:.0%}": reading.probability < LIKELY,
    }
    why = next((reason for reason, holds in reasons.items() if holds), "")
    reading = replace(reading, status="unsure", why=why) if why else reading
    return Seen(reading, score, not (left or uneven))


def _height(digit: Prediction) -> int:
    _, top, _, bottom = digit.box
    return bottom - top


def digit_probabilities(pixels: Sequence[ndarray], device: torch.device) -> list[float]:
    """Return for each image the probability that it shows a digit."""
    rows = _classify(_rejector(), pixels, device)
    return [0.0 if _is_box(one) else 1 - row[-1] for one, row in zip(pixels, rows, strict=True)]


_rejector = cache(partial(read, REJECTOR))


def _is_box(image: UInt8[ndarray, "h w"]) -> bool:
    """Return whether ink runs along all four edges of the ink's bounding box.

    None of MNIST's 60,000 training digits has ink along 85 % of each edge. The network reads many
    boxes as zeros. A higher one may be a zero of a display.
    """
    ink = np.greater_equal(image, 96)
    if not ink.any():
        return False
    ink = ink[window(bounds(ink))]
    edges = ink[:2].any(0), ink[-2:].any(0), ink[:, :2].any(1), ink[:, -2:].any(1)
    height, width = ink.shape
    box = min(height, width) >= 5 and height < UPRIGHT * width
    return box and all(edge.sum() >= 0.9 * len(edge) for edge in edges)


def in_lines(boxes: Sequence[tuple[int, int, int, int]]) -> list[list[int]]:
    """Return the numbers of digits line by line from the top, each line from left to right.

    A digit and its next neighbour on the right are in one line, so a line may slope.

    Args:
        boxes: Left, top, right and bottom of each.
    """
    edges = np.reshape(boxes, (-1, 2, 2)).transpose(0, 2, 1)[:, ::-1]  # rows before columns
    height = size(edges)[:, 0]
    across, middle = edges.mean(axis=2).T
    line = np.arange(len(edges))
    for number, box in enumerate(edges):
        lower = np.minimum(height, height[number])
        rows, columns = shared(edges, box).T
        level = rows >= SAME_LINE * lower
        # In a steep line the next digit is near and not a whole line higher or lower.
        level |= (np.abs(across - across[number]) < RISE * lower) & (-columns < lower)
        beside = (middle > middle[number]) & level
        if beside.any():
            following = int(np.where(beside, edges[:, 1, 0], np.inf).argmin())
            line[line == line[following]] = line[number]
    lines = [np.flatnonzero(line == name) for name in np.unique(line)]
    lines.sort(key=lambda numbers: float(edges[numbers, 0].sum(axis=1).mean()))
    return [sorted(numbers.tolist(), key=lambda number: float(middle[number])) for numbers in lines]
