"""Training speed, side by side: the convolutions alone, a bare loop, mnist-lit, a typical project.

``python benchmarks/throughput.py`` prints tables and writes ``results/throughput.json`` beside it.
All train ``final`` on MNIST with the same batch size and the same amounts of augmentation. They run
in one process, one epoch each in turns, so that other load of the machine affects all alike:

- *convolutions*: the five convolutions, forward and backward, each on its own input in memory;
- *floor*: the five convolutions in a row, with average pooling as the cheapest, and nothing else;
- *bare*: a loop by hand, without Lightning, metrics, logging, progress or checkpoints;
- *ours*: ``mnist_lit.training.train`` with all features of ``python train.py``;
- *conventional*: as in project templates: torchvision's data set and per-image transforms, a
  ``DataLoader``, torchmetrics, Lightning's defaults, 32 bit, and the layers in the usual order
  (convolution, norm, ReLU, pooling). No loader processes: with two cores they slow it down.
- *conventional, our order*: the same with pooling before the norm.
"""

import argparse
import contextlib
import gc
import io
import json
import math
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from clock import Clock
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST
from tqdm import tqdm

from mnist_lit import MNIST as FACTS
from mnist_lit import MNISTDataModule, compose, devices, train
from mnist_lit.config.check import parse
from mnist_lit.config.schema import Config
from mnist_lit.data import augmentation
from mnist_lit.data.archives import DIGESTS, find_mnist, read
from mnist_lit.data.augmentation import RandomDistortion
from mnist_lit.data.batches import Images
from mnist_lit.data.datasets import MnistSet
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.network import fused
from mnist_lit.network.blocks import IMAGE_SIZE, Block
from mnist_lit.network.compact import CompactCNN
from mnist_lit.training.build import (
    build_callbacks,
    build_module,
    build_trainer,
)
from mnist_lit.training.classifier import decay_weights_only
from mnist_lit.training.console import quiet_lightning

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "throughput.json"
CPU = torch.device("cpu")
TRAIN, _ = MnistSet.sizes
FACTORS = (1, 2, 5, 10)
BATCH_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
KEPT = (
    "bfloat16",
    "pooling before normalising",
    "fused pool, norm and ReLU",
    "first convolution with its pooling",
    "grid in one product",
    "lean average",
    "fused optimizer",
)
OF_LIGHTNING = (
    "batches by position",
    "no logging at steps",
)
RECIPES = (384, 64, 32)
SMALL = 8  # a small batch, which shows the fixed cost of a step
OVERRIDES: list[str] = []
TARGETS = {("ours", "bare"): 0.95, ("ours", "conventional"): 5.0, ("bare", "floor"): 0.65}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"{', '.join(parts())} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def parts() -> dict[str, Callable[[int], dict[str, Any]]]:
    """Return the measurements by name; each takes the number of turns."""
    return {
        "compare": compare,
        "start": start,
        "growth": growth,
        "batches": batches,
        "levers": levers,
        "small": small,
        "alignment": alignment,
        "kernel": kernel,
    }


def main() -> None:
    """Measure the parts that the command line names."""
    parser = command_line()
    options = parser.parse_args()
    if options.batch_size:
        OVERRIDES.append(f"data.batch_size={options.batch_size}")
    for part in options.parts or parts():
        if part not in parts():
            parser.error(f"{part}: no such part; there are {', '.join(parts())}")
        found = parts()[part](options.rounds)
        results = json.loads(options.output.read_text()) if options.output.is_file() else {}
        key = f"{part}, batch {options.batch_size}" if options.batch_size else part
        results[key] = {**conditions(options.rounds), **found}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1) + "\n")


def conditions(rounds: int) -> dict[str, Any]:
    """Return the date, the machine and other conditions of a measurement."""
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "rounds": rounds,
        "machine": f"{platform.machine()}, {devices.describe(CPU)}",
        "precision": devices.pick_precision("auto", "cpu"),
        "versions": {name: version(name) for name in ("torch", "pytorch-lightning", "torchvision")},
    }


def configure(folder: str = "nowhere") -> DictConfig:
    """Compose the config of one epoch of ``final`` on the CPU, for a run in a folder."""
    return compose(
        "trainer=cpu",
        "trainer.max_epochs=1",
        "requirements.enforce=false",
        "callbacks.clock._target_=clock.Clock",
        f"run_dir={folder}",
        *OVERRIDES,
    )


def blocks_of(config: Config) -> list[Block]:
    """Return the blocks of the configured network."""
    return [Block(**block) for block in config.model["blocks"]]


