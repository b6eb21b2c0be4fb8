"""Time to an accuracy: mnist-lit beside two public recipes.

``python benchmarks/race.py`` prints a table and writes ``results/race.json``.

Each entry trains for a length that was fixed beforehand, on 55,000 of the training images. Its
accuracy is that of the 5,000 others at the end. Seed k has split k. All entries train in turns,
each in a process of its own:

- *ours*: ``python train.py experiment=quick`` behind an alignment on 22×22 pixels; one and
  four epochs in batches of 96, without distortions, dropout and moving average;
- *train_mnist_fast*: ``8_Final_00s76.ipynb`` of github.com/tuomaso/train_mnist_fast, written anew;
- *pytorch/examples*: ``mnist/main.py`` of github.com/pytorch/examples, written anew, with five
  epochs instead of 14.

The seconds of a training begin before its first step and contain all until its end: for ours also
checkpoints and validation. Those of the command also contain imports and reading the images.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mnist_lit import MNISTDataModule, devices
from mnist_lit.data.batches import Images

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "race.json"
ALIGNED = ("experiment=quick", "model.align=true", "model.crop=22", "model.shrink=1.2")
SHORT = ("augmentation=none", "callbacks=plain", "model.dropout=0", "data.batch_size=96")
PLAIN = (*ALIGNED, *SHORT)
OURS = {
    "ours, 1 epoch": (*PLAIN, "trainer.max_epochs=1"),
    "ours, 4 epochs": (*PLAIN, "trainer.max_epochs=4"),
    "ours, 8 epochs": ALIGNED,
}
EPOCHS = 5  # of pytorch/examples
MEAN, DEVIATION = 0.1307, 0.3081


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="of each entry (default: 10)")
    parser.add_argument("--slow-seeds", type=int, default=3, help="of pytorch/examples")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "SEED"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run the race, or one training of another recipe."""
    options = command_line().parse_args()
    if options.one:
        recipe, seed = options.one
        print(json.dumps(THEIRS[recipe](int(seed))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name in (*OURS, *THEIRS):
            if name == "pytorch/examples" and seed >= options.slow_seeds:
                continue
            found.setdefault(name, []).append(timed(name, seed))
            print(f"{name}, seed {seed}: {found[name][-1]}", file=sys.stderr, flush=True)
    print(
        "| | seeds | held out, mean ± s.d., % | training, s | command, s |\n|---|---|---|---|---|"
    )
    for name, turns in found.items():
        accuracy = [100 * turn["accuracy"] for turn in turns]
        spread = f" ± {statistics.stdev(accuracy):.3f}" if len(turns) > 1 else ""
        training, command = (
            statistics.median(turn[key] for turn in turns) for key in ("seconds", "command")
        )
        mean = f"{statistics.mean(accuracy):.3f}{spread}"
        print(f"| {name} | {len(turns)} | {mean} | {training:.1f} | {command:.1f} |")
    given = f"--seeds {options.seeds} --slow-seeds {options.slow_seeds}"
    about = {
        "command": f"python benchmarks/race.py {given}",
        "machine": devices.describe(torch.device("cpu")),
        "torch": torch.__version__,
    }
    RESULTS.write_text(json.dumps({**about, "turns": found}, indent=1) + "\n")


def timed(name: str, seed: int) -> dict[str, float]:
    """Train in a process of its own; return accuracy and the seconds of training and command."""
    started = time.perf_counter()
    if name in THEIRS:
        words = [sys.executable, __file__, "--one", name, str(seed)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        return {**json.loads(done.stdout), "command": time.perf_counter() - started}
    with tempfile.TemporaryDirectory() as folder:
        words = [*OURS[name], "data=mnist_holdout", f"data.split_seed={seed}", f"seed={seed}"]
        words += ["test=false", "requirements.enforce=false", "callbacks.progress=null"]
        words += [f"hydra.run.dir={folder}/run"]
        command = [sys.executable, str(ROOT / "train.py"), *words]
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        report = json.loads(Path(folder, "run/report.json").read_text())
        found = {"accuracy": report["last_val_accuracy"], "seconds": report["wall_seconds"]}
        return {**found, "command": seconds}


def images(seed: int) -> tuple[Images, Images]:
    """Return the training images and the held-out ones."""
    data = MNISTDataModule(validation="holdout", split_seed=seed)
    data.setup("fit")
    return data.train, data.val


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    network.eval()
    with torch.no_grad():
        right = [
            (network(x).argmax(dim=1) == y).sum()
            for x, y in zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True)
        ]
    return int(sum(right)) / len(labels)


def normalised(images: Images) -> Tensor:
    """Return all images, normalised."""
    return (images.images.float() / 255 - MEAN) / DEVIATION


def train_mnist_fast(seed: int) -> dict[str, float]:
    """Train one epoch in batches of 256 with Adam, in the order of the file."""
    train, held = images(seed)
    torch.manual_seed(seed)
    x, y, batch_size = normalised(train), train.labels, 256
    network = nn.Sequential(
        *(nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.7, 0.9))
    steps = -(-len(y) // batch_size)
    scheduler = OneCycleLR(optimizer, max_lr=0.01, total_steps=steps, cycle_momentum=False)
    started = time.perf_counter()
    for batch, labels in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(batch), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        scheduler.step()
    seconds = time.perf_counter() - started
    return {"accuracy": accuracy(network, normalised(held), held.labels), "seconds": seconds}


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images that are transformed one by one, as by torchvision's ``MNIST``."""

    def __init__(self, given: Images) -> None:
        self.given = given
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((MEAN,), (DEVIATION,))]
        )

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.given.images[index, 0].numpy())
        return self.transform(image), int(self.given.labels[index])


def pytorch_examples(seed: int) -> dict[str, float]:
    """Train in batches of 64 with Adadelta, and test after each epoch."""
    train, held = images(seed)
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Dropout(0.25), nn.Flatten(), nn.Linear(9216, 128), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Linear(128, 10)),
    )
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
    loader = DataLoader(Pictures(train), batch_size=64)
    started = time.perf_counter()
    for _ in range(EPOCHS):
        network.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimizer.step()
        found = accuracy(network, normalised(held), held.labels)
        scheduler.step()
    return {"accuracy": found, "seconds": time.perf_counter() - started}


THEIRS: dict[str, Callable[[int], dict[str, Any]]] = {
    "train_mnist_fast": train_mnist_fast,
    "pytorch/examples": pytorch_examples,
}


if __name__ == "__main__":
    main()
