"""The commands ``evaluate``, ``report`` and ``compare``."""

import json
from argparse import Namespace

from mnist_lit import files, folders
from mnist_lit.checkpoints import pretrained
from mnist_lit.data import reopen
from mnist_lit.data.datasets import IdxSet
from mnist_lit.devices import pick_device
from mnist_lit.evaluation.evaluate import TOLD, evaluate
from mnist_lit.evaluation.page import open_subject, page
from mnist_lit.text import for_terminal, show


def count(options: Namespace) -> None:
    """Count the images that a network reads right, and print the result."""
    device = pick_device(options.device)
    trained = pretrained.load(options.model, trust=options.trust)
    facts, other = trained.facts, options.images
    name = str(other or facts.name)
    data = IdxSet(other) if other else reopen.reopen(facts, options.data_root, options.trust)
    images = reopen.split(data, options.split, facts)
    network, size = trained.network, options.batch_size
    result = evaluate(network, images, facts, size, device, name=options.model)
    if options.json:
        found = {"model": options.model, "data": name, "split": options.split}
        found |= {key: getattr(result, key) for key in TOLD}
        print(json.dumps({**found, "device": str(device)}))
        return
    show(f"{options.model} on {for_terminal(name)}, {options.split} images, {device}")
    print(f"Average loss: {result.loss:.4f}")
    print(f"Accuracy: {result.correct:,} of {result.total:,} ({result.accuracy:.2%})")


def write_page(options: Namespace) -> None:
    """Write a page about runs, and print its name; see ``page.page``."""
    runs, trust = options.runs, options.trust
    subjects = [open_subject(run, trust) for run in runs]
    images = options.data_root or folders.data()
    named = files.named(options.output, *map(pretrained.checkpoint_of, runs), images)
    files.write_text(options.output, page(subjects, options.data_root, trust))
    show(named)
