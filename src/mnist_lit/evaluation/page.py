"""A page in one HTML file: the results of a run or a checkpoint, or of several in columns."""

import base64
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import OmegaConf
from torch import Tensor

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained, read, read_file
from mnist_lit.data.reopen import reopen, split
from mnist_lit.errors import TrustError, UserError, reason
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.evaluation.figures import drawn
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.requirements import shown
from mnist_lit.facts import Facts
from mnist_lit.network import summary
from mnist_lit.network.compact import count_parameters
from mnist_lit.text import for_link

MOST_BYTES = 2**24  # of a file in a run's folder, except checkpoints
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of a PNG file


@dataclass(frozen=True)
class Subject:
    """A run's folder, or a checkpoint by itself.

    Attributes:
        name: The name that the user gave.
        trained: The network of the best epoch, or of the checkpoint.
        report: ``report.json``, for a folder.
        history: The epochs, for a folder.
        pictures: Figures that only a training can draw, by their names, for a folder.
    """

    name: str
    trained: Trained
    report: dict[str, Any] | None = None
    history: History | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def open_subject(name: str, trust: Collection[str] = ()) -> Subject:
    """Read a run's folder, a checkpoint or a shipped network.

    Raises:
        UserError: The folder is not that of a finished run, or is damaged.
        CheckpointError: The file is no checkpoint, or names a class that is not trusted.
    """
    path = pretrained.checkpoint_of(name)
    folder = Path(name).expanduser()
    if name in pretrained.names() or not folder.is_dir():
        return Subject(name, read(path, trust=trust))
    try:
        report = json.loads(_content(folder, "report.json"))
        trained = read(folder / "checkpoints" / "best.ckpt", trust=trust)
        history = History.of(read_file(folder / "checkpoints" / "last.ckpt"))
        if "model" not in report or not history.validated:
            raise UserError("report.json is none, or no epoch was validated")
    except TrustError:
        raise
    except (KeyError, TypeError, ValueError, OSError, RecursionError, UserError) as error:
        raise UserError(
            f"{name}: not the folder of a finished run, which has report.json and checkpoints "
            f"({reason(error)})"
        ) from None
    picture = _content(folder, "figures/augmentation.png")
    pictures = {"augmentation": picture} if picture.startswith(PNG) else {}
    return Subject(name, trained, report, history, pictures)


def _content(folder: Path, name: str) -> bytes:
    """Return the content of a file, up to ``MOST_BYTES``; empty if it is outside the folder."""
    file = (folder / name).resolve()
    if not (file.is_file() and file.is_relative_to(folder.resolve())):  # a link to elsewhere
        return b""
    with file.open("rb") as opened:
        return opened.read(MOST_BYTES)


def page(
    subjects: Sequence[Subject], data_root: Path | None = None, trust: Collection[str] = ()
) -> str:
    """Return a page of HTML that needs no other file: the subjects in columns.

    Args:
        subjects: One or several, trained on the same data.
        data_root: The folder of the images, or the one above it; None for the default.
        trust: Data modules of other packages that may be imported.

    Raises:
        UserError: The subjects were trained on different data.
    """
    facts = subjects[0].trained.facts
    if len({(one.trained.facts.name, one.trained.facts.classes) for one in subjects}) > 1:
        trained = ", ".join(f"{one.name}: trained on {one.trained.facts.name}" for one in subjects)
        raise UserError(f"{trained}, but only networks for the same images can be compared")
    test = split(reopen(facts, data_root, trust), "test", facts)
    evaluations, pictures = [], []
    for one in subjects:
        found = evaluate(one.trained.network, test, one.trained.facts, name=one.name)
        evaluations.append(found)
        pictures.append(draw(one, found, test.images))
    return render(subjects, evaluations, pictures)


def draw(subject: Subject, evaluation: Evaluation, images: Tensor) -> dict[str, bytes]:
    """Return the figures of a subject, as PNG, by their names.

    Args:
        subject: The run or checkpoint.
        evaluation: Its network's answers for the test images.
        images: The test images, ``uint8 [N, 1, side, side]``.
    """
    return {**drawn(subject.trained, evaluation, images, subject.history), **subject.pictures}


def render(
    subjects: Sequence[Subject],
    evaluations: Sequence[Evaluation],
    pictures: Sequence[dict[str, bytes]],
) -> str:
    """Return the page of evaluated and drawn subjects.

    A wrong ``report.json`` may raise anything here.

    Args:
        subjects: One or several, trained on the same data.
        evaluations: The evaluation of each, on the same test images.
        pictures: The result of ``draw`` for each.
    """
    right = [evaluation.right for evaluation in evaluations]
    return filled(
        "evaluation/page.html",
        figures=dict.fromkeys(chain(*sorted(pictures, key=len, reverse=True))),
        noun=subjects[0].trained.facts.noun,
        subjects=[_describe(*one) for one in zip(subjects, evaluations, pictures, strict=True)],
        only=[[int((one & ~other).sum()) for other in right] for one in right],
    )


def filled(template: str, **values: Any) -> str:
    """Return a page made from a template, by its path in the package."""
    environment = Environment(
        loader=PackageLoader("mnist_lit", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"shown": shown, "link": for_link, "yaml": OmegaConf.to_yaml}
    environment.filters["embedded"] = embedded
    environment.globals["nan"] = math.nan  # null in report.json
    return environment.get_template(template).render(**values)


def embedded(png: bytes) -> str:
    """Return a picture as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _describe(
    subject: Subject, evaluation: Evaluation, pictures: dict[str, bytes]
) -> dict[str, Any]:
    network, facts, report = subject.trained.network, subject.trained.facts, subject.report
    title = f"{report['model']}, seed {report['seed']}" if report else subject.name
    return {
        **vars(subject),
        "title": title,
        "evaluation": evaluation,
        "figures": pictures,
        "parameters": count_parameters(network),
        "layers": summary.table(network, title, facts.side),
        "classes": [_class(evaluation, facts, number) for number in range(len(facts.classes))],
    }


def _class(evaluation: Evaluation, facts: Facts, number: int) -> dict[str, Any]:
    """Return the page's entry for a class."""
    counts = evaluation.confusion[number].tolist()
    count, right = sum(counts), counts[number]
    counts[number] = 0
    most = max(counts)
    others = [name for name, times in zip(facts.classes, counts, strict=True) if times == most]
    confused = f"{', '.join(others)} ({most}×)" if most else ""
    return {"name": facts.classes[number], "count": count, "right": right, "confused": confused}
