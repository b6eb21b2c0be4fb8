"""The figures of a run and of its network."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image
from torch import Tensor, nn

from mnist_lit.checkpoints.read import Trained
from mnist_lit.data.batches import Images
from mnist_lit.evaluation.evaluate import Evaluation
from mnist_lit.evaluation.history import History
from mnist_lit.facts import Facts
from mnist_lit.text import for_terminal

Augmentation = Callable[[Tensor], Tensor]
Points = tuple[Any, Any]  # x and y, two sequences of numbers
Lines = Mapping[str, Sequence[Points]]
PALETTE = Path(__file__).with_name("palette.css").read_text()
LIGHT = dict(re.findall(r"--(\w+): light-dark\((#\w+)", PALETTE))
SERIES = ("mark", "ochre", "good", "plum", "quiet")  # colours of the lines of a figure
MISTAKES = 10  # in a row
MOST_FILTERS = 64  # of the first layer, in its figure
WIDTH = 4.6  # of a figure, in inches; a telephone scales it to three quarters
DPI = 144
SHORT = 16  # most characters of a name beside a line
# Around all that draws: no `matplotlibrc` has a say, and nothing between dollar signs is a formula.
defaults = rc_context({**rcParamsDefault, "text.parse_math": False})


@defaults
def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Return a figure as the content of a PNG file.

    A character that the font lacks becomes a box.
    """
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stored, format="png", dpi=dpi)
    return stored.getvalue()