def interleave(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, warm_up: bool = False
) -> dict[str, list[Any]]:
    """Run all in turns, ``rounds`` times, after one round to warm up if wanted.

    Garbage of the previous turns is collected before each turn.
    """
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    # No bar without a terminal.
    turns = range(1 - warm_up, rounds + 1)
    for turn in (bar := tqdm(turns, unit="round", disable=None, leave=False)):
        for name, run in contestants.items():
            bar.set_postfix_str(name)
            gc.collect()
            result = run()
            if turn:
                found[name].append(result)
    return found


def compare(rounds: int) -> dict[str, Any]:
    """Measure all contestants: convolutions, floor, bare, ours, conventional."""
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "convolutions": convolutions,
        "floor": floor,
        "bare": BareLoop().epoch,
        "ours": ours,
        "conventional": conventional,
        "conventional, our order": partial(conventional, "after_conv"),
    }
    found = interleave(runs, rounds, warm_up=True)
    speed = {
        name: statistics.median(turn["images"] / turn["training"] for turn in turns)
        for name, turns in found.items()
    }
    memory = {name: child(name)["peak_mb"] for name in ("bare", "ours", "conventional")}
    validation = {
        name: statistics.median(turn["validation"] for turn in turns)
        for name, turns in found.items()
        if "validation" in turns[0]
    }
    print("| | images/s | of bare | validation, s | peak memory, MB |\n|---|---|---|---|---|")
    for name, value in speed.items():
        seconds = f"{validation[name]:.2f}" if name in validation else "–"
        peak = f"{memory[name]:,.0f}" if name in memory else "–"
        print(f"| {name} | {value:,.0f} | {value / speed['bare']:.2f} | {seconds} | {peak} |")
    ratios = {}
    for (a, b), target in TARGETS.items():
        pairs = zip(found[a], found[b], strict=True)
        ratio = statistics.median(
            (x["images"] / x["training"]) / (y["images"] / y["training"]) for x, y in pairs
        )
        ratios[f"{a} / {b}"] = ratio
        print(f"{a} / {b}: {ratio:.2f} (wanted: {target}) {'✓' if ratio >= target else '✗'}")
    return {
        "images_per_second": speed,
        "ratios": ratios,
        "validation_seconds": validation,
        "peak_mb": memory,
        "turns": found,
    }


def convolution(block: Block, width: int) -> nn.Conv2d:
    """Make the convolution of a block, in the dtype and layout of the training."""
    padding = block.kernel // 2
    conv = nn.Conv2d(width, block.channels, block.kernel, padding=padding, bias=block.bias)
    dtype = torch.bfloat16 if low_precision() else torch.float32
    return conv.to(dtype).to(memory_format=torch.channels_last)


def images_of(conv: nn.Conv2d, size: int) -> Tensor:
    """Draw a batch of inputs."""
    shape = (parse(configure()).data["batch_size"], conv.in_channels, size, size)
    images = torch.randn(shape).to(conv.weight.dtype)
    return images.to(memory_format=torch.channels_last)


def convolutions() -> dict[str, Any]:
    """Convolve forward and backward, each layer on an existing input."""
    config = parse(configure())
    layers, width, size = [], 1, IMAGE_SIZE
    for block in blocks_of(config):
        conv = convolution(block, width)
        x = images_of(conv, size).requires_grad_(width > 1)
        wanted = [conv.weight, x] if width > 1 else [conv.weight]
        layers.append((conv, x, wanted, torch.randn_like(conv(x))))
        width, size = block.channels, size if block.pool == "none" else size // 2
    batch_size = config.data["batch_size"]
    steps = TRAIN // batch_size
    started = time.perf_counter()
    for _ in range(steps):
        for conv, x, wanted, gradient in layers:
            torch.autograd.grad(conv(x), wanted, gradient)
    seconds = time.perf_counter() - started
    return {"images": steps * batch_size, "training": seconds}


def floor() -> dict[str, Any]:
    """Convolve five times in a row, with average pooling between, forward and backward."""
    config = parse(configure())
    layers: list[nn.Module] = []
    width = 1
    for block in blocks_of(config):
        layers += [convolution(block, width)]
        layers += [] if block.pool == "none" else [nn.AvgPool2d(2)]
        width = block.channels
    network = nn.Sequential(*layers)
    assert isinstance(layers[0], nn.Conv2d)
    x = images_of(layers[0], IMAGE_SIZE)
    gradient = torch.randn_like(network(x))
    weights = list(network.parameters())
    batch_size = config.data["batch_size"]
    steps = TRAIN // batch_size
    started = time.perf_counter()
    for _ in range(steps):
        torch.autograd.grad(network(x), weights, gradient)
    seconds = time.perf_counter() - started
    return {"images": steps * batch_size, "training": seconds}


