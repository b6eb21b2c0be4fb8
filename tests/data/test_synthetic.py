"""Synthetic digits in people's forms, and their share in a training."""

import numpy as np
import torch
from scipy import ndimage

import mnist_lit
from mnist_lit import MNISTDataModule
from mnist_lit.data.mnist import EACH, bank
from mnist_lit.inference.pictures import is_laid_out


def test_they_are_laid_out_as_mnists() -> None:
    images = bank().images
    assert images.shape == (10 * EACH, 1, 28, 28)
    assert images.dtype == torch.uint8
    for image in images[::8, 0].numpy():
        rows, columns = (np.flatnonzero((image > 127).any(axis=axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 17 <= max(height, width) <= 20
        # The smallest dots are not black.
        assert is_laid_out(image.astype(np.float32) / image.max())
        centre = np.array(ndimage.center_of_mass(image.astype(float)))
        assert abs(centre - 14).max() < 0.6


def test_each_is_another() -> None:
    assert len({image.numpy().tobytes() for image in bank().images}) == 10 * EACH


def test_a_network_that_never_saw_them_reads_them() -> None:
    images, labels = bank().images[::8], bank().labels[::8]
    found = mnist_lit.predict(images, "flagship", device="cpu")
    right = [one.digit == label for one, label in zip(found, labels.tolist(), strict=True)]
    assert sum(right) >= 0.88 * len(labels)  # half of them are digits of displays


def test_a_share_of_the_images_is_exchanged_for_the_same_digit(mnist: MNISTDataModule) -> None:
    labels = mnist.train.labels
    assert len(bank()) == 10 * EACH
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    data = MNISTDataModule(drawn=0.25)
    data.train = mnist.train
    taken = data.exchange(order, torch.Generator().manual_seed(1))
    kept = taken == order
    assert 0.7 < kept.float().mean() < 0.8
    both = torch.cat([labels, bank().labels])
    assert torch.equal(both[taken], labels[order])
    assert (taken[~kept] >= len(labels)).all()
    assert torch.equal(taken, data.exchange(order, torch.Generator().manual_seed(1)))


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
