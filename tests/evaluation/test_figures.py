import io
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import mnist_lit
from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.config.lines import errors_as_lines
from mnist_lit.data.augmentation import RandomDistortion
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.evaluate import Evaluation
from mnist_lit.evaluation.history import Epoch, History

PACKAGE = Path(mnist_lit.__file__).parent


def history() -> History:
    history = History()
    for epoch in range(1, 6):
        history.epochs.append(Epoch(epoch, 1 / epoch, 0.5 / epoch, 100 // epoch, 10_000, 0.1, 1.0))
    history.learning_rates = [0.1, 0.2, 0.1, 0.0]
    return history


def evaluation(data: MNISTDataModule, wrong: int) -> Evaluation:
    logits = torch.nn.functional.one_hot(data.test.labels, 10).float() * 5
    logits[:wrong] = logits[:wrong].roll(1, dims=1)
    return Evaluation(logits.softmax(dim=1), data.test.labels, 0.1)


def test_no_figure_is_blank(mnist: MNISTDataModule) -> None:
    distort = RandomDistortion(degrees=15)
    drawn = {
        **figures.drawn(
            pretrained.load("final"), evaluation(mnist, 40), mnist.test.images, history()
        ),
        "augmentation": figures.augmented_samples(mnist.train, [distort]),
    }
    assert len(drawn) == 6
    for name, picture in drawn.items():
        dark = (np.asarray(Image.open(io.BytesIO(picture)).convert("L")) < 128).mean()
        assert 0.002 < dark < 0.5, name


def test_names_are_drawn_as_they_are() -> None:
    names = ("$\\foo$", "$x_", "数字", "五", "خمسة", "🂡", "w" * 1000, "{7}", "%s", r"\n")
    assert figures.png(figures.curves({name: (history(), "val") for name in names}))


def overlaps(axes: Axes) -> list[tuple[str, str]]:
    """Return the texts beside axes that lie over each other."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figures.png(figure)
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    pairs = itertools.combinations(boxes, 2)
    return [(one, two) for one, two in pairs if boxes[one].overlaps(boxes[two])]


def test_names_beside_lines_keep_clear_of_each_other() -> None:
    same = {f"{number} network": (history(), "val") for number in range(1, 11)}
    figure = figures.curves(same)
    for axes in figure.axes:
        assert len(axes.texts) == 10
        assert not overlaps(axes)
        styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
        assert len(styles) == 10


def test_every_colour_of_a_figure_is_one_of_the_palette() -> None:
    assert {*figures.SERIES} <= {*figures.LIGHT}
    literal = re.compile(r"#[0-9a-f]{3,6}\b", re.IGNORECASE)
    homes = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".css", ".html")]
    assert [home.name for home in homes if literal.search(home.read_text())] == ["palette.css"]


def test_no_matplotlibrc_has_a_say(mnist: MNISTDataModule) -> None:
    given = Trained(nn.Identity(), MNIST), evaluation(mnist, 5), mnist.test.images, history()
    plain = figures.drawn(*given)
    with rc_context({"axes.facecolor": "red", "figure.dpi": 7, "text.usetex": True}):
        assert figures.drawn(*given) == plain


def test_a_command_takes_no_backend_of_a_matplotlibrc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://evil")
    with errors_as_lines():
        assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.parametrize("losses", [[0.4, 0.3], [0.31, 0.3, 0.29], [2.0, 0.1, 0.01], [1.0]])
def test_the_loss_axis_can_be_read_however_short_the_run(losses: list[float]) -> None:
    short = History()
    for epoch, loss in enumerate(losses, start=1):
        short.epochs.append(Epoch(epoch, loss, loss, 100, 10_000, 0.1, 1.0, 0.9))
    figure = figures.learning_curves(short)
    figures.png(figure)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        labels = [
            label.get_text()
            for label in axes.get_yticklabels()
            if low <= label.get_position()[1] <= high
        ]
        assert len(labels) == len(set(labels))
        assert 2 <= len(labels) <= 12
        assert all(float(label) for label in labels)


def test_calibration_counts_what_is_wrong_and_what_is_doubted(mnist: MNISTDataModule) -> None:
    found = evaluation(mnist, 40)
    wrong, doubted, *_ = figures.calibration(found, MNIST).axes[0].lines
    assert np.asarray(wrong.get_ydata())[-1] == 40
    doubt = float((1 - found.probabilities.amax(dim=1)).sum())
    assert np.asarray(doubted.get_ydata())[-1] == pytest.approx(doubt, rel=1e-4)


@pytest.mark.parametrize(("wrong", "drawn"), [(0, 0), (3, 3), (200, 200), (201, 30)])
def test_of_very_many_mistakes_the_first_are_drawn(
    mnist: MNISTDataModule, wrong: int, drawn: int
) -> None:
    found = evaluation(mnist, wrong)
    found.probabilities[2] = found.probabilities[2].square()
    places = figures.mistaken(found)
    assert len(places) == drawn
    assert not found.right[places].any()
    sure = found.probabilities[places].amax(dim=1)
    assert torch.equal(sure, sure.sort(descending=True).values)


def test_tiles_stand_row_by_row() -> None:
    images = torch.arange(3).float().view(3, 1, 1).expand(3, 2, 2) / 3
    pixels = np.asarray(Image.open(io.BytesIO(figures.tiled(images, columns=2, zoom=1))))
    assert pixels.shape == (6, 6)
    assert [pixels[0, 0], pixels[0, 3], pixels[3, 0], pixels[3, 3]] == [0, 85, 170, 255]
    assert (pixels[2] == 255).all()


def test_learning_curves_show_every_epoch_and_the_best() -> None:
    left, right = figures.learning_curves(history()).axes
    assert [np.size(line.get_xdata()) for line in left.lines] == [5, 5]
    assert [text.get_text() for text in left.texts] == ["validation", "training"]
    assert "best epoch, 5: 99.80% right" in right.get_title("left")


def test_evaluation_counts(mnist: MNISTDataModule) -> None:
    result = evaluation(mnist, 40)
    assert (result.correct, result.total) == (9_960, 10_000)
    assert result.confusion.sum() == 10_000
    assert int(result.confusion.diag().sum()) == 9_960
    counts = mnist.test.labels.bincount(minlength=10)
    wrong = mnist.test.labels[:40].bincount(minlength=10)
    torch.testing.assert_close(
        torch.tensor(result.accuracy_per_class), (counts - wrong) / counts, rtol=0, atol=1e-6
    )
