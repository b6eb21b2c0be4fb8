"""Train many small networks at once on one GPU, and evaluate each on held-out images.

``python research/together.py PLAN.jsonl RESULTS.jsonl`` runs the trainings of a plan, one per line,
and writes each line again with its results. Results are a plan too: ``results/together.jsonl`` can
be repeated. Neighbouring lines that differ only in the recipe (learning rate, weight decay,
distortions, split, seed) are trained together: one call of each operation is for all of them, and a
step is one CUDA graph.

It gives a first impression of many recipes: network, distortions, scheduler, optimizer and moving
average are those of ``train.py``, in bfloat16, but the loop and the random numbers are its own. A
result counts only after ``train.py`` has confirmed it. The test images are not read.
"""

import argparse
import gzip
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_lit.data.augmentation import sampling_grid
from mnist_lit.data.batches import stratified
from mnist_lit.facts import MNIST
from mnist_lit.network.alignment import Alignment
from mnist_lit.network.blocks import Block
from mnist_lit.network.compact import CompactCNN, count_parameters

ROOT = Path(__file__).parents[1]
HELD_OUT = 5_000


@dataclass
class Recipe:
    """The recipe of one network of a group, with the names of the configs."""

    lr: float = 0.15
    weight_decay: float = 5e-4
    momentum: float = 0.9
    pct_start: float = 0.2
    degrees: float = 5.0
    translate: float = 1.0
    scale: float = 0.05
    shear: float = 0.05
    gamma: float = 0.0
    bend: float = 0.0
    fade: float = 0.5
    average: float = 0.999
    split_seed: int = 0
    seed: int = 0


@dataclass
class Group:
    """Settings of trainings that run together.

    Attributes:
        name: Their name in the results.
        blocks: Blocks of the network, as in ``conf/model``.
        align: Whether images are aligned: false, true (after the distortions) or before.
        batch_size: Images of a step.
        epochs: Number of epochs.
        dropout: Probability of dropout before the linear layer.
        dropout_ends: Share of the epochs that use dropout.
        activation: relu or silu.
        optimizer: sgd or adamw.
    """

    name: str
    blocks: list[dict[str, Any]]
    align: bool | str = True
    batch_size: int = 32
    epochs: int = 20
    dropout: float = 0.0
    dropout_ends: float = 1.0
    activation: str = "relu"
    optimizer: str = "sgd"


