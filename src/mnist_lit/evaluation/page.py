"""One page, in one file, of what a run or a checkpoint is worth; or of several side by side."""

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
from mnist_lit.errors import TrustError, UserError, reason
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.requirements import shown
from mnist_lit.network import summary
from mnist_lit.network.compact import count_parameters
from mnist_lit.text import for_link

MOST_BYTES = 2**24  # of a file of a run's folder, checkpoints aside
PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
TEMPLATES = Environment(
    loader=PackageLoader("mnist_lit", ""), autoescape=True, undefined=StrictUndefined
)
TEMPLATES.filters.update(shown=shown, link=for_link, yaml=OmegaConf.to_yaml)
TEMPLATES.filters["embedded"] = lambda png: f"data:image/png;base64,{b64encode(png).decode()}"
TEMPLATES.filters["width"] = lambda png: int.from_bytes(png[16:20], "big") * 96 // figures.DPI
# NaN is null in report.json.
TEMPLATES.globals |= {"nan": math.nan, "series": figures.SERIES, "columns": figures.MISTAKES}


@dataclass(frozen=True)
class Subject:
    """A run's folder, or a checkpoint by itself.

    Attributes:
        name: What a person gave.
        trained: The network of the best epoch, or of the checkpoint.
        report: ``report.json``, of a folder.
        history: The epochs, of a folder.
        pictures: Figures that only training can draw, by their names, of a folder.
    """

    name: str
    trained: Trained
    report: dict[str, Any] | None = None
    history: History | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def open_subject(name: str, trust: Collection[str] = ()) -> Subject:
    """Read what a run's folder, a checkpoint's path or the name of a shipped model stands for.

    Raises:
        UserError: The folder is not a finished run's, or not as a run leaves it.
        CheckpointError: The file is no checkpoint, or names a class that is not trusted.
    """
    path = pretrained.checkpoint_of(name)
    folder = Path(name).expanduser()
    if name in pretrained.names() or not folder.is_dir():
        return Subject(name, read(path, trust=trust))
    try:
        report = json.loads(_content(folder, "report.json"))
        trained = read(folder / "checkpoints" / "best.ckpt", trust=trust)
        kept = read_file(folder / "checkpoints" / "last.ckpt")
        history = History.of(kept["callbacks"]["History"])
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
    """Return what a file holds, cut off where no run writes so much; nothing if it is elsewhere."""
    file = (folder / name).resolve()
    if not (file.is_file() and file.is_relative_to(folder.resolve())):  # a stranger's link
        return b""
    with file.open("rb") as opened:
        return opened.read(MOST_BYTES)


def page(
    subjects: Sequence[Subject], data_root: Path | None = None, trust: Collection[str] = ()
) -> str:
    """Return a page of HTML that needs no other file: of a subject, or of several side by side.

    Args:
        subjects: One or several, trained on the same data.
        data_root: The folder of the images, or the one above it; None for the default.
        trust: Data modules that may be imported, beside those of this project.

    Raises:
        UserError: They were trained on different data.
    """
    facts = subjects[0].trained.facts
    if len({(one.trained.facts.name, one.trained.facts.classes) for one in subjects}) > 1:
        trained = ", ".join(f"{one.name}: trained on {one.trained.facts.name}" for one in subjects)
        raise UserError(f"{trained}, but only networks for the same images can be compared")
    test = split(reopen(facts, data_root, trust), "test", facts)
    found = [
        evaluate(one.trained.network, test, one.trained.facts, name=one.name) for one in subjects
    ]
    drawn = [draw(subjects[0], found[0], test.images)] if len(subjects) == 1 else []
    return render(subjects, found, drawn)


def draw(subject: Subject, evaluation: Evaluation, images: Tensor) -> dict[str, bytes]:
    """Return the figures that there can be of a subject, as PNG, by their names.

    Args:
        subject: The run or checkpoint.
        evaluation: What its network said of the test images.
        images: The test images, ``uint8 [N, 1, side, side]``.
    """
    pictures = figures.drawn(subject.trained, evaluation, images, subject.history)
    return {**pictures, **subject.pictures}


def render(
    subjects: Sequence[Subject],
    evaluations: Sequence[Evaluation],
    pictures: Sequence[dict[str, bytes]],
) -> str:
    """Return the page of a subject that has been evaluated and drawn, or of several, a row each.

    What is wrong in a stranger's ``report.json`` may raise anything here.

    Args:
        subjects: One or several, trained on the same data.
        evaluations: Of each, on the same test images.
        pictures: Of a single one, what :func:`draw` returns.
    """
    each = [_describe(*one) for one in zip(subjects, evaluations, strict=True)]
    facts = subjects[0].trained.facts
    if len(each) == 1:
        layers = summary.table(subjects[0].trained.network, each[0]["title"], facts.side)
        values = {"s": each[0], "figures": pictures[0], "layers": layers, "facts": facts}
        return filled("evaluation/page.html", mistaken=figures.mistaken(evaluations[0]), **values)
    right = [evaluation.right for evaluation in evaluations]
    lines = {f"{n} {one['title']}": (one["history"], "val") for n, one in enumerate(each, 1)}
    widths = [n * figures.WIDTH for n in (1, 2) if any(one.history for one in subjects)]
    return filled(
        "evaluation/compare.html",
        facts=facts,
        subjects=each,
        only=[[int((one & ~other).sum()) for other in right] for one in right],
        curves=[figures.png(figures.curves(lines, width)) for width in widths],
    )


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
