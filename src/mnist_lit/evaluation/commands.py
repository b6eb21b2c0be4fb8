"""What the commands ``evaluate``, ``report`` and ``compare`` do."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from mnist_lit import files
from mnist_lit.checkpoints import pretrained
from mnist_lit.data import reopen
from mnist_lit.data.datasets import IdxSet, Split
from mnist_lit.devices import pick_device
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.evaluation.page import open_subject, page
from mnist_lit.text import for_terminal, show


def count(
    model: str,
    split: Split,
    batch_size: int,
    device: str,
    data_root: Path | None,
    images: Path | None,
    trust: Collection[str],
    as_json: bool,
) -> None:
    """Count the images that a network reads right, and print how many.

    Args:
        model: A network of the package, a run's folder or a checkpoint.
        split, batch_size: Which images, and how many at a time.
        device: ``auto``, ``cpu``, ``cuda``, …
        data_root: The folder of the images that it was trained on; None for the default.
        images: A folder of other images in MNIST's layout, which are read instead.
        trust: Classes that the checkpoint may name, beside those of this project.
        as_json: Print one JSON object.
    """
    place, trained = pick_device(device), pretrained.load(model, trust=trust)
    facts, name = trained.facts, str(images or trained.facts.name)
    data = IdxSet(images) if images else reopen.reopen(facts, data_root, trust)
    wanted = reopen.split(data, split, facts)
    result = evaluate(trained.network, wanted, facts, batch_size, place, name=model)
    if as_json:
        found = {
            "model": model,
            "data": name,
            "split": split,
            "correct": result.correct,
            "total": result.total,
            "accuracy": result.accuracy,
            "loss": result.loss,
            "accuracy_per_class": result.per_class,
            "device": str(place),
        }
        print(json.dumps(found))
        return
    show(f"{model} on {for_terminal(name)}, {split} images, {place}")
    print(f"Average loss: {result.loss:.4f}")
    print(f"Accuracy: {result.correct}/{result.total} ({result.accuracy:.2%})")


def write_page(
    runs: Sequence[str], output: Path, data_root: Path | None, trust: Collection[str]
) -> None:
    """Write a page of runs, and print its name; see :func:`.page.page`."""
    subjects = [open_subject(run, trust) for run in runs]
    named = files.named(output, *runs, *map(pretrained.checkpoint_of, runs), data_root)
    files.write_text(output, page(subjects, data_root, trust))
    show(named)
