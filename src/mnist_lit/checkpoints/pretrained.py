"""The trained networks of the package.

Each is a checkpoint in ``weights/``, without the optimizer's state but with a record of results.
"""

from argparse import Namespace
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mnist_lit.checkpoints.read import Trained, read, read_file
from mnist_lit.errors import CheckpointError
from mnist_lit.network.compact import CompactCNN

WEIGHTS = Path(__file__).with_name("weights")
# What each network is for.
PURPOSES = {
    "final": "the default; five convolutions",
    "final-world": "people's pictures; as final, also trained on synthetic digits",
    "flagship": "the highest accuracy under 20,000 parameters",
    "small": "under 10,000 parameters",
    "optimized": "for comparison: the layer list of the original specification",
    "optimized-aligned": "the same layers after an alignment",
    "tiny": "under 4,000 parameters: 4 kB as 8-bit integers",
    "micro": "under 2,000 parameters: 8 kB as floats, 2 kB as 8-bit integers",
    "nano": "under 1,000 parameters: 4 kB as floats, 1 kB as 8-bit integers",
    "pico": "under 700 parameters: 3 kB as floats",
}


def names() -> list[str]:
    """Return the names of the networks of the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.ckpt"))


def checkpoint_of(model: str | Path) -> Path:
    """Return the checkpoint of a network's name, a path or the folder of a run.

    Raises:
        CheckpointError: The model is none of these.
        OSError: The path is not possible.
    """
    if str(model) in names():
        return WEIGHTS / f"{model}.ckpt"
    path = Path(model).expanduser()
    best = path / "checkpoints" / "best.ckpt"
    if best.is_file():
        return best
    if not path.exists() and len(path.parts) == 1 and not path.suffix:
        known = f"no such network; there are {', '.join(names())}"
        words = "give the folder of a run, as outputs/<date>/<time>, or the path of a checkpoint"
        raise CheckpointError(f"{model}: {known}, or {words}")
    return path


def load(model: str | Path, device: Any = "cpu", trust: Collection[str] = ()) -> Trained:
    """Read a network of the package by its name, or a checkpoint; see ``read.read``."""
    return read(checkpoint_of(model), device, trust)


def load_pretrained(name: str) -> CompactCNN:
    """Return a trained network of the package, in evaluation mode on the CPU.

    It maps ``float32 [B, 1, 28, 28]``, as ``MNIST.normalize`` returns it, to logits ``[B, 10]``.

    Args:
        name: One of those that ``mnist-lit list`` prints.

    Raises:
        CheckpointError: There is no network of that name.
    """
    network = load(name).network
    assert isinstance(network, CompactCNN)
    return network


def record(name: str) -> dict[str, Any]:
    """Return the record of a network of the package.

    It has the parameters, experiment, seed and epoch, and the number of test digits read right.
    """
    return dict(read_file(checkpoint_of(name))["record"])


def show_table(_: Namespace) -> None:
    """Print a table of the networks of the package, most parameters first."""
    print(f"{'network':<18}{'parameters':>10}{'as floats':>11}{'accuracy':>10}  for")
    records = {name: record(name) for name in names()}
    for name, known in sorted(records.items(), key=lambda item: -item[1]["parameters"]):
        parameters, accuracy = known["parameters"], known["test_correct"] / known["test_total"]
        size = f"{4 * parameters / 1000:.1f} kB"
        print(f"{name:<18}{parameters:>10,}{size:>11}{accuracy:>10.2%}  {PURPOSES[name]}")
    print("accuracy: of these weights (last epoch of seed 0) on the test images")
