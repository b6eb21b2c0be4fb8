"""The pictures of a run and of its network."""

import io
import warnings
from collections.abc import Callable, Sequence

import torch
from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor, nn

from mnist_lit.data.batches import Images
from mnist_lit.evaluation.evaluate import Evaluation
from mnist_lit.evaluation.history import History
from mnist_lit.facts import Facts
from mnist_lit.text import for_terminal

Augmentation = Callable[[Tensor], Tensor]


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Return a figure as the content of a PNG file.

    Names between dollar signs are no formulas. A character that the font lacks becomes a box.
    """
    stored = io.BytesIO()
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(stored, format="png", dpi=dpi)
    return stored.getvalue()


def of_training(history: History) -> dict[str, Figure]:
    """Draw what the epochs tell."""
    return {"curves": learning_curves(history), "learning_rate": learning_rate(history)}


def of_network(
    network: nn.Module, evaluation: Evaluation, images: Tensor, facts: Facts
) -> dict[str, Figure]:
    """Draw what a network makes of the test images, and its first filters if it has such.

    Args:
        network: The network.
        evaluation: What it said of the test images.
        images: The test images, ``uint8 [N, 1, side, side]``.
        facts: Of the images.
    """
    figures = {
        "confusion": confusion(evaluation, facts),
        "mistakes": mistakes(evaluation, images, facts),
        "calibration": calibration(evaluation, facts),
    }
    if (filters := first_layer(network)) is not None:
        figures["filters"] = filters
    return figures


def learning_curves(history: History) -> Figure:
    """Plot loss and error of training and validation against the epoch."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    _place(figure)
    epochs = [row.epoch for row in history.epochs]
    rows = history.validated
    validated = [row.epoch for row in rows]
    left.plot(epochs, [row.train_loss for row in history.epochs], "o-", ms=3, label="training")
    left.plot(validated, [row.rank[1] for row in rows], "o-", ms=3, label="validation")
    left.set(title="Loss", xlabel="epoch", ylabel="mean loss", yscale="log")
    label_log(left.yaxis)
    left.legend()
    best = history.best
    counted = [row for row in history.epochs if row.train_accuracy is not None]
    trained = [100 * (1 - (row.train_accuracy or 0)) for row in counted]
    right.plot(
        *([row.epoch for row in counted], trained, "o-"),
        **{"ms": 3, "color": "tab:blue", "label": "training, on the distorted images"},
    )
    errors = [100 * (1 - row.val_accuracy) for row in rows]
    right.plot(validated, errors, "o-", ms=3, color="tab:orange", label="validation")
    right.plot(
        best.epoch,
        100 * (1 - best.val_accuracy),
        "*",
        ms=14,
        color="tab:red",
        label=f"best: epoch {best.epoch}, {best.val_accuracy:.2%} right",
    )
    right.set(title="Error", xlabel="epoch", ylabel="% of images wrong")
    if all(errors + trained):
        right.set_yscale("log")
        label_log(right.yaxis)
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.3)
    return figure


def _place(figure: Figure) -> None:
    """Leave room, in inches, for titles and labels: matplotlib's layouts would draw all twice."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        *(0.75 / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.35 / height), wspace=0.2
    )


def label_log(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, enough of them for a narrow range too."""
    low, high = axis.get_view_interval()
    subs = [1, 2, 5] if high / low > 10 else [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:.3g}")
    axis.set_minor_formatter(NullFormatter())


def learning_rate(history: History) -> Figure:
    """Plot the learning rate against the training step."""
    figure = Figure(figsize=(6, 3.5))
    axes = figure.subplots()
    _place(figure)
    axes.plot(history.learning_rates)
    axes.set(title="Learning rate", xlabel="training step", ylabel="learning rate")
    axes.grid(alpha=0.3)
    return figure


