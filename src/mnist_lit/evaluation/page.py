"""One page, in one file, of what a run or a checkpoint is worth; or of several side by side."""

import base64
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained, read, read_file
from mnist_lit.data.reopen import reopen, split
from mnist_lit.errors import CheckpointError, PageError, TrustError
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.evaluation.history import History
from mnist_lit.network import summary
from mnist_lit.network.compact import count_parameters

FIGURES = ("Curves", "Confusion", "Worst mistakes", "First layer", "Calibration")


@dataclass(frozen=True)
class Subject:
    """A run's folder, or a checkpoint by itself.

    Attributes:
        name: What a person gave.
        trained: The network of the best epoch, or of the checkpoint.
        report: ``report.json``, of a folder.
        history: The epochs, of a folder.
        config: The composed config, of a folder that Hydra made.
    """

    name: str
    trained: Trained
    report: dict[str, Any] | None = None
    history: History | None = None
    config: str | None = None


def open_subject(name: str, trust: Collection[str] = ()) -> Subject:
    """Read what a run's folder, a checkpoint's path or the name of a shipped model stands for.

    Raises:
        PageError: The folder is not a finished run's.
        CheckpointError: The file is no checkpoint, or names a class that is not trusted.
    """
    path = Path(name)
    if name in pretrained.names() or not path.is_dir():
        return Subject(name, pretrained.load(name, trust=trust))
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        trained = read(path / "checkpoints" / "best.ckpt", trust=trust)
        rows = read_file(path / "checkpoints" / "last.ckpt")["callbacks"]["History"]
    except TrustError:
        raise
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, CheckpointError) as error:
        raise PageError(
            f"{name}: not the folder of a finished run, which has report.json and checkpoints "
            f"({error})"
        ) from None
    composed = path / ".hydra" / "config.yaml"
    config = composed.read_text(encoding="utf-8") if composed.is_file() else None
    return Subject(name, trained, report, History.of(rows), config)


def page(
    subjects: Sequence[Subject], data_root: Path | None = None, trust: Collection[str] = ()
) -> str:
    """Return a page of HTML that needs no other file: the subjects in columns.

    Args:
        subjects: One or several, trained on the same data.
        data_root: The folder of the images, or the one above it; None for the default.
        trust: Data modules that may be imported, beside those of this project.

    Raises:
        PageError: They were trained on different data.
    """
    facts = subjects[0].trained.facts
    for subject in subjects[1:]:
        other = subject.trained.facts
        if (other.name, other.classes) != (facts.name, facts.classes):
            raise PageError(
                f"{subject.name}: trained on {other.name}, {subjects[0].name} on {facts.name}; "
                "only networks for the same images can be compared"
            )
    test = split(reopen(facts, data_root, trust), "test", facts)
    evaluations = [evaluate(s.trained.network, test, s.trained.facts) for s in subjects]
    right = [e.predictions == e.labels for e in evaluations]
    environment = Environment(
        loader=PackageLoader("mnist_lit.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html").render(
        figures=FIGURES,
        noun=facts.noun,
        subjects=[
            _describe(subject, evaluation, test.images)
            for subject, evaluation in zip(subjects, evaluations, strict=True)
        ],
        only=[[int((one & ~other).sum()) for other in right] for one in right],
    )


def _describe(subject: Subject, evaluation: Evaluation, images: Tensor) -> dict[str, Any]:
    network, facts = subject.trained.network, subject.trained.facts
    confusion = evaluation.confusion
    classes = []
    for number, name in enumerate(facts.classes):
        row = confusion[number].clone()
        row[number] = 0
        confused = f"{facts.classes[row.argmax()]} ({int(row.max())}×)" if row.sum() else ""
        count, hits = int(confusion[number].sum()), int(confusion[number, number])
        classes.append({"name": name, "count": count, "right": hits, "confused": confused})
    drawn = {
        "Curves": figures.learning_curves(subject.history) if subject.history else None,
        "Confusion": figures.confusion(evaluation, facts),
        "Worst mistakes": figures.mistakes(evaluation, images, facts),
        "First layer": figures.first_layer(network),
        "Calibration": figures.calibration(evaluation),
    }
    return {
        "name": subject.name,
        "correct": evaluation.correct,
        "total": evaluation.total,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "parameters": count_parameters(network),
        "report": subject.report,
        "config": subject.config,
        "layers": summary.table(network, Path(subject.name).name, facts.side),
        "classes": classes,
        "figures": {name: figure and _embed(figure) for name, figure in drawn.items()},
    }


def _embed(figure: Figure) -> str:
    stored = io.BytesIO()
    figure.savefig(stored, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()