def low_precision() -> bool:
    """Return whether training computes in bfloat16 on this machine."""
    return bool(devices.pick_precision("auto", "cpu") == "bf16-mixed")


def never(*_: Any) -> bool:
    """Return that an operation cannot be used, as a replacement of ``usable``."""
    return False


class BareLoop:
    """The same training as ours, by hand.

    Args:
        flipped: Name of an optimisation to switch off.
        images: Number of training images in an epoch.
        batch_size: None for the recipe's.
    """

    def __init__(
        self, flipped: str = "", images: int = TRAIN, batch_size: int | None = None
    ) -> None:
        self.flipped = flipped
        config = parse(configure())
        blocks = blocks_of(config)
        if flipped == "pooling before normalising":
            for block in blocks:
                if block.pool == "after_conv":
                    block.pool = "after_activation"
        torch.manual_seed(0)
        align = config.model.get("align", False) and flipped != "alignment"
        self.network = CompactCNN(blocks, config.model["dropout"], align=align, paper=FACTS.paper)
        self.batch_size = batch_size or config.data["batch_size"]
        self.train = MNISTDataModule().images("train").subset(torch.arange(images))
        self.test = MNISTDataModule().images("test")
        self.augment = RandomDistortion(**without_target(config.augmentation["distort"]))
        self.sgd = without_target(config.optimizer)
        self.decay = config.callbacks["average"]["decay"]
        average = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]  # untyped there
        self.average = AveragedModel(self.network, multi_avg_fn=average)

    def epoch(self) -> dict[str, Any]:
        """Train and validate once."""
        off = {
            "fused pool, norm and ReLU": ("usable", "convolves"),
            "first convolution with its pooling": ("convolves",),
        }
        usual = self.flipped == "grid in one product"
        grid = affine_grid if usual else augmentation.sampling_grid
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(augmentation, "sampling_grid", grid))
            for name in off.get(self.flipped, ()):
                stack.enter_context(mock.patch.object(fused, name, never))
            return self._epoch()

    def _epoch(self) -> dict[str, Any]:
        network, steps = self.network.train(), len(self.train) // self.batch_size
        optimizer = torch.optim.SGD(
            decay_weights_only(network),
            **{**self.sgd, "fused": self.flipped != "fused optimizer"},
        )
        schedule = OneCycleLR(optimizer, self.sgd["lr"], steps, pct_start=0.2, cycle_momentum=False)
        autocast = low_precision() and self.flipped != "bfloat16"
        averages = [p.detach() for p in self.average.module.parameters()]
        weights = [p.detach() for p in network.parameters()]
        started = time.perf_counter()
        order = torch.randperm(len(self.train))
        for positions in torch.split(order, self.batch_size)[:steps]:
            pixels, labels = self.train[positions]
            images = FACTS.standardise(self.augment(pixels.float() / 255))
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimizer.step()
            schedule.step()
            if self.flipped == "lean average":
                self.average.update_parameters(network)
            else:
                torch._foreach_lerp_(averages, weights, 1 - self.decay)
        trained = time.perf_counter()
        evaluate(network, self.test)
        return {
            "images": steps * self.batch_size,
            "training": trained - started,
            "validation": time.perf_counter() - trained,
        }


def affine_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """Return the sampling grid by torch's own function."""
    return F.affine_grid(theta, [len(theta), 1, height, width], align_corners=False)


