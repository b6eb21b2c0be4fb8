"""Segment: group the strokes of a picture into digits.

Gaps separate the digits of a number. A group that is too wide for one digit is cut in several ways,
along the paths with the least ink; the networks classify all parts, and the scores decide
(heuristic over-segmentation; LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to
document recognition, 1998, section V).
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from scipy import ndimage

from mnist_lit.errors import PictureError
from mnist_lit.inference.boxes import Box, bounds, boxes_of, grown, shared, size, union, window
from mnist_lit.inference.masks import Gray, Mask, labelled, stroke, widest
from mnist_lit.inference.threshold import SPECK, TINY, Foreground, foreground, threshold

READ_HEIGHT = 48  # pixels of a digit's height; more do not help
READ_STROKE = 4  # pixels of a stroke's width; with fewer, gaps look like noise
LOOKS = 2  # repetitions at most, each with more pixels
MOST_SIDE = 2_000  # pixels of the picture on which small digits are found
# Shares of the picture's side:
THICK = 0.2  # any stroke is thinner than this
SMALL = 0.3  # a smaller digit is read from a part of the picture
FILLING = 0.9  # a digit that fills its picture touches the edges
# Shares of a digit's longer side:
REACH = 0.25  # largest distance of the other parts from the largest one
TOUCH = 0.25  # a part that touches an edge by more than this extends beyond it
# Shares of a digit's height:
WHOLE = 0.6  # a piece of this height is a digit, if another one is beside it
FRAGMENT = 0.5  # a lower piece is a part of the digit beside it, or a point or a dash
SIGN = 0.25  # of a digit's ink; a point or a dash has less
POINT = 0.7  # of a stroke's width; a smaller speck is noise
WIDE = 1.1  # a wider group may be two touching digits
NARROW = 0.35  # each of these digits is wider than this
OVERLAP = 0.5  # share of the narrower stroke's width, if one is above the other
SAME_LINE = 0.4  # share of the lower stroke's height that is beside the other
MOST_PARTS = 8  # of a group


class Found(NamedTuple):
    """A possible digit on a picture.

    Attributes:
        box: Its box, in pixels of the reduced picture.
        ink: The amount of its ink at each pixel, from 0 to 1, without other strokes.
        ways: Other segmentations of it, each into two digits or more.
    """

    box: Box
    ink: Gray
    ways: tuple[tuple["Found", ...], ...] = ()


class Segments(NamedTuple):
    """The possible digits of a picture.

    Attributes:
        found: The digits, in any order.
        scale: The side of the picture, divided by that of the reduced one of their boxes.
        left: Whether something of a digit's size was left out, or extends beyond the picture.
        signs: Whether there seem to be signs or decimal points beside digits.
    """

    found: list[Found]
    scale: float
    left: bool
    signs: bool = False


def segment(gray: Gray, several: bool, joined: float = 1) -> Segments:
    """Return the possible digits of a picture, in any order.

    A digit that is small on a large picture is found on a reduced copy, and read from the part of
    the picture around it.

    Args:
        gray: The picture, from 0 (black) to 1 (white).
        several: Whether there may be several digits; otherwise only one is returned.
        joined: Pieces less than this apart are one part; as a multiple of a stroke's width.

    Raises:
        PictureError: No ink is found.
    """
    seen = threshold(gray)
    left, signs = seen.is_uneven, False
    digit = _only_piece(seen.mask) if several else None
    if digit is None and several and max(gray.shape) > TINY:
        seen, groups = _groups_with_enough_pixels(gray, seen, joined)
        numbers = enumerate(groups.boxes, 1)
        signs = any(_has_sign(groups.labels[window(box)] == number) for number, box in numbers)
        signs = signs or _has_point(groups, stroke(seen.mask))
        left |= groups.left or signs
        if len(groups.boxes) > 1 or _is_wide(groups.boxes[0]):
            return Segments([*_found(seen, groups)], max(gray.shape) / seen.side, left, signs)
    if digit is None:
        digit, leaves = one_digit(seen.mask)
        left |= leaves
    elif (size(bounds(digit)) < FILLING * np.array(seen.mask.shape)).any():
        edges = [edge.sum() for edge in (digit[0], digit[-1], digit[:, 0], digit[:, -1])]
        left |= bool(np.count_nonzero(edges) > 1 or sum(edges) > TOUCH * size(bounds(digit)).max())
    scale = max(gray.shape) / seen.side
    ink = seen.ink(digit)
    box = bounds(ink > 0)
    longer = size(box).max()
    if scale > 1 and longer < SMALL * seen.side:
        around = grown(box, 0.5 * longer + 2, gray.shape, scale)
        with suppress(PictureError):  # the part alone may have too little contrast
            closer = foreground(gray[window(around)])
            ink = closer.ink(one_digit(closer.mask)[0])
    return Segments([Found(bounds(digit) - seen.margin, ink)], scale, left, signs)


def _only_piece(mask: Mask) -> Mask | None:
    """Return the only piece, apart from specks, if it is not too wide for one digit."""
    labels = labelled(mask)
    areas = np.bincount(labels.ravel())[1:]
    piece = labels == areas.argmax() + 1
    alone = (areas >= SPECK * areas.max()).sum() == 1
    return piece if alone and not _is_wide(bounds(piece)) else None


def _is_wide(box: Box) -> bool:
    height, width = size(box)
    return bool(width > WIDE * height)


class _Parts(NamedTuple):
    """The parts of a mask; pieces closer than a stroke's width, as dashes, are one part.

    Attributes:
        labels: The number of each pixel's part, from 1; 0 is background.
        boxes: The box of each part.
        areas: Its number of pixels.
        touching: Its number of pixels on each edge.
        inside: Whether it lies inside the picture, or at most touches one edge a little.
        main: The index of the main part, from 0. That is the largest one, but parts that extend
            beyond the picture count less: they are the edge of a table or a shadow more often than
            a digit. They count least if they are thicker than any stroke.
    """

    labels: Int[ndarray, "h w"]
    boxes: Box
    areas: Int[ndarray, " n"]
    touching: Int[ndarray, "4 n"]
    inside: Bool[ndarray, " n"]
    main: int

    def leave(self, kept: Bool[ndarray, " n"], height: float) -> bool:
        """Return whether a part of a digit's size is not kept, or a kept one is not inside."""
        large = size(self.boxes).max(axis=1) >= FRAGMENT * height
        large &= self.areas >= SPECK * self.areas[self.main]
        return bool((large & ~(kept & self.inside)).any())