@defaults
def drawn(
    trained: Trained, evaluation: Evaluation, images: Tensor, history: History | None = None
) -> dict[str, bytes]:
    """Draw the figures of a network, as PNG: its epochs, mistakes and first filters.

    Args:
        trained: The network; its filters are drawn if it begins with a convolution.
        evaluation: Its answers for the test images.
        images: The test images, ``uint8 [N, 1, side, side]``.
        history: The epochs, if they are known.
    """
    found: dict[str, bytes] = {}
    if history is not None:
        found["curves"] = png(learning_curves(history))
        found["learning_rate"] = png(learning_rate(history))
    found["calibration"] = png(calibration(evaluation, trained.facts))
    found["mistakes"] = tiled(1 - images[mistaken(evaluation), 0] / 255, MISTAKES)
    conv = next((m for m in trained.network.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is not None and conv.in_channels == 1:
        found["first_layer"] = first_layer(conv.weight.detach()[:MOST_FILTERS, 0])
    return found


def plot(
    width: float = WIDTH, height: float = 3, names: Iterable[str] = (), **grid: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row.

    Its margins are fixed, because matplotlib's layouts would draw everything twice.

    Args:
        width: Its width, in inches.
        height: Its height, in inches.
        names: Names that ``overlay`` writes to the right of the axes.
        grid: ``nrows``, ``ncols`` and other arguments of ``Figure.subplots``.
    """
    figure = Figure(figsize=(width, height))
    right = 1 - (0.2 + 0.078 * min(SHORT, max(map(len, names), default=0))) / width
    figure.subplots_adjust(0.55 / width, 0.5 / height, right, 1 - 0.35 / height, 0.25, 0.4)
    each = list(figure.subplots(squeeze=False, **grid).flat)
    for axes in each:
        axes.grid(color=LIGHT["line"], lw=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, each


def overlay(
    axes: Axes, said: str, lines: Lines, along: str = "epoch", log: bool = True, marker: str = "o"
) -> None:
    """Plot lines; the lines of a name have one colour, and the name is at their end.

    Args:
        axes: The axes to plot on.
        said: Title of the axes.
        lines: Lines by their names.
        along: Label of the x-axis, whose values are whole numbers.
        log: Whether the y-axis is logarithmic, if all values are above 0.
        marker: Marker of each value; empty if there are many values.
    """
    axes.yaxis.set_major_formatter("{x:,g}")
    ends = []
    for place, (name, each) in enumerate(lines.items()):
        color, dashes = LIGHT[SERIES[place % len(SERIES)]], "--" if place >= len(SERIES) else "-"
        for x, y in each:
            axes.plot(x, y, marker=marker, ms=3, lw=1.2, ls=dashes, color=color)
        ends += [(float(y[-1]), name, color) for _, y in each[-1:] if len(y)]
    if log and all(value > 0 for each in lines.values() for _, y in each for value in y):
        logarithmic(axes.yaxis)
    axes.locator_params(axis="x", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(along, size=9)
    axes.set_title(said, loc="left", size=10)
    axes.get_ylim()  # matplotlib finds the limits when they are asked for
    to_axes, height = axes.transData + axes.transAxes.inverted(), -1.0
    for y, name, color in sorted(ends):  # at least a line of text above the last one
        above = height + 0.15 * axes.figure.dpi / axes.bbox.height
        height = max(above, to_axes.transform((1, y))[1])
        beside: Any = {"transform": axes.transAxes, "va": "center", "color": color}
        axes.text(1.02, height, for_terminal(name, SHORT), size=8, **beside)


def points(history: History, name: str) -> Points:
    """Return epochs and their values of an attribute; for an accuracy, the error in per cent."""
    rows = history.validated if name.startswith("val") else history.epochs
    known = {row.epoch: y for row in rows if (y := getattr(row, name)) is not None}
    return [*known], [100 * (1 - y) if name.endswith("accuracy") else y for y in known.values()]


@defaults
def curves(lines: Mapping[str, tuple[History | None, str]], width: float = WIDTH) -> Figure:
    """Plot loss and error against the epoch.

    Args:
        lines: A history, and ``train`` or ``val``, by the name of the line; without a history, no
            line is drawn, and its colour stays unused.
        width: Width of the figure, in inches.
    """
    figure, each = plot(width, 5.2, lines, nrows=2)
    kinds = {"loss": "Loss", "accuracy": "Error, % of the images"}
    for axes, (kind, said) in zip(each, kinds.items(), strict=True):
        known = {n: [points(one, f"{of}_{kind}")] if one else [] for n, (one, of) in lines.items()}
        overlay(axes, said, known)
    return figure


def learning_curves(history: History) -> Figure:
    """Plot loss and error of training and validation against the epoch."""
    figure = curves({"validation": (history, "val"), "training": (history, "train")})
    best, axes = history.best, figure.axes[1]
    axes.plot(best.epoch, 100 * (1 - best.val_accuracy), "*", ms=12, color=LIGHT["mark"])
    said = f"Error, %   (★ best epoch, {best.epoch}: {best.val_accuracy:.2%} right)"
    axes.set_title(said, loc="left", size=10)
    return figure


def logarithmic(axis: XAxis | YAxis) -> None:
    """Give an axis a logarithmic scale with plain numbers; a narrow range gets more of them."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    ratio = high / low
    subs = [1] if ratio > 100 else [1, 2, 5] if ratio > 10 else [1, 1.5, 2, 3, 5, 7]
    axis.set_major_locator(LogLocator(subs=subs) if ratio > 2 else MaxNLocator(5))
    axis.set_major_formatter("{x:.3g}")
    axis.set_minor_formatter(NullFormatter())


def learning_rate(history: History) -> Figure:
    """Plot the learning rate against the training step."""
    figure, (axes,) = plot(3.2, 2)
    line = range(len(history.learning_rates)), history.learning_rates
    overlay(axes, "Learning rate", {"": [line]}, "training step", log=False, marker="")
    return figure


def mistaken(evaluation: Evaluation) -> list[int]:
    """Return the positions of misread test images, the most confident mistake first.

    If there are more than 200, the first 30 are returned.
    """
    wrong = (~evaluation.right).nonzero().flatten()
    order = evaluation.probabilities[wrong].amax(dim=1).argsort(descending=True)
    return list(wrong[order][: 30 if len(wrong) > 200 else None].tolist())


def first_layer(filters: Float[Tensor, "n k k"]) -> bytes:
    """Draw the filters of the first layer, each with its own scale and gray for 0."""
    return tiled(filters / filters.abs().amax(dim=(1, 2), keepdim=True) / 2 + 0.5, 8, zoom=16)


def calibration(evaluation: Evaluation, facts: Facts) -> Figure:
    """Plot the actual and the expected mistakes among the least sure predictions.

    The title has the expected calibration error over fifteen groups of equally many images (Guo et
    al., On calibration of modern neural networks, 2017).
    """
    confidence, order = evaluation.probabilities.amax(dim=1).double().sort()
    wrong = (~evaluation.right)[order].double()
    doubt = 1 - confidence
    groups = zip(doubt.tensor_split(15), wrong.tensor_split(15), strict=True)
    error = sum(float((d.mean() - w.mean()).abs()) * len(d) for d, w in groups) / len(order)
    figure, (axes,) = plot(names=["expected"])
    said, counted = f"Mistakes among them; calibration error {error:.2%}", range(1, len(order) + 1)
    lines = {"wrong": [(counted, wrong.cumsum(0))], "expected": [(counted, doubt.cumsum(0))]}
    along = f"the N least sure test {facts.noun}"
    overlay(axes, said, lines, along, log=False, marker="")
    axes.lines[1].set_linestyle("--")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def augmented_samples(train: Images, augmentations: Sequence[Augmentation]) -> bytes:
    """Draw one training image per class in a row: the original, then augmented variants."""
    present = torch.unique(train.labels)[:10]
    first = torch.stack([(train.labels == label).nonzero()[0, 0] for label in present])
    images = train.images[first].float() / 255
    columns = [images]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(9 if augmentations else 0):
            columns.append(reduce(lambda varied, one: one(varied), augmentations, images))
    return tiled(1 - torch.cat(columns, dim=1).flatten(0, 1), len(columns))


def tiled(images: Float[Tensor, "n side side"], columns: int, zoom: int = 2) -> bytes:
    """Return images in a grid, filled row by row, as the content of a PNG file.

    Args:
        images: Images from 0, black, to 1, white. Each gets a white edge of one pixel at the right
            and at the bottom.
        columns: Number of columns.
        zoom: Side of an image's pixel in the file.
    """
    rows, side = max(1, -(-len(images) // columns)), images.shape[-1] + 1
    cells = F.pad(images, (0, 1, 0, 1, 0, rows * columns - len(images)), value=1)
    sheet = cells.view(rows, columns, side, side).transpose(1, 2).reshape(rows * side, -1)
    large = sheet.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    stored = io.BytesIO()
    Image.fromarray((255 * large).clamp(0, 255).byte().numpy()).save(stored, "PNG")
    return stored.getvalue()
