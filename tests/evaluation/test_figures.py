import io
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from matplotlib.image import imread
from torch import nn

from mnist_lit import MNIST, MNISTDataModule, load_pretrained
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.config.lines import errors_as_lines
from mnist_lit.data.augmentation import RandomDistortion
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.evaluate import Evaluation
from mnist_lit.evaluation.history import Epoch, History


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
        "augmentation": figures.png(figures.augmented_samples(mnist.train, [distort], MNIST)),
    }
    assert len(drawn) == 7
    for name, picture in drawn.items():
        pixels = imread(io.BytesIO(picture))
        dark = (np.asarray(pixels)[..., :3].mean(axis=-1) < 0.5).mean()
        assert 0.002 < dark < 0.5, name


def test_names_of_classes_are_drawn_as_they_are(mnist: MNISTDataModule) -> None:
    names = ("$\\foo$", "$x_", "数字", "五", "خمسة", "🂡", "w" * 1000, "{7}", "%s", r"\n")
    facts = replace(MNIST, classes=names)
    said = evaluation(mnist, 40)
    trained = Trained(load_pretrained("nano"), facts)
    assert all(figures.drawn(trained, said, mnist.test.images).values())


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


def test_counts_on_dark_cells_are_white(mnist: MNISTDataModule) -> None:
    found = evaluation(mnist, 40)
    axes = figures.confusion(found, MNIST).axes[0]
    wrong = found.confusion.fill_diagonal_(0)
    for text in axes.texts:
        x, y = (round(v) for v in text.get_position())
        dark = wrong[y, x] > wrong.max() / 2
        assert text.get_color() == ("white" if dark else "black")


def test_calibration_counts_what_is_wrong_and_what_is_doubted(mnist: MNISTDataModule) -> None:
    found = evaluation(mnist, 40)
    wrong, doubted, *_ = figures.calibration(found, MNIST).axes[0].lines
    assert np.asarray(wrong.get_ydata())[-1] == 40
    doubt = float((1 - found.probabilities.amax(dim=1)).sum())
    assert np.asarray(doubted.get_ydata())[-1] == pytest.approx(doubt, rel=1e-4)


def test_mistakes_names_what_it_shows(mnist: MNISTDataModule) -> None:
    figure = figures.mistakes(evaluation(mnist, 3), mnist.test.images, MNIST)
    axes = figure.axes[0]
    assert axes.get_title() == "3 of 10000 test digits read wrongly"
    captions = [text.get_text() for text in axes.texts]
    expected = [
        f"{d} read as {(d + 1) % 10}\n#{i}, 94%"
        for i, d in enumerate(mnist.test.labels[:3].tolist())
    ]
    assert sorted(captions) == sorted(expected)


@pytest.mark.parametrize(("wrong", "drawn"), [(200, 200), (201, 30)])
def test_of_very_many_mistakes_the_first_are_drawn(
    mnist: MNISTDataModule, wrong: int, drawn: int
) -> None:
    axes = figures.mistakes(evaluation(mnist, wrong), mnist.test.images, MNIST).axes[0]
    assert len(axes.texts) == drawn
    assert axes.get_title().startswith(f"{wrong} of 10000")


def test_a_perfect_network_has_an_empty_sheet(mnist: MNISTDataModule) -> None:
    perfect = evaluation(mnist, 0)
    assert perfect.accuracy == 1
    figure = figures.mistakes(perfect, mnist.test.images, MNIST)
    assert figure.axes[0].get_title().startswith("0 of 10000")


def test_learning_curves_show_every_epoch_and_the_best() -> None:
    left, right = figures.learning_curves(history()).axes
    assert [np.size(line.get_xdata()) for line in left.lines] == [5, 5]
    legend = right.get_legend()
    assert legend is not None
    assert legend.get_texts()[-1].get_text() == "best: epoch 5, 99.80% right"


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