def _parts_of(mask: Mask, joined: float = 1) -> _Parts:
    """Divide a mask into parts."""
    near = ndimage.distance_transform_edt(~mask) <= joined * (stroke(mask) + 1) / 2
    labels = np.where(mask, labelled(near), 0)
    boxes, areas = boxes_of(labels), np.bincount(labels.ravel())[1:]
    edges = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    touching = np.stack([np.bincount(edge, minlength=len(boxes) + 1)[1:] for edge in edges])
    inside = (touching > 0).sum(axis=0) < 2
    inside &= touching.sum(axis=0) <= TOUCH * size(boxes).max(axis=1)
    weights = np.where(inside, 1.0, 0.2)
    for part in np.flatnonzero(~inside):
        if widest(labels == part + 1) > THICK * max(mask.shape):
            weights[part] = SPECK
    return _Parts(labels, boxes, areas, touching, inside, int((areas * weights).argmax()))


def one_digit(mask: Mask) -> tuple[Mask, bool]:
    """Keep the main part, and the parts near it that are no specks.

    Also return whether something of a digit's size is left out, or extends beyond the picture.
    """
    parts = _parts_of(mask)
    labels, boxes, areas, _, inside, main = parts
    distant = -REACH * size(boxes[main]).max()
    kept = (areas >= SPECK * areas[main]) & (shared(boxes, boxes[main]) > distant).all(axis=1)
    kept &= inside | (np.arange(len(boxes)) == main)
    digit = np.isin(labels, np.flatnonzero(kept) + 1)
    return digit, parts.leave(kept, float(size(boxes[main]).max()))


class _Groups(NamedTuple):
    """Strokes grouped into digits.

    Attributes:
        labels: The number of the group at each pixel, from 1.
        boxes: The box of each group.
        within: All ink that does not extend beyond an edge, including specks.
        left: Whether something of a digit's size was left out, or extends beyond the picture.
    """

    labels: Int[ndarray, "h w"]
    boxes: Box
    within: Mask
    left: bool