class Wide(torch.autograd.Function):
    """The full convolutions of all networks, as a matrix product with patches."""

    @staticmethod
    def patches(x: Tensor, kernel: int) -> Tensor:
        """Map ``[B, E, C, H, W]`` to ``[B, E, k·k·C, H·W]``."""
        b, e, c, h, w = x.shape
        padded = F.pad(x, (kernel // 2,) * 4)
        shifts = [(i, j) for i in range(kernel) for j in range(kernel)]
        cut = [padded[..., i : i + h, j : j + w] for i, j in shifts]
        return torch.cat(cut, dim=2).view(b, e, kernel * kernel * c, h * w)

    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        """Map ``[E, D, C, k, k]`` to ``[E, D, k·k·C]``."""
        return weight.permute(0, 1, 3, 4, 2).flatten(2)

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve ``[B, E, C, H, W]`` with ``[E, D, C, k, k]``."""
        cols = Wide.patches(x, weight.shape[3])
        ctx.save_for_backward(cols, weight)
        return (Wide.matrix(weight) @ cols).view(*x.shape[:2], -1, *x.shape[3:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of images and weights."""
        cols, weight = ctx.saved_tensors
        e, d, c, k, _ = weight.shape
        flat = grad.reshape(*grad.shape[:3], -1)
        weights = (flat @ cols.transpose(2, 3)).float().sum(0).view(e, d, k, k, c)
        turned = Wide.matrix(weight.flip(3, 4).transpose(1, 2))
        images = (turned @ Wide.patches(grad, k)).view(*grad.shape[:2], c, *grad.shape[3:])
        return images, weights.permute(0, 1, 4, 2, 3).to(weight.dtype)


class Together:
    """One group: its networks in one tensor of weights, and their training step."""

    def __init__(self, group: Group, recipes: list[Recipe], images: Tensor, labels: Tensor) -> None:
        self.group, self.recipes, self.device = group, recipes, images.device
        self.count = len(recipes)
        self.blocks = [Block(**b) for b in group.blocks]
        if not all(b.padding or b.separable or b.kernel == 1 for b in self.blocks):
            raise SystemExit(
                f"{group.name}: only separable convolutions can go without padding here"
            )
        networks = []
        for recipe in recipes:
            torch.manual_seed(recipe.seed)
            networks.append(CompactCNN(group.blocks))
        self.parameters = count_parameters(networks[0])
        learnt = [[p for p in n.named_parameters() if p[1].requires_grad] for n in networks]
        self.shapes = {name: p.shape for name, p in learnt[0]}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        flat = torch.stack([torch.cat([p.detach().flatten() for _, p in each]) for each in learnt])
        self.weights = flat.to(self.device).requires_grad_()
        self.decays = torch.cat(
            [
                torch.full((size,), float(len(shape) > 1))
                for shape, size in zip(self.shapes.values(), self.sizes, strict=True)
            ]
        ).to(self.device)
        self.slots = [torch.zeros_like(self.weights) for _ in range(2)]
        widths = [b.channels for b in self.blocks for _ in range(b.repeats)]
        whole = sum(widths) * self.count
        self.statistics = torch.cat((torch.zeros(whole), torch.ones(whole))).to(self.device)
        owners = torch.cat([torch.arange(self.count).repeat_interleave(w) for w in widths])
        self.owners = torch.cat((owners, owners)).to(self.device)
        self.averages = [self.weights.detach().clone(), self.statistics.clone()]
        self._data(images, labels)
        self._amounts()
        self.generator = torch.Generator(self.device).manual_seed(recipes[0].seed)
        self.n = torch.zeros((), dtype=torch.int64, device=self.device)
        self.cursor = torch.zeros((), dtype=torch.int64, device=self.device)
        self.losses = torch.zeros(self.count, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _data(self, images: Tensor, labels: Tensor) -> None:
        cpu = labels.cpu()
        held = {r.split_seed: stratified(cpu, HELD_OUT, r.split_seed) for r in self.recipes}
        left = {}
        for seed, positions in held.items():
            mask = torch.ones(len(cpu), dtype=torch.bool)
            mask[positions] = False
            left[seed] = mask.nonzero().flatten()
        seeds = [r.split_seed for r in self.recipes]
        self.train = torch.stack([left[s] for s in seeds], 1).to(self.device)
        self.held_out = torch.stack([held[s] for s in seeds], 1).to(self.device)
        self.labels = labels
        scaled = images.float() / 255
        self.straighten = Alignment(28, paper=0.0).to(self.device)
        straight = scaled
        if self.group.align:
            chunks = torch.split(scaled[:, None], 4_000)
            straight = torch.cat([self.straighten(c) for c in chunks])[:, 0]
        self.seen = straight if self.group.align == "before" else scaled
        self.judged = straight
        self.steps = len(self.train) // self.group.batch_size
        self.order = self.train[: self.steps * self.group.batch_size].clone()

    def _amounts(self) -> None:
        def column(name: str) -> Tensor:
            return torch.tensor([float(getattr(r, name)) for r in self.recipes], device=self.device)

        self.weight_decay = column("weight_decay")[:, None]
        self.momentum = column("momentum")[:, None]
        self.amounts = {
            name: column(name)
            for name in ("degrees", "translate", "scale", "shear", "gamma", "bend")
        }
        self.strength = torch.ones(self.count, device=self.device)
        self.drops = torch.ones((), device=self.device)
        total = self.steps * self.group.epochs
        rates = [one_cycle(r.lr, r.pct_start, total) for r in self.recipes]
        self.rates = torch.tensor(np.stack(rates, 1), dtype=torch.float32, device=self.device)
        self.decay = column("average")
        self.fade = column("fade")

    def distort(self, images: Tensor) -> Tensor:
        """Distort ``[B, E, 28, 28]``, by each network's own amounts."""
        b, e = images.shape[:2]
        a, g = self.amounts, self.generator

        def uniform(*shape: int) -> Tensor:
            return (torch.rand(*shape, generator=g, device=self.device) * 2 - 1) * self.strength

        angle = uniform(b, e) * (a["degrees"] * (math.pi / 180))
        size = 1 + uniform(b, e) * a["scale"]
        shear = uniform(b, e) * a["shear"]
        shift_x, shift_y = (uniform(b, e) * (a["translate"] * (2 / 28)) for _ in range(2))
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        rows = [cos, shear * cos - sin, shift_x, sin, shear * sin + cos, shift_y]
        theta = torch.stack(rows, dim=2).view(b * e, 2, 3)
        if any(r.bend for r in self.recipes):
            curves = uniform(6, b, e) * a["bend"]
            theta = torch.cat((theta, curves.permute(1, 2, 0).reshape(b * e, 2, 3)), dim=2)
        images = images.reshape(b * e, 1, 28, 28)
        images = F.grid_sample(images, sampling_grid(theta, 28, 28), align_corners=False)
        if any(r.gamma for r in self.recipes):
            power = torch.exp(uniform(b, e) * a["gamma"]).view(-1, 1, 1, 1)
            images = images.clamp(min=0).pow(power)
        if self.group.align is True:
            images = self.straighten(images)
        return images.view(b, e, 28, 28)

    def logits(self, images: Tensor, weights: Tensor, statistics: Tensor, train: bool) -> Tensor:
        """Map normalised ``[B, E, 28, 28]`` to ``[B, E, 10]``."""
        e = self.count
        parts = torch.split(weights, self.sizes, 1)
        w = dict(zip(self.shapes, parts, strict=True))
        norms = iter(self._norms(statistics))
        x, width = images, 1  # [B, E·C, H, W]
        for i, block in enumerate(self.blocks):
            p = f"blocks.{i}."
            for repeat in range(block.repeats):
                y = x
                k = block.kernel
                if block.separable:
                    filters = w[p + "depthwise.weight"].reshape(e * width, 1, k, k)
                    around = k // 2 if block.padding else 0
                    y = F.conv2d(y, filters, padding=around, groups=e * width)
                y = self._mix(y, w[p + "conv.weight"], width, block)
                if block.bias:
                    y = y + w[p + "conv.bias"].reshape(1, -1, 1, 1)
                if block.pool == "after_conv":
                    y = F.max_pool2d(y, 2)
                mean, variance = next(norms)
                norm = f"{p}norms.{repeat}."
                scale = w[norm + "weight"].reshape(-1).float() if block.norm_scale else None
                shift = w[norm + "bias"].reshape(-1).float()
                y = F.batch_norm(y, mean, variance, scale, shift, training=train)
                y = F.silu(y) if self.group.activation == "silu" else F.relu(y)
                x = x + y if block.residual else y
            width = block.channels
            if block.pool == "after_activation":
                x = F.max_pool2d(x, 2)
            if train:
                x = self._drop(x, block.dropout)
        x = x.mean((2, 3)).view(-1, e, width)
        if train:
            x = self._drop(x, self.group.dropout)
        matrix = w["linear.weight"].view(e, 10, width)
        return torch.einsum("bec,enc->ben", x, matrix) + w["linear.bias"]

    def _mix(self, x: Tensor, weight: Tensor, width: int, block: Block) -> Tensor:
        b, _, h, w = x.shape
        e, d, k = self.count, block.channels, 1 if block.separable else block.kernel
        if width == 1 and k > 1:
            return F.conv2d(x, weight.reshape(e * d, 1, k, k), padding=k // 2, groups=e)
        if k == 1:
            y = weight.reshape(e, d, width) @ x.view(b, e, width, h * w)
        else:
            y = Wide.apply(x.view(b, e, width, h, w), weight.reshape(e, d, width, k, k))
        return y.reshape(b, e * d, h, w)

    def _norms(self, statistics: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        half, at = len(statistics) // 2, 0
        for block in self.blocks:
            for _ in range(block.repeats):
                size = block.channels * self.count
                yield statistics[at : at + size], statistics[half + at : half + at + size]
                at += size

    def _drop(self, x: Tensor, probability: float) -> Tensor:
        if not probability:
            return x
        p = self.drops * probability
        kept = torch.rand(x.shape, generator=self.generator, device=x.device) >= p
        return x * (kept / (1 - p)).to(x.dtype)

    def step(self) -> None:
        """Train all networks on a batch each."""
        b = self.group.batch_size
        rows = self.cursor * b + torch.arange(b, device=self.device)
        positions = self.order.index_select(0, rows)
        with torch.no_grad():
            images = self.distort(self.seen[positions])
            images = (images - MNIST.mean) / MNIST.std
        low = self.weights.to(torch.bfloat16) if self.device.type == "cuda" else self.weights
        logits = self.logits(images.to(low.dtype), low, self.statistics, train=True).float()
        labels = self.labels[positions]
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        losses = losses.view(b, -1).mean(0)
        (gradient,) = torch.autograd.grad(losses.sum(), self.weights)
        with torch.no_grad():
            self._update(gradient)
            self.losses += losses.detach()
            self.n += 1
            self.cursor += 1

    def _update(self, gradient: Tensor) -> None:
        rate = self.rates.index_select(0, self.n.view(1)).view(-1, 1)
        if self.group.optimizer == "sgd":
            gradient = gradient + self.weight_decay * self.decays * self.weights
            self.slots[0].mul_(self.momentum).add_(gradient)
            self.weights -= rate * (gradient + self.momentum * self.slots[0])
        else:
            t = (self.n + 1).float()
            self.weights.mul_(1 - rate * self.weight_decay * self.decays)
            self.slots[0].lerp_(gradient, 0.1)
            self.slots[1].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            root = (self.slots[1] / (1 - 0.999**t)).sqrt() + 1e-8
            self.weights -= rate * (self.slots[0] / (1 - 0.9**t)) / root
        kept = torch.minimum(self.decay, (1 + self.n) / (10 + self.n)) * (self.n > 0)
        self.averages[0].lerp_(self.weights, (1 - kept)[:, None])
        self.averages[1].lerp_(self.statistics, (1 - kept)[self.owners])

    def capture(self) -> None:
        """Make a CUDA graph of a step, and restore the state."""
        state = [self.weights, *self.slots, self.statistics, *self.averages, self.n, self.cursor]
        state.append(self.losses)
        kept = [t.detach().clone() for t in state]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        with torch.cuda.graph(self.graph):
            self.step()
        with torch.no_grad():
            for tensor, before in zip(state, kept, strict=True):
                tensor.copy_(before)

    def begin(self, epoch: int) -> None:
        """Draw the order of an epoch, and set the amounts that depend on the epoch."""
        noise = torch.rand(self.train.shape, generator=self.generator, device=self.device)
        order = self.train.gather(0, noise.argsort(0))
        self.order.copy_(order[: len(self.order)])
        self.cursor.zero_()
        self.losses.zero_()
        left = 1 - epoch / self.group.epochs
        self.strength.copy_((left / (1 - self.fade).clamp(min=1e-6)).clamp(max=1))
        ends = self.group.dropout_ends
        self.drops.fill_(float(epoch < max(1, round(self.group.epochs * ends))))

    @torch.no_grad()
    def judge(self) -> tuple[Tensor, Tensor]:
        """Return errors and mean loss of every network's average, on its held-out images."""
        errors = torch.zeros(self.count, device=self.device)
        loss = torch.zeros(self.count, device=self.device)
        for rows in torch.split(self.held_out, 500):
            images = (self.judged[rows] - MNIST.mean) / MNIST.std
            weights, statistics = self.averages
            logits = self.logits(images, weights, statistics, train=False)
            labels = self.labels[rows]
            errors += (logits.argmax(2) != labels).sum(0)
            each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            loss += each.view(labels.shape).sum(0)
        return errors, loss / HELD_OUT

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the result line of each training."""
        errors, losses = self.judge()
        rows = zip(self.recipes, errors.tolist(), losses.tolist(), self.losses, strict=True)
        for recipe, wrong, loss, train_loss in rows:
            yield {
                **asdict(self.group),
                **asdict(recipe),
                "parameters": self.parameters,
                "accuracy": 100 * (1 - wrong / HELD_OUT),
                "loss": loss,
                "train_loss": float(train_loss) / self.steps,
            }


def one_cycle(rate: float, pct_start: float, total: int) -> Any:
    """Return the rates of ``torch.optim.lr_scheduler.OneCycleLR`` for all steps at once."""
    steps = np.arange(total)
    top = pct_start * total - 1
    first, last = rate / 25, rate / 25 / 1e4
    up = rate + (first - rate) / 2 * (1 + np.cos(np.pi * np.clip(steps / max(top, 1e-9), 0, 1)))
    down_share = np.clip((steps - top) / (total - 1 - top), 0, 1)
    down = last + (rate - last) / 2 * (1 + np.cos(np.pi * down_share))
    return np.where(steps <= top, up, down)


def read_images(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the 60,000 training images and their labels."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def read_plan(lines: list[str]) -> list[tuple[Group, list[Recipe]]]:
    """Return the groups of a plan, or of results."""

    def part(kind: type, line: dict[str, Any]) -> Any:
        return kind(**{f.name: line[f.name] for f in fields(kind) if f.name in line})

    both = [(part(Group, line), part(Recipe, line)) for line in map(json.loads, lines)]
    return [
        (group, [recipe for _, recipe in found])
        for group, found in groupby(both, key=lambda pair: pair[0])
    ]


def run(
    plan: list[tuple[Group, list[Recipe]]],
    images: Tensor,
    labels: Tensor,
    output: Path,
    lanes: int,
    until: float,
) -> None:
    """Train several groups side by side, until the plan is finished or the time is over."""
    make_stream: Any = torch.cuda.Stream  # untyped in torch
    streams = [make_stream() for _ in range(lanes)]
    waiting = list(plan)
    running: dict[int, tuple[Together, int, int, float]] = {}
    while waiting or running:
        for lane, stream in enumerate(streams):
            if lane in running or not waiting:
                continue
            if time.monotonic() > until:
                waiting.clear()
                continue
            with torch.cuda.stream(stream):
                made = Together(*waiting.pop(0), images, labels)
                made.capture()
            torch.cuda.synchronize()
            running[lane] = (made, 0, 0, time.monotonic())
        for lane, (made, epoch, step, began) in list(running.items()):
            with torch.cuda.stream(streams[lane]):
                if step == 0:
                    made.begin(epoch)
                assert made.graph is not None
                made.graph.replay()
                epoch, step = (epoch, step + 1) if step + 1 < made.steps else (epoch + 1, 0)
                running[lane] = (made, epoch, step, began)
                if epoch == made.group.epochs:
                    lines = list(made.lines())
                    with output.open("a") as file:
                        file.writelines(json.dumps(line) + "\n" for line in lines)
                    seconds = time.monotonic() - began
                    best = max(line["accuracy"] for line in lines)
                    said = f"{made.group.name}: {made.count} in {seconds:.0f} s, best {best:.2f} %"
                    print(said, flush=True)
                    del running[lane], made


def main() -> None:
    """Run the plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path, help="JSON, one training per line")
    parser.add_argument("output", type=Path, help="lines are added")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "MNIST" / "raw")
    parser.add_argument("--lanes", type=int, default=2, help="groups side by side (default: 2)")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no group after this time")
    options = parser.parse_args()
    # No scratch memory: graphs that run side by side would share it.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"
    began = time.monotonic()
    plan = read_plan(options.plan.read_text().splitlines())
    images, labels = (t.cuda() for t in read_images(options.data))
    run(plan, images, labels, options.output, options.lanes, began + options.seconds)


if __name__ == "__main__":
    main()
