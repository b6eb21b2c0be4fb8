import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy import ndarray
from omegaconf import DictConfig
from torch import Tensor

from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints.read import build_network, read
from mnist_lit.config.check import parse
from mnist_lit.data.augmentation import RandomDistortion
from mnist_lit.errors import ConfigError
from mnist_lit.network import summary
from mnist_lit.network.alignment import STEEPEST, Alignment
from mnist_lit.network.compact import CompactCNN
from mnist_lit.training.build import build_module
from mnist_lit.training.train import train

Make = Callable[..., DictConfig]
BLOCKS = [{"channels": 4, "pool": "after_conv"}, {"channels": 6, "pool": "after_conv"}]


def straightened(
    image: ndarray, paper: float, crop: int = 0, shrink: float = 1, resize: bool = False
) -> ndarray:
    """Align by the definition, one pixel at a time and in 64 bits."""
    ink = image.astype(np.float64) - paper
    side = len(ink)
    middle = (side - 1) / 2
    y, x = np.mgrid[:side, :side] - middle
    mass = ink.sum()
    cx, cy = (ink * x).sum() / mass, (ink * y).sum() / mass
    mu11, mu02 = (ink * (x - cx) * (y - cy)).sum(), (ink * (y - cy) ** 2).sum()
    slant = max(-STEEPEST, min(STEEPEST, mu11 / mu02))
    wide = high = 1.0
    if resize:
        upright = x - cx - slant * (y - cy)
        spread = math.sqrt((ink * upright**2).sum() / mass), math.sqrt(mu02 / mass)
        wide, high = (
            max(0.7, min(1.4, math.sqrt(one / usual)))
            for one, usual in zip(spread, (0.114 * side, 0.189 * side), strict=True)
        )

    def at(row: int, column: int) -> float:
        inside = 0 <= row < side and 0 <= column < side
        return float(ink[row, column]) if inside else 0.0

    crop = crop or side
    found = np.empty((crop, crop))
    for i in range(crop):
        for j in range(crop):
            row, column = (shrink * (place - (crop - 1) / 2) for place in (i, j))
            v, u = high * row + cy + middle, wide * column + cx + slant * high * row + middle
            top, left = math.floor(v), math.floor(u)
            down, across = v - top, u - left
            upper = (1 - across) * at(top, left) + across * at(top, left + 1)
            lower = (1 - across) * at(top + 1, left) + across * at(top + 1, left + 1)
            found[i, j] = (1 - down) * upper + down * lower
    return found + paper


