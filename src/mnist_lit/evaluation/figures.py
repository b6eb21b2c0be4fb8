"""The figures of a run and of its network."""

import io
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor, nn

from mnist_lit.checkpoints.read import Trained
from mnist_lit.data.batches import Images
from mnist_lit.evaluation.evaluate import Evaluation
from mnist_lit.evaluation.history import History
from mnist_lit.facts import Facts
from mnist_lit.text import for_terminal

Augmentation = Callable[[Tensor], Tensor]
MOST_FILTERS = 64  # of the first layer, in its figure
# Around all that draws: no `matplotlibrc` has a say, and nothing between dollar signs is a formula.
defaults = rc_context({**rcParamsDefault, "text.parse_math": False})


@defaults
def png(figure: Figure, dpi: int = 120) -> bytes:
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
    network, facts = trained.network, trained.facts
    found: dict[str, Figure] = {}
    if history is not None:
        found |= {"curves": learning_curves(history), "learning_rate": learning_rate(history)}
    found["confusion"] = confusion(evaluation, facts)
    found["mistakes"] = mistakes(evaluation, images, facts)
    found["calibration"] = calibration(evaluation, facts)
    conv = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is not None and conv.in_channels == 1:
        found["first_layer"] = first_layer(conv.weight.detach()[:MOST_FILTERS, 0])
    return {name: png(figure) for name, figure in found.items()}


