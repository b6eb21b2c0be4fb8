"""The programs of ``research/``."""

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.network.compact import CompactCNN
from mnist_lit.training.classifier import decay_weights_only
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


@pytest.fixture
def research(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a program."""
    monkeypatch.syspath_prepend(PROJECT / "research")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return import_module


def test_the_pictures_of_the_docs_are_those_that_it_makes(research: Callable[[str], Any]) -> None:
    pictures = research("pictures")
    assert {path.stem for path in pictures.FOLDER.glob("*.png")} == set(pictures.PICTURES)


@pytest.mark.parametrize("name", ["overview", "hardest"])
def test_a_picture_is_made_with_its_digests(
    research: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pictures = research("pictures")
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    pictures.save(name)
    with Image.open(tmp_path / f"{name}.png") as made:
        assert made.info[pictures.KEY] == pictures.digests(pictures.PICTURES[name].sources)
        assert (np.asarray(made.convert("L")) < 128).mean() > 0.002


NETWORKS: list[tuple[list[dict[str, Any]], str]] = [
    (
        [
            {"channels": 3, "kernel": 5, "bias": True, "pool": "after_conv"},
            {"channels": 4, "separable": True, "pool": "after_activation"},
            {"channels": 4, "repeats": 2, "residual": True},
            {"channels": 5, "separable": True, "padding": False, "norm_scale": False},
        ],
        "sgd",
    ),
    ([{"channels": 4, "pool": "after_conv"}, {"channels": 5}], "adamw"),
]


@pytest.mark.parametrize(("blocks", "optimizer"), NETWORKS)
def test_networks_trained_together_are_trained_as_each_alone(
    blocks: list[dict[str, Any]],
    optimizer: str,
    research: Callable[[str], Any],
    mnist: MNISTDataModule,
) -> None:
    together = research("together")
    images, labels = mnist.train.images[:, 0], mnist.train.labels
    still = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0, "lr": 0.01}
    recipes = [together.Recipe(**still, seed=seed, split_seed=seed) for seed in (3, 4)]
    group = together.Group("x", blocks, align=True, batch_size=8, epochs=1, optimizer=optimizer)
    both = together.Together(group, recipes, images, labels)
    both.begin(0)
    torch.manual_seed(4)
    alone = CompactCNN(blocks, align=True, paper=MNIST.paper).train()
    ways: dict[str, Any] = {
        "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        "adamw": partial(torch.optim.AdamW, betas=(0.9, 0.999)),
    }
    rule = ways[optimizer](decay_weights_only(alone), lr=0.01, weight_decay=5e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        rule, max_lr=0.01, total_steps=both.steps, pct_start=0.2, cycle_momentum=False
    )
    learnt = [p for p in alone.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in learnt]
    for step in range(3):
        both.step()
        positions = both.order[8 * step : 8 * step + 8, 1]
        logits = alone(MNIST.normalize(images[positions][:, None]))
        rule.zero_grad()
        torch.autograd.backward(F.cross_entropy(logits, labels[positions]))
        rule.step()
        rates.step()
        kept = (1 + step) / (10 + step) if step else 0.0
        for mean, now in zip(average, learnt, strict=True):
            mean.lerp_(now.detach(), 1 - kept)
    for found, expected in ((both.weights, learnt), (both.averages[0], average)):
        flat = torch.cat([p.detach().flatten() for p in expected])
        torch.testing.assert_close(found[1].detach(), flat, rtol=1e-3, atol=2e-5)
    statistics = torch.cat([b for n, b in alone.named_buffers() if n.endswith("running_mean")])
    ours = torch.cat([mean.view(2, -1)[1] for mean, _ in both._norms(both.statistics)])
    torch.testing.assert_close(ours, statistics, rtol=1e-3, atol=1e-5)


def test_the_results_of_networks_trained_together_are_a_plan_too(
    research: Callable[[str], Any],
) -> None:
    together = research("together")
    lines = (PROJECT / "research/results/together.jsonl").read_text().splitlines()
    plan = together.read_plan(lines)
    again = [vars(group) | vars(recipe) for group, recipes in plan for recipe in recipes]
    assert len(again) == len(lines)
    assert all(
        line.items() >= one.items() for line, one in zip(map(json.loads, lines), again, strict=True)
    )


def test_the_rates_of_one_cycle_are_those_of_torch(research: Callable[[str], Any]) -> None:
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        rule, max_lr=0.3, total_steps=50, pct_start=0.35, cycle_momentum=False
    )
    expected = []
    for _ in range(50):
        expected.append(float(rates.get_last_lr()[0]))
        rule.step()
        rates.step()
    np.testing.assert_allclose(research("together").one_cycle(0.3, 0.35, 50), expected, rtol=1e-6)