def _groups_with_enough_pixels(
    gray: Gray, seen: Foreground, joined: float
) -> tuple[Foreground, _Groups]:
    """Group strokes; repeat with more pixels while digits have too few."""
    groups = _groups(seen.mask, joined)
    for _ in range(LOOKS):
        height = float(np.median(size(groups.boxes)[:, 0]))
        wide = stroke(seen.mask)
        larger = max(READ_STROKE / wide, min(READ_HEIGHT / height, 2 * READ_STROKE / wide))
        side = min(max(gray.shape), MOST_SIDE, round(seen.side * larger))
        if side < 1.2 * seen.side:
            break
        seen = seen.closer(gray, groups.within, side)
        closer = _groups(seen.mask, joined)
        groups = closer._replace(left=groups.left or closer.left)
    return seen, groups


def _groups(mask: Mask, joined: float) -> _Groups:
    found = _parts_of(mask, joined)
    parts, boxes, areas, touching, inside, main = found
    if not inside[main]:
        digit, left = one_digit(mask)
        return _Groups(digit.astype(np.int32), bounds(digit)[None], mask, left)
    pieces: list[tuple[Box, Mask]] = []
    for part in np.flatnonzero(inside & (areas >= SPECK * areas[main])):
        pieces += _pieces(parts[window(boxes[part])] == part + 1, boxes[part])
    pieces.sort(key=lambda piece: -size(piece[0])[0])
    labels = np.zeros(mask.shape, np.int32)
    digits = np.empty((0, 2, 2), int)
    tallest: list[int] = []  # the area of the tallest piece of each digit
    for box, piece in pieces:
        owner = next(iter(np.flatnonzero(_are_owners(digits, box))), len(digits))
        if owner == len(digits):
            digits = np.append(digits, box[None], axis=0)
            tallest.append(int(piece.sum()))
        digits[owner] = union(np.stack([digits[owner], box]))
        labels[window(box)][piece] = owner + 1
    heights = size(digits)[:, 0]
    tall = heights >= FRAGMENT * heights[np.argmax(tallest)]
    numbers = np.append(0, np.where(tall, tall.cumsum(), 0))
    within = np.isin(parts, np.flatnonzero(inside) + 1)
    # What touches an edge beside a digit may be a frame; views on more paper tell.
    whole = inside & ~touching.any(axis=0) if tall.sum() > 1 else inside
    left = found.leave(whole, float(np.median(heights[tall]))) or not tall.all()
    return _Groups(numbers[labels], digits[tall], within, left)


def _has_sign(digit: Mask) -> bool:
    """Return whether one or two short pieces, as a dash or a colon, are beside the rest."""
    pieces = labelled(digit)
    boxes, areas = boxes_of(pieces), np.bincount(pieces.ravel())[1:]
    heights = size(boxes)[:, 0] / len(digit)
    main = heights.argmax()
    shares = areas / areas[main]
    signs = (heights < FRAGMENT) & (shares > SPECK) & (shares < SIGN)
    signs &= shared(boxes, boxes[main])[:, 1] <= 0
    return bool(heights[main] >= WHOLE and 0 < signs.sum() <= 2)


def _has_point(groups: _Groups, wide: int) -> bool:
    """Return whether one or two specks beside digits are as large as a point of the pen."""
    specks = boxes_of(labelled(groups.within & (groups.labels == 0)))
    near = shared(specks, union(groups.boxes)).min(axis=1) > 0
    points = near & (size(specks).min(axis=1) >= POINT * wide)
    return bool(len(groups.boxes) > 1 and 0 < points.sum() <= 2)


def _are_owners(digits: Box, box: Box) -> Bool[ndarray, " n"]:
    """Return for each digit whether a piece, which is not taller, is a part of it."""
    rows, columns = shared(digits, box).T
    heights, widths = size(digits).T
    height, width = size(box)
    near = np.minimum(rows, columns) > -REACH * heights
    low = height < FRAGMENT * heights
    crossing = columns >= OVERLAP * np.minimum(widths, width)
    crossing &= rows >= SAME_LINE * height
    return near & (low | crossing)


