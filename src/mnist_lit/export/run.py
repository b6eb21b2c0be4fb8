"""A trained network in another format, checked on the test images before it gets its name."""

import copy
import itertools
import re
import timeit
from argparse import Namespace
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from mnist_lit import files, folders
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.data.reopen import reopen, split
from mnist_lit.errors import UserError, reason
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.formats import FORMATS
from mnist_lit.export.source import CALIBRATION, Run, Source
from mnist_lit.text import LONGEST, show

TOLERANCE = 1e-4  # of a float format's logits
ALLOWED_LOSS = 0.001  # share of the test images that an int8 format may read wrong besides
BATCH = 1000  # images at a time
TIMED = 200  # images, one at a time


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        path: The file.
        size: In bytes.
        correct: Test images that it reads right.
        reference: The same of the network itself.
        total: How many test images there are.
        largest_difference: Of a logit from the network's.
        milliseconds: For one image at a time, the median; the start not counted.
        notes: What else was measured of it, a line each.
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
    """Do what the command ``export`` says in its options, and print what came of it."""
    trained = pretrained.load(options.model, trust=options.trust)
    model, form, root = Path(options.model).resolve(), options.to, options.data_root
    stem = model.name if model.is_dir() else model.stem  # lr0.1 is the whole name of a folder
    path = options.output or Path(stem + FORMATS[form].ending)
    read = pretrained.checkpoint_of(options.model), root or folders.data()
    named = files.named(path, *read)
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
    """Write a network to a file in another format, if it agrees there with itself.

    Args:
        trained: On the CPU.
        form: A key of :data:`.formats.FORMATS`.
        path: Where it goes; a file there is replaced once the new one is checked.
        data_root: The folder of its images, or the one above it; None for the default.
        trust: Data modules that may be imported, beside those of this project.
        name: What begins the names in source code; None for that of the file, without its ending.
            What cannot stand in a name becomes ``_``.

    Raises:
        MissingPackageError: A package that the format needs is not installed.
        UserError: The network cannot be exported so, it does not answer with finite numbers, the
            C compiler is missing, or the export reads the test images otherwise than it should.
        WriteError: The file cannot be written.
    """
    facts = trained.facts
    # The exporters warn of weights in another order than the usual.
    network = copy.deepcopy(trained.network).float().to(memory_format=torch.contiguous_format)
    network.eval()
    data = reopen(facts, data_root, trust)
    test = split(data, "test", facts)
    images, labels = test.images.numpy(), test.labels.numpy()
    wanted = _answers(lambda x: classify(network, torch.from_numpy(x), facts).numpy(), images)
    if not np.isfinite(wanted).all():
        why = "the network's answers are not finite numbers; train it again, with a lower rate"
        raise UserError(f"{path}: not written, for {why}")
    source = Source(
        network,
        facts,
        correct=int((wanted.argmax(1) == labels).sum()),
        total=len(labels),
        calibration=lambda: split(data, "train", facts).images[:CALIBRATION],
        name=re.sub(r"^(?=\d)|\W", "_", name or path.stem, flags=re.ASCII)[:LONGEST],
        file=path.name,
    )
    with files.whole(path) as draft:
        content, run, notes, got = _made(source, form, images, path)
        result = Exported(
            path=path,
            size=len(content),
            correct=int((got.argmax(1) == labels).sum()),
            reference=source.correct,
            total=source.total,
            largest_difference=float(np.abs(got - wanted).max()),
            milliseconds=_time(run, images),
            notes=notes,
        )
        _check(result, FORMATS[form].int8)
        draft.write_bytes(content)
    return result


def _made(
    source: Source, form: str, images: ndarray, path: Path
) -> tuple[bytes, Run, list[str], ndarray]:
    """Make the content of a file, open it again and let it read the images."""
    # No sooner than now, for the packages that it needs may be missing.
    module = import_module(f"mnist_lit.export.{form.removesuffix('-int8')}")
    try:
        content = module.make(source, FORMATS[form].int8)
        run, notes = module.load(content, source)
        return content, run, notes, _answers(run, images)
    except UserError:
        raise
    except Exception as error:
        why = f"{type(source.network).__name__} cannot be exported to {form}"
        words = f"{path}: not written, for {why}: {reason(error.__cause__ or error)}"
        raise UserError(words) from error


def _answers(run: Run, images: ndarray) -> ndarray:
    """Return the logits of all images, of which some are read at a time."""
    starts = range(0, len(images), BATCH)
    return np.concatenate([run(images[start : start + BATCH]) for start in starts])


def _time(run: Run, images: ndarray) -> float:
    """Return the median of the milliseconds that one image takes."""
    each = itertools.cycle(images[:, None])
    return 1000 * np.median(timeit.repeat(lambda: run(next(each)), number=1, repeat=TIMED))


def _check(result: Exported, int8: bool) -> None:
    """Raise a UserError if a file differs from its network by more than is allowed."""
    lost, differs = result.reference - result.correct, result.largest_difference
    allowed, most = (round(ALLOWED_LOSS * result.total), np.inf) if int8 else (0, TOLERANCE)
    if lost > allowed or not differs < most:
        raise UserError(
            f"{result.path}: not written, for it differs from the network: it reads "
            f"{result.correct:,} of {result.total:,} test images right and the network "
            f"{result.reference:,}, {allowed} fewer are allowed; logits differ by {differs:.2g}, "
            f"less than {most:g} is allowed"
        )
