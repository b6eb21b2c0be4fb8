"""A trained network in another format, checked on the test images before it gets its name."""

import copy
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mnist_lit import files
from mnist_lit.checkpoints.read import Trained
from mnist_lit.data.batches import Images
from mnist_lit.data.reopen import reopen, split
from mnist_lit.errors import ExportError, UserError, reason
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.formats import FORMATS
from mnist_lit.export.source import CALIBRATION, Logits, Run, Source
from mnist_lit.facts import Facts
from mnist_lit.network.compact import CompactCNN
from mnist_lit.text import LONGEST

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
        ExportError: The network cannot be exported so, it does not answer with finite numbers, the
            C compiler is missing, or the export reads the test images otherwise than it should.
        WriteError: The file cannot be written.
    """
    facts = trained.facts
    module = _module(form, trained.network)
    # The exporters warn of weights in another order than the usual.
    network = copy.deepcopy(trained.network).float().to(memory_format=torch.contiguous_format)
    data = reopen(facts, data_root, trust)
    test = split(data, "test", facts)
    wanted = _answers(network.eval(), test, facts, path)
    source = Source(
        network,
        facts,
        correct=_right(wanted, test),
        total=len(test.labels),
        calibration=lambda: split(data, "train", facts).images[:CALIBRATION],
        name=_identifier(path.stem if name is None else name),
        file=path.name,
    )
    with files.whole(path) as draft:
        content = _made(module, source, form, path)
        with module.load(content, source) as (run, notes):
            got = np.concatenate([run(x.numpy()) for x in torch.split(test.images, BATCH)])
            milliseconds = _time(run, test)
        result = Exported(
            path=path,
            size=len(content),
            correct=_right(got, test),
            reference=source.correct,
            total=source.total,
            largest_difference=float(np.abs(got - wanted).max()),
            milliseconds=milliseconds,
            notes=notes,
        )
        _check(result, got, wanted, exact=not FORMATS[form].int8)
        draft.write_bytes(content)
    return result


def _module(form: str, network: nn.Module) -> Any:
    """Import the file of a format; no sooner than now, for its packages may be missing."""
    if FORMATS[form].compact and not isinstance(network, CompactCNN):
        kind = type(network).__name__
        raise ExportError(f"{kind}: {form} needs a CompactCNN; onnx and torch take any network")
    return import_module(f"mnist_lit.export.{form.removesuffix('-int8')}")


def _made(module: Any, source: Source, form: str, path: Path) -> bytes:
    """Return what the format's module makes; whatever else it raises becomes an ExportError."""
    try:
        return module.make(source, FORMATS[form].int8)
    except UserError:
        raise
    except Exception as error:
        kind, why = type(source.network).__name__, reason(error.__cause__ or error)
        raise ExportError(
            f"{path}: not written, for {kind} cannot be exported to {form}: {why}"
        ) from error


def _answers(network: nn.Module, test: Images, facts: Facts, path: Path) -> Logits:
    """Return the logits of the network itself."""
    batches = torch.split(test.images, BATCH)
    logits = torch.cat([classify(network, batch, facts) for batch in batches]).numpy()
    if diverged := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise ExportError(
            f"{path}: not written, for the network answers {diverged:,} of {len(logits):,} test "
            "images with what is not a finite number; train it again, with a lower rate"
        )
    return logits


def _right(logits: Logits, test: Images) -> int:
    return int((logits.argmax(1) == test.labels.numpy()).sum())


def _identifier(words: str) -> str:
    name = re.sub(r"[^0-9A-Za-z_]", "_", words)[:LONGEST] or "_"
    return f"_{name}" if name[0].isdigit() else name


def _check(result: Exported, got: Logits, wanted: Logits, exact: bool) -> None:
    allowed = round(ALLOWED_LOSS * result.total)
    if exact:
        others = int((got.argmax(1) != wanted.argmax(1)).sum())
        if others or not result.largest_difference <= TOLERANCE:
            raise ExportError(
                f"{result.path}: not written, for it differs from the network: "
                f"{others} predictions, logits by up to {result.largest_difference:.2g} "
                f"({TOLERANCE:g} is allowed)"
            )
    elif result.correct < result.reference - allowed or not np.isfinite(got).all():
        raise ExportError(
            f"{result.path}: not written, for it reads {result.correct:,} of {result.total:,} test "
            f"images right and the network {result.reference:,}; {allowed} fewer are allowed"
        )


def _time(run: Run, test: Images) -> float:
    times = []
    for image in test.images[:TIMED].numpy():
        started = time.perf_counter()
        run(image[None])
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))