def plot(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of this size, in inches, and its axes side by side, with a grid.

    Its margins are fixed, because matplotlib's layouts would draw everything twice.
    """
    figure = Figure(figsize=(width, height))
    right, top = 1 - 0.15 / width, 1 - 0.35 / height
    figure.subplots_adjust(0.75 / width, 0.55 / height, right, top, wspace=0.2)
    side_by_side = list(figure.subplots(1, columns, squeeze=False).flat)
    for axes in side_by_side:
        axes.grid(alpha=0.3)
    return figure, side_by_side


def learning_curves(history: History) -> Figure:
    """Plot loss and error of training and validation against the epoch."""
    figure, (left, right) = plot(10, 4, columns=2)
    rows, validated, best = history.epochs, history.validated, history.best
    counted = [row for row in rows if row.train_accuracy is not None]
    trained = [100 * (1 - (row.train_accuracy or 0)) for row in counted]
    losses = [row.val_loss for row in validated if row.val_loss is not None]
    errors = [100 * (1 - row.val_accuracy) for row in validated]
    for axes, some, values, label in (
        (left, rows, [row.train_loss for row in rows], "training"),
        (left, validated, losses, "validation"),
        (right, counted, trained, "training, on the distorted images"),
        (right, validated, errors, "validation"),
    ):
        axes.plot([row.epoch for row in some], values, "o-", ms=3, label=label)
    star = f"best: epoch {best.epoch}, {best.val_accuracy:.2%} right"
    lowest = 100 * (1 - best.val_accuracy)
    right.plot(best.epoch, lowest, "*", ms=14, color="tab:red", label=star)
    left.set(title="Loss", xlabel="epoch", ylabel="mean loss", yscale="log")
    scale = "log" if all(errors + trained) else "linear"
    right.set(title="Error", xlabel="epoch", ylabel="% of images wrong", yscale=scale)
    for axes in (left, right):
        if axes.get_yscale() == "log":
            label_log(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.legend()
    return figure


def label_log(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers; a narrow range gets more of them."""
    low, high = axis.get_view_interval()
    subs = [1, 2, 5] if high / low > 10 else [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:.3g}")
    axis.set_minor_formatter(NullFormatter())


def learning_rate(history: History) -> Figure:
    """Plot the learning rate against the training step."""
    figure, (axes,) = plot(6, 3.5)
    axes.plot(history.learning_rates)
    axes.set(title="Learning rate", xlabel="training step", ylabel="learning rate")
    return figure


def confusion(evaluation: Evaluation, facts: Facts) -> Figure:
    """Draw the confusion matrix; only mistakes have colours, which the diagonal would hide."""
    counts = evaluation.confusion
    wrong = counts.clone().fill_diagonal_(0)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    most = max(1, int(wrong.max()))
    axes.imshow(wrong.numpy(), cmap="Reds", vmin=0, vmax=most)
    for true, predicted in counts.nonzero().tolist():
        count = str(int(counts[true, predicted]))
        text = axes.text(predicted, true, count, ha="center", va="center", size=8)
        text.set_fontweight("bold" if true == predicted else "normal")
        text.set_color("white" if int(wrong[true, predicted]) > most / 2 else "black")
    names = _names(facts)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{evaluation.correct} of {evaluation.total} test {facts.noun} right")
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(range(len(names)), names)
    return figure


def mistakes(evaluation: Evaluation, images: Tensor, facts: Facts) -> Figure:
    """Draw every misread test image, the most confident mistake first.

    Each has its position in the test set and the probability of the wrong answer. If there are more
    than 200, the first 30 are drawn; the title has the total.
    """
    wrong = (~evaluation.right).nonzero().flatten()
    confidence = evaluation.probabilities.amax(dim=1)
    shown = wrong[confidence[wrong].argsort(descending=True)][: 30 if len(wrong) > 200 else None]
    title = f"{len(wrong)} of {evaluation.total} test {facts.noun} read wrongly"
    if len(shown) < len(wrong):
        title += f", the {len(shown)} most confident of them"
    names = _names(facts)
    captions = [
        f"{names[evaluation.labels[i]]} read as {names[evaluation.predictions[i]]}"
        f"\n#{i}, {confidence[i]:.0%}"
        for i in shown
    ]
    return _sheet(images[shown, 0], title, captions)


def _names(facts: Facts) -> list[str]:
    return [for_terminal(name, 24) for name in facts.classes]


def first_layer(filters: Float[Tensor, "n k k"]) -> Figure:
    """Draw the filters of the first layer, each with its own scale and gray for 0."""
    columns = min(8, len(filters))
    rows = -(-len(filters) // columns)
    figure = Figure(figsize=(columns * 0.9, rows * 0.9 + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, weights in zip(grid.flat, filters, strict=False):
        largest = float(weights.abs().max())
        axes.imshow(weights.numpy(), cmap="gray", vmin=-largest, vmax=largest)
    figure.suptitle(f"{len(filters)} filters of the first convolution", size=10)
    return figure


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
    figure, (axes,) = plot(6, 4)
    counted = range(1, len(order) + 1)
    axes.plot(counted, wrong.cumsum(0), label="wrong")
    axes.plot(counted, doubt.cumsum(0), "--", color="0.4", label="expected, by their probabilities")
    axes.set(xlabel=f"the N least sure test {facts.noun}", ylabel="mistakes among them")
    axes.set(title=f"Expected calibration error {error:.2%}", xscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


@defaults
def augmented_samples(train: Images, augmentations: Sequence[Augmentation], facts: Facts) -> Figure:
    """Draw one training image per class in a row: the original, then augmented variants."""
    present = torch.unique(train.labels)[:10]
    first = torch.stack([(train.labels == label).nonzero()[0, 0] for label in present])
    images = train.images[first].float() / 255
    columns = [images]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(9 if augmentations else 0):
            varied = images
            for augmentation in augmentations:
                varied = augmentation(varied)
            columns.append(varied)
    how = ": original, 9 variants" if augmentations else " (not augmented)"
    return _sheet(torch.cat(columns, dim=1).flatten(0, 1), f"Training {facts.noun}{how}")


def _sheet(images: Tensor, title: str, captions: Sequence[str] = ()) -> Figure:
    """Draw images in rows of ten, each with its caption above it."""
    side = images.shape[-1]
    scale = side / 28  # captions and gaps were measured at 28 pixels
    columns, width, height = 10, round(36 * scale), round((48 if captions else 32) * scale)
    rows = max(1, -(-len(images) // columns))
    left, top = (width - side) // 2, height - side - round(2 * scale)
    around = (left, width - side - left, top, height - side - top, 0, rows * columns - len(images))
    cells = F.pad(images.float(), around).view(rows, columns, height, width)
    sheet = cells.transpose(1, 2).reshape(rows * height, columns * width)
    inches = 9 * rows * height / (columns * width)
    figure = Figure(figsize=(9, inches + 0.5))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98 * inches / (inches + 0.5)))
    for position, caption in enumerate(captions):
        row, column = divmod(position, columns)
        x, y = (column + 0.5) * width, row * height + 9 * scale
        axes.text(x, y, caption, ha="center", va="center", size=7)
    axes.imshow(sheet.numpy(), cmap="gray_r", interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()
    return figure