@pytest.mark.parametrize(("side", "batch"), [(28, 40), (28, 1), (20, 3), (33, 3)])
def test_it_does_what_its_definition_says(side: int, batch: int, mnist: MNISTDataModule) -> None:
    images = mnist.test.images[:batch].float() / 255
    if side != 28:
        images = torch.nn.functional.interpolate(images, (side, side), mode="bilinear")
    found = Alignment(side, paper=0.0)(images)
    for one, image in zip(found[:, 0].numpy(), images[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(one, straightened(image, 0.0), atol=1e-5)


@pytest.mark.parametrize(
    ("crop", "shrink", "resize"),
    [(24, 1.0, False), (21, 1.0, True), (20, 1.3, False), (34, 0.8, False), (24, 1.12, True)],
)
def test_the_aligned_image_is_cropped_shrunk_and_resized(
    crop: int, shrink: float, resize: bool, mnist: MNISTDataModule
) -> None:
    images = mnist.test.images[:9].float() / 255
    found = Alignment(28, 0.0, crop, shrink, resize)(images)
    for one, image in zip(found[:, 0].numpy(), images[:, 0].numpy(), strict=True):
        wanted = straightened(image, 0.0, crop, shrink, resize)
        np.testing.assert_allclose(one, wanted, atol=1e-5)
    network = CompactCNN(BLOCKS, align=True, crop=crop, shrink=shrink, resize=resize)
    assert summary.layers(network)[0].output == f"1×{crop}×{crop}"
    view = f"features see {round(10 * shrink)} pixels"
    assert view in summary.table(network, "cropped", 28)
    assert CompactCNN(**network.description).description == network.description


def test_paper_may_have_any_value(mnist: MNISTDataModule) -> None:
    images = mnist.test.images[:50]
    found = Alignment(28, MNIST.paper)(MNIST.normalize(images))
    wanted = MNIST.standardise(Alignment(28, 0.0)(images.float() / 255))
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_a_second_time_changes_little_and_the_centre_is_in_the_middle(
    mnist: MNISTDataModule,
) -> None:
    layer = Alignment(28, 0.0)
    once = layer(mnist.test.images[:500].float() / 255)
    _, x, y, xy, yy = (once.flatten(1) @ layer.basis).unbind(1)
    mass = once.sum((1, 2, 3))
    assert (x / mass).abs().max() < 0.05
    assert (y / mass).abs().max() < 0.05
    assert (xy / yy).abs().max() < 0.05
    assert (layer(once) - once).abs().mean() < 0.01


def test_a_blank_image_comes_back_unchanged() -> None:
    layer = Alignment(28, MNIST.paper)
    blank = MNIST.normalize(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    assert torch.equal(layer(blank), blank)
    full = MNIST.normalize(torch.full((2, 1, 28, 28), 255, dtype=torch.uint8))
    torch.testing.assert_close(layer(full), full)


def test_a_level_stroke_is_not_sheared_away() -> None:
    image = torch.zeros(1, 1, 28, 28)
    for column in range(4, 24):
        image[0, 0, 13 + column // 12, column] = 1
    found = Alignment(28, 0.0)(image)
    np.testing.assert_allclose(found[0, 0], straightened(image[0, 0].numpy(), 0.0), atol=1e-5)
    assert found.sum() > 0.8 * image.sum()


def test_it_computes_in_32_bits_whatever_is_asked(mnist: MNISTDataModule) -> None:
    images = mnist.test.images[:20].float() / 255
    layer = Alignment(28, 0.0)
    wanted = layer(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(images), wanted)
    half = layer.to(torch.bfloat16)
    assert torch.equal(half(images), wanted)
    assert half(images.bfloat16()).dtype is torch.bfloat16
    torch.testing.assert_close(half(images.bfloat16()).float(), wanted, atol=0.02, rtol=0)


def test_a_network_straightens_what_it_is_given(mnist: MNISTDataModule) -> None:
    torch.manual_seed(0)
    network = CompactCNN(BLOCKS, align=True, paper=MNIST.paper).eval()
    plain = CompactCNN(BLOCKS).eval()
    assert plain.state_dict().keys() == network.state_dict().keys()
    plain.load_state_dict(network.state_dict())
    images = MNIST.normalize(mnist.test.images[:50])
    aligned = Alignment(28, MNIST.paper)(images)
    assert torch.equal(network(images), plain(aligned))
    assert not torch.equal(network(images), plain(images))
    assert summary.layers(network)[0].name == "alignment"
    copy = CompactCNN(**network.description).eval()
    copy.load_state_dict(network.state_dict())
    assert torch.equal(copy(images), network(images))


def test_a_description_without_the_key_is_not_aligned(mnist: MNISTDataModule) -> None:
    network = CompactCNN(BLOCKS).eval()
    older = {k: v for k, v in network.description.items() if k not in ("align", "paper")}
    copy = CompactCNN(**older).eval()
    copy.load_state_dict(network.state_dict())
    images = MNIST.normalize(mnist.test.images[:5])
    assert torch.equal(copy(images), network(images))


def test_a_description_with_a_kind_of_alignment_that_is_gone_is_refused_in_a_line() -> None:
    old = {**CompactCNN(BLOCKS, align=True).description, "align": "before"}
    with pytest.raises(ConfigError, match=r"^model\.align=before: should be true or false$"):
        build_network(old)


class Amounts(RandomDistortion):
    """Keeps its input, and returns it unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return images


def test_training_straightens_after_it_distorts(tiny: Make, mnist: MNISTDataModule) -> None:
    classifier = build_module(parse(tiny("model.align=true")))
    amounts = Amounts()
    classifier.augmentations = [amounts]
    classifier.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    classifier.trainer.training = True
    raw = mnist.train.images[:30]
    batch, _ = classifier.on_after_batch_transfer((raw, mnist.train.labels[:30]), 0)
    scaled = raw.float() / 255
    assert torch.equal(amounts.seen[0], scaled)
    network = classifier.network
    assert isinstance(network, CompactCNN)
    shrink, resize = (network.description[key] for key in ("shrink", "resize"))
    straight = Alignment(28, 0.0, network.seen, shrink, resize)(scaled)
    given: list[Tensor] = []
    network.blocks.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    network.train()(batch)
    torch.testing.assert_close(given[0], MNIST.standardise(straight), atol=2e-5, rtol=0)
    network.eval()(MNIST.normalize(raw))
    torch.testing.assert_close(given[1], MNIST.standardise(straight), atol=2e-5, rtol=0)


def test_a_trained_network_brings_its_alignment(tiny: Make, mnist: MNISTDataModule) -> None:
    done = train(tiny("model.align=true", "test=true"))
    network = read(done.run_dir / "checkpoints/best.ckpt").network
    assert isinstance(network, CompactCNN)
    assert network.description["align"] is True
    assert network.description["paper"] == MNIST.paper
    page = Path(done.run_dir, "report.html").read_text(encoding="utf-8")
    assert "alignment" in page
