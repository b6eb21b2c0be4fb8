from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from mnist_lit import MNISTDataModule
from mnist_lit.config.check import parse
from mnist_lit.data.augmentation import RandomDistortion, sampling_grid
from mnist_lit.training.build import prepare
from mnist_lit.training.callbacks.fade import FadeOut
from mnist_lit.training.console import quiet_lightning


def square(batch: int) -> Tensor:
    images = torch.zeros(batch, 1, 28, 28)
    images[:, :, 9:19, 9:19] = 1
    return images


def centre(images: Tensor) -> Tensor:
    """Centre of mass in pixels, ``[B, 2]`` as (x, y)."""
    mass = images.sum(dim=(1, 2, 3))
    height, width = images.shape[2:]
    x = (images.sum(dim=(1, 2)) * torch.arange(width)).sum(dim=1) / mass
    y = (images.sum(dim=(1, 3)) * torch.arange(height)).sum(dim=1) / mass
    return torch.stack([x, y], dim=1)


def test_no_distortion_returns_the_images() -> None:
    images = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(RandomDistortion()(images), images, atol=1e-5, rtol=0)


def test_grid_is_torchs() -> None:
    theta = torch.randn(5, 2, 3)
    expected = F.affine_grid(theta, [5, 1, 20, 28], align_corners=False)
    torch.testing.assert_close(sampling_grid(theta, 20, 28), expected)


def test_translation_stays_in_its_range_and_uses_it() -> None:
    torch.manual_seed(0)
    moved = centre(RandomDistortion(translate=2)(square(1000))) - 13.5
    assert moved.abs().max() <= 2.001
    assert moved.abs().amax(dim=0).min() > 1.9
    assert moved.mean().abs() < 0.1


def test_scale_changes_the_area_by_its_square() -> None:
    torch.manual_seed(0)
    area = RandomDistortion(scale=0.2)(square(1000)).sum(dim=(1, 2, 3)) / 100
    assert 0.8**2 * 0.95 < area.min() < 0.8**2 * 1.1
    assert 1.2**2 * 0.9 < area.max() < 1.2**2 * 1.05


def test_rotation_keeps_the_area_and_turns_by_at_most_its_angle() -> None:
    torch.manual_seed(0)
    bar = torch.zeros(500, 1, 28, 28)
    bar[:, :, 13:15, 4:24] = 1
    turned = RandomDistortion(degrees=15)(bar)
    torch.testing.assert_close(
        turned.sum(dim=(1, 2, 3)), torch.full((500,), 40.0), atol=2.0, rtol=0
    )
    y, x = torch.meshgrid(torch.arange(28.0) - 13.5, torch.arange(28.0) - 13.5, indexing="ij")
    angle = torch.rad2deg(
        torch.atan2((turned * x * y).sum((1, 2, 3)), (turned * x * x).sum((1, 2, 3)))
    )
    assert 13 < angle.max() < 16
    assert -16 < angle.min() < -13


def test_shear_moves_rows_sideways_and_not_up() -> None:
    torch.manual_seed(0)
    bar = torch.zeros(500, 1, 28, 28)
    bar[:, :, 4:24, 13:15] = 1
    sheared = RandomDistortion(shear=0.2)(bar)
    assert torch.equal(sheared[:, :, :3], torch.zeros(500, 1, 3, 28))
    top, bottom = centre(sheared[:, :, :14])[:, 0], centre(sheared[:, :, 14:])[:, 0]
    assert 1.8 < (top - bottom).abs().max() <= 0.2 * 10 + 0.05


def test_bend_bows_a_line_both_ways_and_leaves_the_middle() -> None:
    torch.manual_seed(0)
    line = torch.zeros(1000, 1, 28, 28)
    line[:, :, 13:15] = 1
    distort = RandomDistortion(bend=0.15)
    for strength in (1.0, 0.25):
        distort.strength = strength
        bent = distort(line)
        rows = torch.arange(28.0).view(-1, 1)
        height = (bent[:, 0] * rows).sum(dim=1) / bent[:, 0].sum(dim=1) - 13.5
        assert height[:, 13:15].abs().max() < 0.05
        # On the line y is 0, so only x² counts: at the ends 0.15 of half the side, 14 pixels.
        bow = height[:, [2, 25]].mean(dim=1) / (11.5 / 14) ** 2
        assert bow.abs().max() < 0.15 * 14 * strength * 1.1
        assert bow.max() > 0.15 * 14 * strength * 0.9
        assert bow.min() < -0.15 * 14 * strength * 0.9


def test_gamma_makes_gray_darker_or_lighter_and_leaves_ink_and_paper() -> None:
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 28, 28)
    images[..., 10:], images[..., 20:] = 0.5, 1
    distort = RandomDistortion(gamma=1)
    for strength in (1.0, 0.25):
        distort.strength = strength
        changed = distort(images)
        torch.testing.assert_close(changed[..., :9], images[..., :9], atol=1e-5, rtol=0)
        # Where the grid is rounded outwards, bilinear sampling makes the border half background.
        torch.testing.assert_close(
            changed[..., 1:27, 21:27], images[..., 1:27, 21:27], atol=1e-4, rtol=0
        )
        logarithm = torch.log(-torch.log2(changed[:, 0, 14, 15]))
        assert logarithm.abs().max() < strength + 0.001
        assert logarithm.max() > 0.97 * strength
        assert logarithm.min() < -0.97 * strength


@pytest.mark.parametrize(
    "amounts",
    [
        {"degrees": 15},
        {"translate": 2},
        {"scale": 0.1},
        {"shear": 0.2},
        {"gamma": 1},
        {"bend": 0.15},
    ],
)
def test_every_image_gets_its_own_amount_and_a_seed_repeats_it(amounts: dict[str, float]) -> None:
    distort = RandomDistortion(**amounts)
    torch.manual_seed(1)
    first = distort(square(8) / 2)
    torch.manual_seed(1)
    assert torch.equal(first, distort(square(8) / 2))
    assert len({tuple(image.flatten().tolist()) for image in first}) == 8


def test_distortions_fade_out_towards_the_end(
    tiny: Callable[..., DictConfig], tmp_path: Path
) -> None:
    config = parse(tiny("trainer.max_epochs=4", "trainer.limit_train_batches=1"))
    distort = RandomDistortion(translate=4)
    strengths = []

    class Note(pl.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            strengths.append(distort.strength)
            moved = centre(distort(square(500))) - 13.5
            assert moved.abs().max() <= 4 * distort.strength + 0.001

    run = prepare(config)
    vars(run.trainer)["callbacks"] += [FadeOut(start=0.5), Note()]
    run.module.augmentations = [distort]
    with quiet_lightning():
        run.trainer.fit(run.module, MNISTDataModule(train_size=64, batch_size=64))
    assert strengths == [1.0, 1.0, 1.0, 0.5]
    assert distort.strength == 1.0, "the figure of augmented samples comes after training"