def _pieces(own: Mask, box: Box) -> Iterator[tuple[Box, Mask]]:
    """Yield a part as it is, or its digits if they are side by side with narrow gaps."""
    numbers = labelled(own)
    boxes = boxes_of(numbers)
    whole = np.flatnonzero(size(boxes)[:, 0] >= WHOLE * size(box)[0])
    apart = all(
        shared(one, two)[1] < OVERLAP * min(size(one)[1], size(two)[1])
        for one, two in combinations(boxes[whole], 2)
    )
    if len(whole) < 2 or not apart:
        yield box, own
        return
    # Each pixel belongs to the nearest digit.
    others = ~np.isin(numbers, whole + 1)
    nearest = ndimage.distance_transform_edt(others, return_distances=False, return_indices=True)
    owner = np.where(own, numbers[tuple(nearest)], 0)
    for n in whole + 1:
        piece = owner == n
        around = bounds(piece)
        yield around + box[:, :1], piece[window(around)]


def _found(seen: Foreground, groups: _Groups) -> Iterator[Found]:
    usual = float(np.median(size(groups.boxes)[:, 1]))

    def found(box: Box, numbers: ndarray, cut: bool) -> Found:
        height, width = size(box)
        near = grown(box, max(4, 0.3 * max(height, width)), seen.mask.shape)
        ink = seen.ink(np.isin(groups.labels[window(near)], numbers + 1), window(near))
        wide = len(groups.boxes) > 2 and width > max(1.6 * usual, 0.8 * height)
        return Found(box, ink, tuple(_parted(ink, near)) if cut and (wide or _is_wide(box)) else ())

    for cluster in _clusters(groups.boxes):
        box = union(groups.boxes[cluster])
        apart = not 1 < len(cluster) <= MOST_PARTS or _is_wide(box)
        founds = [found(groups.boxes[n], cluster[cluster == n], cut=apart) for n in cluster]
        if apart:
            yield from founds
        else:  # perhaps the strokes of one digit
            yield found(box, cluster, cut=False)._replace(ways=(tuple(founds),))


def _clusters(boxes: Box) -> list[Int[ndarray, " m"]]:
    """Return groups of digits that are near each other, by their numbers."""
    heights = size(boxes)[:, 0]
    cluster = np.arange(len(boxes))
    for number, box in enumerate(boxes):
        near = shared(boxes, box).min(axis=1) > -REACH * np.maximum(heights, heights[number])
        cluster[np.isin(cluster, cluster[near])] = cluster[number]
    return [np.flatnonzero(cluster == name) for name in np.unique(cluster)]


def _parted(ink: Gray, around: Box) -> Iterator[tuple[Found, ...]]:
    """Cut a group into two or more digits, along the paths with the least ink."""
    box = bounds(ink > 0)
    ink = ink[window(box)]
    corner = around[:, :1] + box[:, :1]
    height, width = ink.shape
    for count in range(2, MOST_PARTS + 1):
        if not NARROW * height <= width / count <= WIDE * height:
            continue
        # Digits differ in width, so there are several places for each of a few cuts.
        shifts = (-0.3, 0, 0.3) if count <= 4 else (0,)
        paths = [
            [_seam(ink, (place + shift) / count, 0.2 / count) for shift in shifts]
            for place in range(1, count)
        ]
        for seams in product(*paths):
            part = (np.arange(width) >= np.array(seams)[:, :, None]).sum(axis=0)
            inks = [np.where(part == number, ink, 0) for number in range(count)]
            if all((one > 0.5).any() for one in inks):
                yield tuple(Found(bounds(one > 0.25) + corner, one) for one in inks)


def _seam(ink: Gray, at: float, within: float) -> Int[ndarray, " h"]:
    """Return the column at which each row is cut: a path with little ink.

    Args:
        ink: The amount of ink, from 0 to 1.
        at: Wanted place of the path, as a share of the width.
        within: Largest distance from that place, as a share of the width.
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
        # A step aside costs a little, so that a path through the background is straight.
        three = np.stack([padded[:-2] + 0.05, padded[1:-1], padded[2:] + 0.05])
        steps[row] = three.argmin(axis=0) - 1
        total = three.min(axis=0) + cost[row]
    path = [int(total.argmin())]
    for step in steps[:0:-1]:  # from the last row to the second
        path.append(path[-1] + step[path[-1]])
    return columns[path[::-1]]