def confusion(evaluation: Evaluation, facts: Facts) -> Figure:
    """Draw the confusion matrix; only mistakes are coloured, as the diagonal would drown them."""
    counts = evaluation.confusion
    wrong = counts.clone().fill_diagonal_(0)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    most = max(1, int(wrong.max()))
    axes.imshow(wrong.numpy(), cmap="Reds", vmin=0, vmax=most)
    classes = range(len(counts))
    for true in classes:
        for predicted in classes:
            count = int(counts[true, predicted])
            if count:
                text = axes.text(predicted, true, str(count), ha="center", va="center", size=8)
                text.set_fontweight("bold" if true == predicted else "normal")
                text.set_color("white" if int(wrong[true, predicted]) > most / 2 else "black")
    axes.set(
        title=f"{evaluation.correct} of {evaluation.total} test {facts.noun} right",
        xlabel="predicted class",
        ylabel="true class",
        xticks=classes,
        yticks=classes,
        yticklabels=(names := _names(facts)),
    )
    axes.set_xticklabels(names, rotation=90 if max(map(len, names)) > 2 else 0)
    return figure


def mistakes(evaluation: Evaluation, images: Tensor, facts: Facts) -> Figure:
    """Draw every wrongly read test image, the most confident mistake first.

    Each has its position among the test images and the probability of what was read. Of more than
    200 the first 30 are drawn; the title says how many there are.
    """
    wrong = (evaluation.predictions != evaluation.labels).nonzero().flatten()
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


def first_layer(network: nn.Module) -> Figure | None:
    """Draw the filters that meet the image, each on a scale of its own with gray for 0.

    None where a network does not begin with a convolution of the image.
    """
    conv = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is None or conv.in_channels != 1:
        return None
    filters = conv.weight.detach()[:, 0]
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
    """Plot how many of the least sure predictions are wrong, and how many they say will be.

    The title has the expected calibration error over fifteen groups of equally many images (Guo et
    al., On calibration of modern neural networks, 2017).
    """
    confidence, order = evaluation.probabilities.amax(dim=1).double().sort()
    wrong = (evaluation.predictions != evaluation.labels)[order].double()
    doubt = 1 - confidence
    groups = zip(doubt.tensor_split(15), wrong.tensor_split(15), strict=True)
    error = sum(float((d.mean() - w.mean()).abs()) * len(d) for d, w in groups) / len(order)
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    _place(figure)
    counted = range(1, len(order) + 1)
    axes.plot(counted, wrong.cumsum(0), label="wrong")
    axes.plot(counted, doubt.cumsum(0), "--", color="0.4", label="expected, by their probabilities")
    axes.set(
        title=f"Expected calibration error {error:.2%}",
        xlabel=f"the N least sure test {facts.noun}",
        ylabel="mistakes among them",
        xscale="log",
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def augmented_samples(train: Images, augmentations: Sequence[Augmentation], facts: Facts) -> Figure:
    """Draw a training image of each class, one a row: as it is, then as training may see it."""
    present = torch.unique(train.labels)[:10]
    first = torch.stack([(train.labels == label).nonzero()[0, 0] for label in present])
    images = train.images[first].float() / 255
    title = f"Training {facts.noun}"
    if not augmentations:
        return _sheet(images[:, 0], f"{title} (not augmented)")
    columns = [images]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(9):
            varied = images
            for augmentation in augmentations:
                varied = augmentation(varied)
            columns.append(varied)
    return _sheet(torch.cat(columns, dim=1).flatten(0, 1), f"{title}: original, 9 variants")


def _sheet(images: Tensor, title: str, captions: Sequence[str] = ()) -> Figure:
    """Lay images out ten a row, each with its caption above it."""
    side = images.shape[-1]
    scale = side / 28  # captions and gaps were measured at 28 pixels
    columns, width, height = 10, round(36 * scale), round((48 if captions else 32) * scale)
    rows = max(1, -(-len(images) // columns))
    sheet = torch.zeros(rows * height, columns * width)
    inches = 9 * rows * height / (columns * width)
    figure = Figure(figsize=(9, inches + 0.5))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98 * inches / (inches + 0.5)))
    for position, image in enumerate(images):
        top, left = position // columns * height, position % columns * width
        below, beside = top + height - side - round(2 * scale), left + (width - side) // 2
        sheet[below : below + side, beside : beside + side] = image
        if captions:
            x, y = left + width / 2, top + 9 * scale
            axes.text(x, y, captions[position], ha="center", va="center", size=7)
    axes.imshow(sheet.numpy(), cmap="gray_r", interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()
    return figure
