"""A page in one HTML file: the results of a run or a checkpoint, or of several in rows."""

import json
import math
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import OmegaConf
from torch import Tensor

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained, read, read_file
from mnist_lit.data.reopen import reopen, split
from mnist_lit.errors import TrustError, UserError, line, reason
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.requirements import shown
from mnist_lit.network import summary
from mnist_lit.network.compact import count_parameters
from mnist_lit.text import for_link

MOST_BYTES = 2**24  # of a file in a run's folder, except checkpoints
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of a PNG file
SOURCES = PackageLoader("mnist_lit", "")
TEMPLATES = Environment(loader=SOURCES, autoescape=True, undefined=StrictUndefined)
TEMPLATES.filters.update(shown=shown, link=for_link, yaml=OmegaConf.to_yaml)
TEMPLATES.filters["embedded"] = lambda png: f"data:image/png;base64,{b64encode(png).decode()}"
TEMPLATES.filters["width"] = lambda png: int.from_bytes(png[16:20], "big") * 96 // figures.DPI
# In report.json, NaN is null.
TEMPLATES.globals |= {"nan": math.nan, "series": figures.SERIES, "columns": figures.MISTAKES}


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
        words = "not the folder of a finished run, which has report.json and checkpoints"
        raise UserError(f"{name}: {words} ({reason(error)})") from None
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
    """Return a page of HTML that needs no other file: of a subject, or of several in rows.

    Args:
        subjects: One or several, trained on the same data.
        data_root: The folder of the images, or the one above it; None for the default.
        trust: Data modules of other packages that may be imported.

    Raises:
        UserError: The subjects were trained on different data; see also ``render``.
    """
    facts = subjects[0].trained.facts
    if len({(one.trained.facts.name, one.trained.facts.classes) for one in subjects}) > 1:
        trained = ", ".join(f"{one.name}: trained on {one.trained.facts.name}" for one in subjects)
        raise UserError(f"{trained}, but only networks for the same images can be compared")
    test = split(reopen(facts, data_root, trust), "test", facts)
    each = ((one.trained, one.name) for one in subjects)
    found = [evaluate(one.network, test, one.facts, name=name) for one, name in each]
    drawn = [draw(subjects[0], found[0], test.images)] if len(subjects) == 1 else []
    return render(subjects, found, drawn)


def draw(subject: Subject, evaluation: Evaluation, images: Tensor) -> dict[str, bytes]:
    """Return the figures of a subject, as PNG, by their names.

    Args:
        subject: The run or checkpoint.
        evaluation: Its network's answers for the test images.
        images: The test images, ``uint8 [N, 1, side, side]``.
    """
    pictures = figures.drawn(subject.trained, evaluation, images, subject.history)
    return {**pictures, **subject.pictures}


def render(
    subjects: Sequence[Subject],
    evaluations: Sequence[Evaluation],
    pictures: Sequence[dict[str, bytes]],
) -> str:
    """Return the page of an evaluated subject, or of several, each in a row.

    Args:
        subjects: One or several, trained on the same data.
        evaluations: The evaluation of each, on the same test images.
        pictures: The result of ``draw`` for a single subject; empty for several.

    Raises:
        UserError: A ``report.json`` is not as a run leaves it.
    """
    try:
        each = [_describe(*one) for one in zip(subjects, evaluations, strict=True)]
        facts = subjects[0].trained.facts
        if len(each) == 1:
            layers = summary.table(subjects[0].trained.network, each[0]["title"], facts.side)
            values = {"s": each[0], "figures": pictures[0], "layers": layers, "facts": facts}
            return filled(
                "evaluation/page.html", mistaken=figures.mistaken(evaluations[0]), **values
            )
        right = [evaluation.right for evaluation in evaluations]
        titles = [one["title"] for one in each]
        names = [f"{n} {one}" if titles.count(one) > 1 else one for n, one in enumerate(titles, 1)]
        lines = {name: (one["history"], "val") for name, one in zip(names, each, strict=True)}
        widths = [n * figures.WIDTH for n in (1, 2) if any(one.history for one in subjects)]
        return filled(
            "evaluation/compare.html",
            facts=facts,
            subjects=each,
            names=names,
            only=[[int((one & ~other).sum()) for other in right] for one in right],
            curves=[figures.png(figures.curves(lines, width)) for width in widths],
        )
    except Exception as error:  # a wrong report.json raises whatever its first wrong value leads to
        wrong = ", ".join(one.name for one in subjects)
        raise UserError(f"{wrong}: report.json is not as a run leaves it: {line(error)}") from None


def filled(template: str, **values: Any) -> str:
    """Return a page made from a template, by its path in the package."""
    return TEMPLATES.get_template(template).render(**values)


def _describe(subject: Subject, evaluation: Evaluation) -> dict[str, Any]:
    report = subject.report
    return {
        **vars(subject),
        "title": f"{report['model']}, seed {report['seed']}" if report else subject.name,
        "evaluation": evaluation,
        "confusion": evaluation.confusion.tolist(),
        "parameters": count_parameters(subject.trained.network),
    }
