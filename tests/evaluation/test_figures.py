from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imread

from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.data.augmentation import RandomDistortion
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.evaluate import Evaluation
from mnist_lit.evaluation.history import Epoch, History

NAMES = {"curves.png", "learning_rate.png", "confusion.png", "mistakes.png", "augmentation.png"}


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


def test_every_figure_is_drawn_and_none_is_blank(mnist: MNISTDataModule, tmp_path: Path) -> None:
    distort = RandomDistortion(degrees=15)
    folder, found = tmp_path / "figures", evaluation(mnist, 40)
    figures.write(folder, history(), found, MNIST, mnist.train, mnist.test, [distort])
    drawn = {path.name: imread(path) for path in (tmp_path / "figures").iterdir()}
    assert set(drawn) == NAMES
    for name, pixels in drawn.items():
        dark = (np.asarray(pixels)[..., :3].mean(axis=-1) < 0.5).mean()
        assert 0.002 < dark < 0.5, name


def test_mistakes_names_what_it_shows(mnist: MNISTDataModule) -> None:
    figure = figures.mistakes(evaluation(mnist, 3), mnist.test.images, MNIST)
    axes = figure.axes[0]
    assert axes.get_title() == "3 of 10000 test digits read wrongly"
    captions = [text.get_text() for text in axes.texts]
    expected = [f"{d} read as {(d + 1) % 10}\n94% sure" for d in mnist.test.labels[:3].tolist()]
    assert sorted(captions) == sorted(expected)


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
        torch.tensor(result.per_class), (counts - wrong) / counts, rtol=0, atol=1e-6
    )
