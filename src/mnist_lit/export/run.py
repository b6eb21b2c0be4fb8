"""Export a trained network; its file is checked on the test images before it is kept."""

import copy
import itertools
import re
import timeit
from argparse import Namespace
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy import ndarray

from mnist_lit import files, folders
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.data.batches import Images
from mnist_lit.data.reopen import reopen, split
from mnist_lit.errors import UserError, reason
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.formats import FORMATS, Format
from mnist_lit.export.source import CALIBRATION, Source
from mnist_lit.text import LONGEST, show

ALLOWED_LOSS = 0.001  # share of the test images that an int8 format may additionally read wrong
BATCH = 1000  # images at a time
TIMED = 200  # images, one at a time


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: The file.
        size: Size of the file, in bytes.
        correct: Number of test images that the file reads right.
        reference: Number of test images that the network itself reads right.
        total: Number of test images.
        largest_difference: Largest difference of a logit from the network's.
        milliseconds: Median time for one image at a time, without the start.
        notes: Other measurements, one line each.
    """

    path: Path
    size: int
    correct: int
    reference: int
    total: int
    largest_difference: float
    milliseconds: float
    notes: list[str]


def command(options: Namespace) -> None:
    """Run the command ``export`` with its options, and print the result."""
    trained = pretrained.load(options.model, trust=options.trust)
    model, form, root = Path(options.model), options.to, options.data_root
    # lr0.1 is the whole name of a folder.
    stem = model.resolve().name if model.is_dir() else model.stem
    path = options.output or Path(stem + FORMATS[form].ending)
    named = files.named(path, pretrained.checkpoint_of(options.model), root or folders.data())
    done = export(trained, form, path, root, options.trust, options.name)
    show(
        f"{named}: {done.size:,} bytes; {done.correct:,} of {done.total:,} test "
        f"{trained.facts.noun} (the network: {done.reference:,}), logits differ by "
        f"{done.largest_difference:.1g} at most; {done.milliseconds:.3f} ms an image"
    )
    for note in done.notes:
        show(f"  {note}")


def export(
    trained: Trained,
    form: str,
    path: Path,
    data_root: Path | None = None,
    trust: Collection[str] = (),
    name: str | None = None,
) -> Exported:
    """Write a network to a file in another format, if the file gives the network's answers.

    Args:
        trained: The network, on the CPU.
        form: A key of ``FORMATS``.
        path: Path of the file; an existing file is replaced after the check of the new one.
        data_root: The folder of its images, or the one above it; None for the default.
        trust: Data modules of other packages that may be imported.
        name: Prefix of the names in source code; None for the file's name without its ending.
            Characters that a name cannot have become ``_``.

    Raises:
        MissingPackageError: A package that the format needs is not installed.
        UserError: The format does not support the network, its answers are not finite, the C
            compiler is missing, or the file's answers differ too much.
        WriteError: The file cannot be written.
    """
    writer = FORMATS[form].module or form.removesuffix("-int8")
    module = import_module(f"mnist_lit.export.{writer}")
    facts = trained.facts
    # The exporters warn about weights in channels-last order.
    network = copy.deepcopy(trained.network).float().to(memory_format=torch.contiguous_format)
    network.eval()
    data = reopen(facts, data_root, trust)
    test = split(data, "test", facts)
    parts = torch.split(test.images, BATCH)
    wanted = torch.cat([classify(network, part, facts) for part in parts]).numpy()
    source = Source(
        network,
        facts,
        correct=int((wanted.argmax(1) == test.labels.numpy()).sum()),
        total=len(test.labels),
        calibration=lambda: split(data, "train", facts).images[:CALIBRATION],
        name=re.sub(r"^(?=\d)|\W", "_", name or path.stem, flags=re.ASCII)[:LONGEST],
        file=path.name,
    )
    with files.whole(path) as draft:
        try:
            content, result = _made(module, source, FORMATS[form], path, test, wanted)
        except Exception as error:
            kind, why = type(network).__name__, reason(error.__cause__ or error)
            words = f"{path}: not written: {kind} cannot be exported to {form}: {why}"
            raise UserError(words) from error
        draft.write_bytes(content)
    return result


def _made(
    module: ModuleType, source: Source, form: Format, path: Path, test: Images, wanted: ndarray
) -> tuple[bytes, Exported]:
    """Make a file's content, and check it on the test images.

    Raises:
        UserError: The network's answers are not finite, or the file's answers differ from them by
            more than is allowed.
    """
    if not np.isfinite(wanted).all():
        raise UserError("its answers are not finite; train it again with a lower learning rate")
    content = module.make(source, form.int8)
    run, notes = module.load(content, source)
    got = np.concatenate([run(part.numpy()) for part in torch.split(test.images, BATCH)])
    each = itertools.cycle(test.images.numpy()[:, None])
    times = timeit.repeat(lambda: run(next(each)), number=1, repeat=TIMED)
    result = Exported(
        path=path,
        size=len(content),
        correct=int((got.argmax(1) == test.labels.numpy()).sum()),
        reference=source.correct,
        total=source.total,
        largest_difference=float(np.abs(got - wanted).max()),
        milliseconds=1000 * float(np.median(times)),
        notes=notes,
    )
    most = np.inf if form.int8 else form.tolerance
    close = np.diff(np.partition(wanted, -2)[:, -2:]) < 2 * most  # the two best may change places
    needed = result.reference - (round(ALLOWED_LOSS * len(got)) if form.int8 else int(close.sum()))
    if result.correct < needed or not result.largest_difference < most:
        raise UserError(
            f"it differs from the network: {result.correct:,} of {result.total:,} test images are "
            f"read right, {needed:,} are needed; logits differ by {result.largest_difference:.2g}, "
            f"less than {most:g} is allowed"
        )
    return content, result
