"""Digits drawn in people's forms, and their part in a training."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import mnist_lit
from mnist_lit import MNISTDataModule
from mnist_lit.data.strokes import BOX, EACH, FORMS, Exchange, draw
from mnist_lit.inference.pictures import is_laid_out


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    return draw(torch.arange(10).repeat_interleave(30), torch.Generator().manual_seed(3))


def test_they_are_laid_out_as_mnists(drawn: torch.Tensor) -> None:
    assert drawn.shape == (300, 1, 28, 28)
    assert drawn.dtype == torch.uint8
    for image in drawn[:, 0].numpy():
        rows, columns = (np.flatnonzero((image > 127).any(axis=axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert BOX - 3 <= max(height, width) <= BOX
        assert is_laid_out(image.astype(np.float32) / 255)
        centre = np.array(ndimage.center_of_mass(image.astype(float)))
        assert abs(centre - 14).max() < 0.6


def test_each_is_another_and_a_seed_repeats_them(drawn: torch.Tensor) -> None:
    assert len({image.numpy().tobytes() for image in drawn}) == len(drawn)
    digits = torch.arange(10).repeat_interleave(30)
    assert torch.equal(draw(digits, torch.Generator().manual_seed(3)), drawn)
    assert not torch.equal(draw(digits, torch.Generator().manual_seed(4)), drawn)


def test_a_network_that_never_saw_them_reads_them(drawn: torch.Tensor) -> None:
    found = mnist_lit.predict(drawn, "flagship", device="cpu")
    right = [one.digit == number // 30 for number, one in enumerate(found)]
    assert sum(right) >= 290
    assert len(FORMS) == 10


def test_a_share_of_the_images_is_exchanged_for_the_same_digit(mnist: MNISTDataModule) -> None:
    labels = mnist.train.labels
    exchange = Exchange(labels, 0.25)
    assert len(exchange.drawn) == 10 * EACH
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    taken = exchange(order, torch.Generator().manual_seed(1))
    kept = taken == order
    assert 0.7 < kept.float().mean() < 0.8
    both = torch.cat([labels, exchange.drawn.labels])
    assert torch.equal(both[taken], labels[order])
    assert (taken[~kept] >= len(labels)).all()
    assert torch.equal(taken, exchange(order, torch.Generator().manual_seed(1)))


def test_epochs_have_the_same_labels_and_other_images(mnist: MNISTDataModule) -> None:
    def epoch(drawn: float, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        data = MNISTDataModule(batch_size=100, train_size=1000, drawn=drawn)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]  # it is ours
        images, labels = zip(*loader, strict=True)
        return torch.cat(images), torch.cat(labels)

    plain, labels = epoch(0, 0)
    some, same = epoch(0.3, 0)
    assert torch.equal(labels, same)
    differ = (plain != some).flatten(1).any(dim=1).float().mean()
    assert 0.2 < differ < 0.4
    assert torch.equal(some, epoch(0.3, 0)[0])
    assert not torch.equal(some, epoch(0.3, 1)[0])
    assert (epoch(1, 0)[0] != plain).flatten(1).any(dim=1).all()