def without_target(node: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a config node, without ``_target_``."""
    return {name: value for name, value in node.items() if not name.startswith("_")}


def ours() -> dict[str, Any]:
    """Train one epoch by ``train``."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(configure(folder))
    return clocked()


def clocked() -> dict[str, Any]:
    """Return the times of the last training."""
    return {
        "images": Clock.images[0],
        "training": Clock.training[0],
        "validation": Clock.validation[0],
    }


class Conventional(pl.LightningModule):
    """A LightningModule as in project templates."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        config = parse(configure())
        layers: list[nn.Module] = []
        width = 1
        for block in blocks_of(config):
            padding = block.kernel // 2
            layers.append(
                nn.Conv2d(width, block.channels, block.kernel, padding=padding, bias=False)
            )
            rest: list[nn.Module] = [nn.BatchNorm2d(block.channels), nn.ReLU()]
            if block.pool != "none":
                rest.insert(0 if pool == "after_conv" else 2, nn.MaxPool2d(2))
            layers += rest
            width = block.channels
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(config.model["dropout"])]
        self.network = nn.Sequential(*layers, *tail, nn.Linear(width, 10))
        self.train_accuracy, self.val_accuracy = MulticlassAccuracy(10), MulticlassAccuracy(10)
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch and log it."""
        logits = self.network(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.train_loss(loss)
        self.train_accuracy(logits, batch[1])
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of a batch."""
        logits = self.network(batch[0])
        self.val_loss(F.cross_entropy(logits, batch[1]))
        self.val_accuracy(logits, batch[1])
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_accuracy, on_step=False, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain SGD with momentum."""
        return torch.optim.SGD(
            self.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )


def conventional(pool: str = "after_activation") -> dict[str, Any]:
    """Train one epoch of a typical project."""
    to_tensor = [transforms.ToTensor(), transforms.Normalize((FACTS.mean,), (FACTS.std,))]
    distort = transforms.RandomAffine(
        15,
        translate=(2 / 28, 2 / 28),
        scale=(0.85, 1.15),
        shear=8.5,
        interpolation=transforms.InterpolationMode.BILINEAR,
    )
    bolder_or_finer = transforms.Lambda(
        lambda image: transforms.functional.adjust_gamma(image, math.exp(random.uniform(-1, 1)))
    )
    loader = partial(DataLoader, batch_size=parse(configure()).data["batch_size"])
    quiet = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet_lightning(), quiet:
        unpack(Path(folder) / "MNIST" / "raw")
        augmented = transforms.Compose([distort, bolder_or_finer, *to_tensor])
        train_set = MNIST(folder, transform=augmented)
        test_set = MNIST(folder, train=False, transform=transforms.Compose(to_tensor))
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = pl.Trainer(
                max_epochs=1,
                accelerator="cpu",
                default_root_dir=folder,
                callbacks=[Clock()],
                num_sanity_val_steps=0,
            )
            trainer.fit(
                Conventional(pool),
                loader(train_set, shuffle=True, drop_last=True),
                loader(test_set),
            )
    return clocked()


def unpack(folder: Path) -> None:
    """Write MNIST's files into the folder that torchvision expects."""
    folder.mkdir(parents=True)
    for name in DIGESTS:
        values = read(find_mnist(), name)
        header = b"\0\0\x08" + bytes([values.ndim])
        sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
        (folder / name).write_bytes(header + sizes + values.numpy().tobytes())


def start(rounds: int) -> dict[str, Any]:
    """Measure the time until commands answer, and until the first training step."""
    python = [sys.executable]
    commands = {
        "import mnist_lit": [*python, "-c", "import mnist_lit"],
        "import pytorch_lightning": [*python, "-c", "import pytorch_lightning"],
        "python -c pass": [*python, "-c", "pass"],
        "train.py --help": [*python, "train.py", "--help"],
        "train.py --cfg job": [*python, "train.py", "--cfg", "job"],
        "train.py model.dropuot=1 (a mistake)": [*python, "train.py", "model.dropuot=1"],
    }

    def answer(command: list[str]) -> float:
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, capture_output=True)
        return time.perf_counter() - started

    def first_step() -> float:
        started = time.time()
        return float(child("ours")["first_step"]) - started

    runs = {n: partial(answer, c) for n, c in commands.items()}
    found = interleave({**runs, "first training step": first_step}, rounds)
    seconds = {name: statistics.median(turns) for name, turns in found.items()}
    for name, value in seconds.items():
        print(f"| {name} | {value:.2f} s |")
    return {"seconds": seconds, "turns": found}


def growth(rounds: int) -> dict[str, Any]:
    """Measure time and memory of an epoch with every image repeated 1, 2, 5 and 10 times.

    Only a sixth of the epoch is timed, in many turns of one process, because the speed of the
    machine changes.
    """
    runs = {str(factor): partial(repeated, factor) for factor in FACTORS}
    turns = interleave(runs, 3 * rounds, warm_up=True)
    processes = interleave({name: partial(child, "repeated", name) for name in runs}, rounds)
    memory = {
        name: statistics.median(turn["peak_mb"] for turn in found)
        for name, found in processes.items()
    }
    one = 60_000 * (28 * 28 + 8) / 2**20
    rows = {}
    print("| data | seconds | time per image, of 1× | memory beyond 1×, MB | bytes beyond 1×, MB |")
    print("|---|---|---|---|---|")
    for name, found in turns.items():
        factor = int(name)
        pairs = list(zip(found, turns["1"], strict=True))
        relative = statistics.median(
            a["training"] / a["images"] / (b["training"] / b["images"]) for a, b in pairs
        )
        extra = memory[name] - memory["1"]
        rows[name] = {
            "seconds": statistics.median(turn["training"] for turn in found),
            "time_per_image_of_1x": relative,
            "extra_mb": extra,
            "extra_data_mb": (factor - 1) * one,
        }
        print(
            f"| {name}× | {rows[name]['seconds']:.1f} | {relative:.2f} | {extra:.0f} "
            f"| {(factor - 1) * one:.0f} |"
        )
    return {"data": rows, "turns": turns, "turns in processes": processes}


class RepeatedData(MNISTDataModule):
    """MNIST with every training image repeated."""

    def __init__(self, factor: int, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def setup(self, stage: str) -> None:
        """Read the splits and repeat the training images."""
        super().setup(stage)
        images = self.train.images.repeat(self.factor, 1, 1, 1)
        self.train = Images(images, self.train.labels.repeat(self.factor))


def fit(config: Config, data: MNISTDataModule, *callbacks: Callback) -> None:
    """Train as ``train`` does, on these data and with additional callbacks."""
    own = [*build_callbacks(config), *callbacks]
    data.check()
    build_trainer(config, own, data).fit(build_module(config), data)


def repeated(factor: int) -> dict[str, Any]:
    """Train a sixth of an epoch on repeated data."""
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        config = parse(configure(folder))
        limited(config, 1 / 6)
        fit(config, RepeatedData(factor, **without_target(config.data)))
    return clocked()


def batches(rounds: int) -> dict[str, Any]:
    """Measure ours at batch sizes from 64 to 4,096."""

    def run(size: int) -> float:
        with tempfile.TemporaryDirectory() as folder, quiet_lightning():
            config = parse(configure(folder))
            fit(config, RepeatedData(1, **{**without_target(config.data), "batch_size": size}))
        return Clock.images[0] / Clock.training[0]

    found = interleave({str(n): partial(run, n) for n in BATCH_SIZES}, rounds, warm_up=True)
    speed = {name: statistics.median(turns) for name, turns in found.items()}
    print("| batch | images/s |\n|---|---|")
    for name, value in speed.items():
        print(f"| {name} | {value:,.0f} |")
    return {"images_per_second": speed, "turns": found}


def small(rounds: int) -> dict[str, Any]:
    """Measure ours and the bare loop at the batch sizes of the recipes."""
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    for size in RECIPES:
        runs[f"bare, {size}"] = BareLoop(images=TRAIN // 3, batch_size=size).epoch
        runs[f"ours, {size}"] = partial(fit_without, "", size)
    found = interleave(runs, rounds, warm_up=True)
    rows = {}
    print("| batch | bare, images/s | ours | ours / bare | ms a step more |\n|---|---|---|---|---|")
    for size in RECIPES:
        bare, our = (
            [turn["training"] / turn["images"] for turn in found[f"{name}, {size}"]]
            for name in ("bare", "ours")
        )
        pairs = list(zip(bare, our, strict=True))
        rows[str(size)] = {
            "bare": statistics.median(1 / b for b in bare),
            "ours": statistics.median(1 / o for o in our),
            "ratio": statistics.median(b / o for b, o in pairs),
            "more_ms_a_step": statistics.median(1000 * size * (o - b) for b, o in pairs),
        }
        print(
            "| {} | {bare:,.0f} | {ours:,.0f} | {ratio:.3f} | {more_ms_a_step:.2f} |".format(
                size, **rows[str(size)]
            )
        )
    return {"batches": rows, "turns": found}


def alignment(rounds: int) -> dict[str, Any]:
    """Measure the cost of the alignment in a training step of ``nano``."""
    OVERRIDES.append("experiment=nano")
    contestants = {name: BareLoop(name, images=TRAIN // 12).epoch for name in ("", "alignment")}
    found = interleave(contestants, 5 * rounds, warm_up=True)
    OVERRIDES.remove("experiment=nano")
    cost = 1 / gain(found["alignment"], found[""]) - 1
    print(f"aligned, a step takes {cost:+.1%}")
    return {"cost": cost, "turns": found}


def kernel(rounds: int) -> dict[str, Any]:
    """Measure the gain of the first convolution's operation, at the recipes' batch sizes."""
    lever = "first convolution with its pooling"
    gains, turns = {}, {}
    print("| network | batch | gain | quartiles |\n|---|---|---|---|")
    for name in ("final", "small", "tiny", "nano"):
        OVERRIDES.append(f"experiment={name}")
        loops = {which: BareLoop(which, images=TRAIN // 6) for which in ("", lever)}
        found = interleave({w: loop.epoch for w, loop in loops.items()}, 3 * rounds, warm_up=True)
        OVERRIDES.pop()
        pairs = zip(found[lever], found[""], strict=True)
        ratios = [without["training"] / usual["training"] for without, usual in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        gains[name], turns[name] = middle, found
        size = loops[""].batch_size
        print(f"| {name} | {size} | {middle:.2f} | {low:.2f} to {high:.2f} |", flush=True)
    return {"gains": gains, "turns": turns}


def levers(rounds: int) -> dict[str, Any]:
    """Measure the gain of each optimisation: training with it against training without.

    Those of the network and the augmentation are switched off in the bare loop, those of Lightning
    in the trainer of ``train``. There are many short turns, so that the machine's speed changes
    between rounds and not within one.
    """
    of_network = ["", *KEPT]
    found = interleave(
        {name: BareLoop(name, images=TRAIN // 6).epoch for name in of_network},
        5 * rounds,
        warm_up=True,
    )
    gains = {name: gain(found[name], found[""]) for name in of_network[1:]}
    for size in (parse(configure()).data["batch_size"], SMALL):
        trainings = interleave(
            {f"{name}, {size}": partial(fit_without, name, size) for name in ["", *OF_LIGHTNING]},
            5 * rounds,
            warm_up=True,
        )
        for name in OF_LIGHTNING:
            gains[f"{name}, {size}"] = gain(trainings[f"{name}, {size}"], trainings[f", {size}"])
        found |= trainings
    print("| lever | speed with it / without |\n|---|---|")
    for name, value in gains.items():
        print(f"| {name} | {value:.3f} |")
    return {"gains": gains, "turns": found}


def gain(without: list[dict[str, Any]], usual: list[dict[str, Any]]) -> float:
    """Return how much faster the usual training is, as the median over turns."""
    pairs = zip(without, usual, strict=True)
    return statistics.median(a["training"] / b["training"] for a, b in pairs)


def fit_without(lever: str, batch_size: int) -> dict[str, Any]:
    """Train some steps as ``train`` does, without one optimisation of Lightning."""
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        config = parse(configure(folder))
        limited(config, 300 if batch_size == SMALL else 1 / 3)
        kind = OneByOne if lever == "batches by position" else MNISTDataModule
        callbacks = [LogSteps()] if lever == "no logging at steps" else []
        fit(config, kind(**{**without_target(config.data), "batch_size": batch_size}), *callbacks)
    return clocked()


def limited(config: Config, batches: float) -> None:
    """Limit the training to a number of batches of an epoch, or to a share of them."""
    config.trainer["limit_train_batches"] = batches


class OneByOne(MNISTDataModule):
    """Fetches one image at a time, as most projects do."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a plain ``DataLoader``."""
        images = TensorDataset(self.train.images, self.train.labels)
        return DataLoader(images, self.batch_size, shuffle=True, drop_last=True)


class LogSteps(Callback):
    """Logs the loss of every step, as most projects do."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the loss for the progress bar and the epoch's mean."""
        pl_module.log("train/step", outputs["loss"], on_step=False, on_epoch=True, prog_bar=True)


def child(name: str, *arguments: str) -> dict[str, Any]:
    """Run one of the trainings in its own process; the result has its peak memory."""
    code = (
        f"import throughput; throughput.OVERRIDES += {OVERRIDES!r}; "
        f"throughput.in_child({name!r}, *{arguments!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def in_child(name: str, *arguments: str) -> None:
    """Run a training and print its result."""
    runs: dict[str, Callable[..., dict[str, Any]]] = {
        "bare": lambda: BareLoop().epoch(),
        "ours": ours,
        "conventional": conventional,
        "repeated": lambda factor: repeated(int(factor)),
    }
    found = runs[name](*arguments)
    status = Path("/proc/self/status").read_text()  # rusage would include the parent's peak
    peak = re.search(r"VmHWM:\s*(\d+)", status)
    assert peak is not None
    peak_mb = int(peak[1]) / 1024
    print(json.dumps({**found, "first_step": Clock.first_step, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
