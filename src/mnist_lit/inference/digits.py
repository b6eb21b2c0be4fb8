"""Every digit on a picture: which strokes are one digit, and in which order they are read.

A number is parted by its gaps. What is too wide to be one digit is parted in several ways, along
the paths with the least ink, and the networks that read the parts decide (heuristic
over-segmentation; LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document
recognition, 1998, section V).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from numpy import ndarray
from scipy import ndimage

from mnist_lit.inference.ink import (
    AROUND,
    REACH,
    SPECK,
    TINY,
    Box,
    Gray,
    Mask,
    Seen,
    SmallMask,
    areas_of,
    bounds,
    ink_of,
    look,
    one_digit,
    parts_of,
    stroke,
)

READ_HEIGHT = 48  # pixels of a digit's height; more show no more
READ_STROKE = 4  # and of a stroke's width; on fewer, gaps are not told from noise
LOOKS = 2  # with more pixels each time, at most
MOST_SIDE = 2_000  # of the picture on which small digits are looked for
# In shares of a digit's height:
WHOLE = 0.6  # a piece of this height is a digit, if there is another one beside it
FRAGMENT = 0.5  # what is lower is a part of the digit beside it, or a point or a dash
WIDE = 1.1  # what is wider may be two digits that touch
NARROW = 0.35  # and each of them is wider than this
OVERLAP = 0.5  # of the narrower one's width, where one stroke is above the other
SAME_LINE = 0.4  # of the lower one's height is beside the other
MOST_PARTS = 8  # of what touches


class Found(NamedTuple):
    """A digit on a picture, or what may be one.

    Attributes:
        box: Where it is, in pixels.
        ink: How much ink there is, from 0 to 1, of this digit alone.
        ways: Other ways to see it: two digits or more each.
    """

    box: Box
    ink: Float32[ndarray, "i j"]
    ways: tuple[tuple["Found", ...], ...] = ()


def find_digit(gray: Gray) -> Found:
    """Return the one digit of a picture; whatever else is on it is left out.

    A digit that is small on a large picture is looked for on a reduced one, and read from the part
    of the picture around it.

    Args:
        gray: From 0 (black) to 1 (white).

    Raises:
        PictureError: There is nothing to be seen.
    """
    seen = look(gray)
    return _single(gray, seen, one_digit(seen.mask))


def find_digits(gray: Gray) -> list[Found]:
    """Return what may be the digits of a picture, in any order.

    Args:
        gray: From 0 (black) to 1 (white).

    Raises:
        PictureError: There is nothing to be seen.
    """
    seen = look(gray)
    alone = _alone(seen.mask)
    if alone is not None:
        return [_single(gray, seen, alone)]
    if max(gray.shape) <= TINY:
        return [_single(gray, seen, one_digit(seen.mask))]
    most = min(max(gray.shape), MOST_SIDE)
    groups = _groups(seen.mask)
    for _ in range(LOOKS):
        height = float(np.median([box.height for box in groups.boxes]))
        wide = stroke(seen.mask)
        larger = max(READ_STROKE / wide, min(READ_HEIGHT / height, 2 * READ_STROKE / wide))
        side = min(most, round(seen.side * larger))
        if side < 1.2 * seen.side:
            break
        seen = seen.closer(gray, groups.within, side)
        groups = _groups(seen.mask)
    if len(groups.boxes) == 1 and groups.boxes[0].width <= WIDE * groups.boxes[0].height:
        return [_single(gray, seen, one_digit(seen.mask))]
    return list(_found(seen, groups, gray))


def _single(gray: Gray, seen: Seen, kept: SmallMask) -> Found:
    box = bounds(kept).moved(-seen.margin, -seen.margin)
    scale = max(gray.shape) / seen.side
    return Found(box.grown(0, scale, gray.shape), ink_of(gray, seen, kept))


def _alone(mask: Mask) -> Mask | None:
    """Return the only piece but for specks, if there is one that is not too wide for one digit."""
    labels, _ = ndimage.label(mask, AROUND)
    areas = areas_of(labels)
    main = int(areas.argmax())
    box = Box(*ndimage.find_objects(labels)[main])
    alone = (areas >= SPECK * areas.max()).sum() == 1
    return labels == main + 1 if alone and box.width <= WIDE * box.height else None


class _Groups(NamedTuple):
    """Strokes that belong together.

    Attributes:
        labels: Their number at each pixel, from 1.
        boxes: Where they are.
        within: All ink that does not come in from beyond an edge, specks too.
    """

    labels: Int[ndarray, "h w"]
    boxes: list[Box]
    within: Mask

    @staticmethod
    def single(mask: Mask) -> "_Groups":
        kept = one_digit(mask)
        return _Groups(kept.astype(np.int32), [bounds(kept)], mask)


def _groups(mask: Mask) -> _Groups:
    parts = parts_of(mask)
    main = parts.main
    if not parts.inside[main]:
        return _Groups.single(mask)
    pieces: list[tuple[Box, Mask]] = []
    for part in np.flatnonzero(parts.inside & (parts.areas >= SPECK * parts.areas[main])):
        pieces += _pieces(parts.labels, int(part) + 1, parts.boxes[part])
    pieces.sort(key=lambda piece: -piece[0].height)
    digits = _Edges.of([box for box, _ in pieces])
    strokes: list[list[int]] = [[] for _ in pieces]
    for number in range(len(pieces)):
        taken = np.flatnonzero(digits.have(number))
        owner = int(taken[0]) if len(taken) else number
        strokes[owner].append(number)
        digits.join(owner, number)
    areas = np.array([pieces[own[0]][1].sum() if own else 0 for own in strokes])
    least = FRAGMENT * digits.height[areas.argmax()]
    labels = np.zeros(mask.shape, np.int32)
    boxes = []
    for number, own in enumerate(strokes):
        if own and digits.height[number] >= least:
            boxes.append(digits.box(number))
            for box, piece in (pieces[n] for n in own):
                labels[box][piece] = len(boxes)
    within = np.isin(parts.labels, np.flatnonzero(parts.inside) + 1)
    return _Groups(labels, boxes, within)


@dataclass
class _Edges:
    """The edges of boxes, as arrays."""

    top: Float64[ndarray, " n"]
    bottom: Float64[ndarray, " n"]
    left: Float64[ndarray, " n"]
    right: Float64[ndarray, " n"]

    @staticmethod
    def of(boxes: list[Box]) -> "_Edges":
        edges = [
            (box.rows.start, box.rows.stop, box.columns.start, box.columns.stop) for box in boxes
        ]
        return _Edges(*np.array(edges, float).reshape(-1, 4).T.copy())

    @property
    def height(self) -> Float64[ndarray, " n"]:
        return self.bottom - self.top

    def box(self, number: int) -> Box:
        sides = ((self.top, self.bottom), (self.left, self.right))
        return Box(*(slice(int(a[number]), int(b[number])) for a, b in sides))

    def shared(self, number: int) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
        """Return how many rows and columns each has in common with one; below 0, their distance."""
        rows = np.minimum(self.bottom, self.bottom[number]) - np.maximum(self.top, self.top[number])
        columns = np.minimum(self.right, self.right[number]) - np.maximum(
            self.left, self.left[number]
        )
        return rows, columns

    def have(self, number: int) -> Bool[ndarray, " n"]:
        """Say of each that comes before one, which is not taller, whether it is a part of that."""
        rows, columns = self.shared(number)
        height, width = self.height, self.right - self.left
        near = np.minimum(rows, columns) > -REACH * height
        low = height[number] < FRAGMENT * height
        crossing = columns >= OVERLAP * np.minimum(width, width[number])
        crossing &= rows >= SAME_LINE * height[number]
        found = near & (low | crossing)
        found[number:] = False
        return found

    def join(self, owner: int, number: int) -> None:
        """Make one a part of another, and of nothing else."""
        for edge, outer in (
            (self.top, min),
            (self.left, min),
            (self.bottom, max),
            (self.right, max),
        ):
            edge[owner] = outer(edge[owner], edge[number])
            if number != owner:
                edge[number] = np.nan


def _pieces(labels: Int[ndarray, "h w"], number: int, box: Box) -> Iterator[tuple[Box, Mask]]:
    """Yield a part, or the digits beside each other that only narrow gaps part."""
    own = labels[box] == number
    numbers, count = ndimage.label(own, AROUND)
    boxes = [Box(*part) for part in ndimage.find_objects(numbers, count)]
    whole = [n for n, one in enumerate(boxes, 1) if one.height >= WHOLE * box.height]
    pairs = combinations((boxes[n - 1] for n in whole), 2)
    apart = all(
        min(one.columns.stop, two.columns.stop) - max(one.columns.start, two.columns.start)
        < OVERLAP * min(one.width, two.width)
        for one, two in pairs
    )
    if len(whole) < 2 or not apart:
        yield box, own
        return
    # Each pixel belongs to the nearest of them.
    nearest = ndimage.distance_transform_edt(
        ~np.isin(numbers, whole), return_distances=False, return_indices=True
    )
    owner = np.where(own, numbers[tuple(nearest)], 0)
    places = ndimage.find_objects(owner)
    for n in whole:
        around = Box(*places[n - 1])
        yield around.moved(box.rows.start, box.columns.start), owner[around] == n


def _found(seen: Seen, groups: _Groups, gray: Gray) -> Iterator[Found]:
    scale = max(gray.shape) / seen.side
    shape = gray.shape
    usual = float(np.median([box.width for box in groups.boxes]))
    for cluster in _clusters(groups.boxes):
        founds = []
        for number in cluster:
            box = groups.boxes[number]
            around = box.grown(max(4, 0.3 * box.longer), 1, seen.mask.shape)
            ink = seen.part(around).ink(groups.labels[around] == number + 1)
            beside = len(groups.boxes) > 2 and box.width > max(1.6 * usual, 0.8 * box.height)
            ways = _parted(ink, around, scale, shape) if beside or _wide(box) else ()
            founds.append(Found(box.grown(0, scale, shape), ink, ways))
        box = reduce(Box.around, (groups.boxes[number] for number in cluster))
        if not 1 < len(cluster) <= MOST_PARTS or _wide(box):
            yield from founds
            continue
        # Perhaps the strokes of one digit.
        around = box.grown(max(4, 0.3 * box.longer), 1, seen.mask.shape)
        own = np.isin(groups.labels[around], [number + 1 for number in cluster])
        ink = seen.part(around).ink(own)
        yield Found(box.grown(0, scale, shape), ink, (tuple(founds),))


def _wide(box: Box) -> bool:
    return box.width > WIDE * box.height


def _clusters(boxes: list[Box]) -> list[list[int]]:
    """Return the numbers of the digits that are near each other."""
    edges = _Edges.of(boxes)
    cluster = np.arange(len(boxes))
    for number in range(len(boxes)):
        rows, columns = edges.shared(number)
        near = np.minimum(rows, columns) > -REACH * np.maximum(edges.height, edges.height[number])
        cluster[np.isin(cluster, cluster[near])] = cluster[number]
    return [np.flatnonzero(cluster == name).tolist() for name in np.unique(cluster)]


def _parted(
    ink: Gray, around: Box, scale: float, shape: tuple[int, ...]
) -> tuple[tuple[Found, ...], ...]:
    """Part what may be several digits into two and more, along the paths with the least ink."""
    box = bounds(ink > 0)
    found = []
    for count in range(2, MOST_PARTS + 1):
        if not NARROW * box.height <= box.width / count <= WIDE * box.height:
            continue
        seams = [_seam(ink[box], place / count, 0.4 / count) for place in range(1, count)]
        part = (np.arange(box.width) >= np.array(seams)[:, :, None]).sum(axis=0)
        inks = [np.where(part == number, ink[box], 0) for number in range(count)]
        if all((one > 0.5).any() for one in inks):
            corner = (around.rows.start + box.rows.start, around.columns.start + box.columns.start)
            places = [bounds(one > 0.25).moved(*corner).grown(0, scale, shape) for one in inks]
            found.append(tuple(map(Found, places, inks)))
    return tuple(found)


def _seam(ink: Gray, at: float, within: float) -> Int[ndarray, " h"]:
    """Return the column at which each row is cut: a path with little ink.

    Args:
        ink: From 0 to 1.
        at: Where the path should be, in shares of the width.
        within: How far from there it may be.
    """
    height, width = ink.shape
    first = max(1, round((at - within) * width))
    last = min(width - 1, round((at + within) * width))
    columns = np.arange(first, last + 1)
    away = np.abs(columns - at * width) / width
    cost = ink[:, columns] + 0.3 * away[None] ** 2
    total = cost[0].astype(np.float64)
    steps = np.zeros(cost.shape, np.int64)
    for row in range(1, height):
        padded = np.pad(total, 1, constant_values=np.inf)
        # A step aside costs a little, so that a path through paper is straight.
        three = np.stack([padded[:-2] + 0.05, padded[1:-1], padded[2:] + 0.05])
        best = three.argmin(axis=0)
        steps[row] = best - 1
        total = three.min(axis=0) + cost[row]
    path = np.zeros(height, np.int64)
    path[-1] = int(total.argmin())
    for row in range(height - 1, 0, -1):
        path[row - 1] = path[row] + steps[row, path[row]]
    return columns[path]


def in_lines(boxes: Sequence[tuple[int, int, int, int]]) -> list[list[int]]:
    """Return the numbers of digits line by line from the top, each line from left to right.

    A digit and the next one to its right are in one line, so that a line may slope.

    Args:
        boxes: Left, top, right and bottom of each.
    """
    if len(boxes) == 1:
        return [[0]]
    edges = _Edges.of([Box(slice(top, low), slice(left, end)) for left, top, end, low in boxes])
    middle = (edges.left + edges.right) / 2
    line = np.arange(len(boxes))
    for number in range(len(boxes)):
        rows, _ = edges.shared(number)
        lower = np.minimum(edges.height, edges.height[number])
        beside = (middle > middle[number]) & (rows >= SAME_LINE * lower)
        if beside.any():
            following = int(np.where(beside, edges.left, np.inf).argmin())
            line[line == line[following]] = line[number]
    lines = [np.flatnonzero(line == name) for name in np.unique(line)]
    lines.sort(key=lambda numbers: float((edges.top + edges.bottom)[numbers].mean()))
    return [sorted(numbers.tolist(), key=lambda number: float(middle[number])) for numbers in lines]
