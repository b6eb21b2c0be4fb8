from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.data.batches import ShuffledBatches, stratified
from mnist_lit.errors import ConfigError


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_document_protocol_trains_on_all_and_validates_on_the_test_images(
    mnist: MNISTDataModule,
) -> None:
    assert (len(mnist.train), len(mnist.val), len(mnist.test)) == (60_000, 10_000, 10_000)
    assert mnist.val is mnist.test
    assert mnist.facts.protocol == (
        "mnist: best epoch, picked on the 10,000 test images, so optimistic; last epoch, not picked"
    )


def test_holdout_takes_a_stratified_5000_out_of_training() -> None:
    data = MNISTDataModule(validation="holdout")
    data.setup("fit")
    assert (len(data.train), len(data.val), len(data.test)) == (55_000, 5_000, 10_000)
    picked = "best epoch, picked on 5,000 training images held out; last epoch, not picked"
    assert data.facts.protocol == f"mnist_holdout: {picked}"
    assert torch.equal(data.val.labels.bincount(), torch.full((10,), 500))
    everything = MNISTDataModule().images("train")
    both = torch.cat([data.train.images, data.val.images]).flatten(1).sum(dim=1)
    assert torch.equal(both.sort().values, everything.images.flatten(1).sum(dim=1).sort().values)
    assert torch.equal(data.images("holdout").images, data.val.images)
    again = MNISTDataModule(validation="holdout", seed=5)
    again.setup("fit")
    assert torch.equal(again.val.images, data.val.images), "the split must not follow the seed"


@pytest.mark.parametrize("validation", ["test", "holdout"])
def test_no_test_image_is_trained_on(validation: Literal["test", "holdout"]) -> None:
    data = MNISTDataModule(validation=validation)
    data.setup("fit")
    assert not as_set(data.train.images) & as_set(data.test.images)


def test_train_size_keeps_equally_many_of_each_digit() -> None:
    data = MNISTDataModule(train_size=200)
    data.setup("fit")
    assert torch.equal(data.train.labels.bincount(), torch.full((10,), 20))


def test_stratified_takes_what_there_is_when_a_class_is_used_up() -> None:
    labels = torch.tensor([0] * 2 + [1] * 5 + [2] * 9)
    for size, counts in ((6, [2, 2, 2]), (9, [2, 4, 3]), (15, [2, 5, 8]), (16, [2, 5, 9])):
        drawn = stratified(labels, size, seed=0)
        assert labels[drawn].bincount().tolist() == counts
        assert len(set(drawn.tolist())) == size


def test_stratified_refuses_more_than_there_is() -> None:
    with pytest.raises(ConfigError, match="20 images are wanted, there are 10"):
        stratified(torch.arange(10), 20, seed=0)


def test_normalised_training_images_have_mean_0_and_deviation_1(mnist: MNISTDataModule) -> None:
    images = MNIST.normalize(mnist.train.images[:20_000])
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01


def test_batches_are_full_shuffled_and_cover_an_epoch_once(mnist: MNISTDataModule) -> None:
    mnist.batch_size = 256
    batches = list(mnist.train_dataloader())
    assert len(batches) == 60_000 // 256
    images, labels = batches[0]
    assert (images.dtype, images.shape) == (torch.uint8, (256, 1, 28, 28))
    assert (labels.dtype, labels.shape) == (torch.int64, (256,))
    counts = torch.cat([labels for _, labels in batches]).bincount()
    assert (mnist.train.labels.bincount() - counts).abs().sum() == 60_000 % 256
    assert not torch.equal(labels, mnist.train.labels[:256])


def test_order_depends_on_seed_and_epoch_alone(mnist: MNISTDataModule) -> None:
    def first_labels(seed: int, epoch: int) -> Tensor:
        mnist.seed = seed
        loader = mnist.train_dataloader()
        assert isinstance(loader.sampler, ShuffledBatches)
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))[1]

    assert torch.equal(first_labels(0, 0), first_labels(0, 0))
    assert not torch.equal(first_labels(0, 0), first_labels(0, 1))
    assert not torch.equal(first_labels(0, 0), first_labels(1, 0))


def test_processes_share_an_epoch_in_equally_many_full_batches() -> None:
    def positions(rank: int, world: int) -> list[int]:
        batches = ShuffledBatches(103, 10, 4, rank, world, torch.device("cpu"))
        assert len(batches) == 103 // world // 10 == len(list(batches))
        assert all(len(batch) == 10 for batch in batches)
        return torch.cat(list(batches)).tolist()

    alone, shares = positions(0, 1), [positions(rank, 2) for rank in range(2)]
    assert len(set(alone)) == len(alone) == 100
    assert not set(shares[0]) & set(shares[1])


def test_data_root_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(MNISTDataModule().images("test")) == 10_000
