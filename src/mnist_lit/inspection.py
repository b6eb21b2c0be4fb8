"""One page, in one file, of what a run or a checkpoint is worth; or of several side by side."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from mnist_lit import figures, pretrained, summary
from mnist_lit.classifier import CheckpointError, LitClassifier, read_checkpoint
from mnist_lit.data import load_digits
from mnist_lit.evaluation import Evaluation, evaluate
from mnist_lit.network import CLASSES, CompactCNN, count_parameters
from mnist_lit.progress import History

FIGURES = ("Curves", "Confusion", "Worst mistakes", "First layer", "Calibration")


class InspectionError(ValueError):
    """There is nothing to make a page of; the message says what was expected."""


@dataclass(frozen=True)
class Subject:
    """A run's folder, or a checkpoint by itself.

    Attributes:
        name: What a person gave.
        network: The weights of the best epoch, or of the checkpoint.
        report: ``report.json``, of a folder.
        history: The epochs, of a folder.
        config: The composed config, of a folder that Hydra made.
    """

    name: str
    network: CompactCNN
    report: dict[str, Any] | None = None
    history: History | None = None
    config: str | None = None


def find(name: str) -> Subject:
    """Read what a run's folder, a checkpoint's path or the name of a shipped model stands for.

    Raises:
        InspectionError: The folder is not a finished run's.
        CheckpointError: The file is no checkpoint.
    """
    path = Path(name)
    if name in pretrained.names() or not path.is_dir():
        return Subject(name, LitClassifier.load_from_checkpoint(pretrained.find(name)).network)
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        checkpoint = path / "checkpoints" / "best.ckpt"
        network = LitClassifier.load_from_checkpoint(checkpoint).network
        state = read_checkpoint(path / "checkpoints" / "last.ckpt", "cpu")["callbacks"]
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, CheckpointError) as error:
        raise InspectionError(
            f"{name}: not the folder of a finished run, which has report.json and checkpoints "
            f"({error})"
        ) from None
    history = History()
    history.load_state_dict(state[history.state_key])
    composed = path / ".hydra" / "config.yaml"
    config = composed.read_text(encoding="utf-8") if composed.is_file() else None
    return Subject(name, network, report, history, config)


def page(subjects: Sequence[Subject], data_root: Path | None = None) -> str:
    """Return a page of HTML that needs no other file: the subjects in columns.

    Args:
        subjects: One or several.
        data_root: The folder above ``MNIST/raw``; None for the default.
    """
    test = load_digits(data_root, "test")
    evaluations = [evaluate(subject.network, test) for subject in subjects]
    right = [e.predictions == e.labels for e in evaluations]
    environment = Environment(
        loader=PackageLoader("mnist_lit", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html").render(
        figures=FIGURES,
        subjects=[
            _describe(subject, evaluation, test.images)
            for subject, evaluation in zip(subjects, evaluations, strict=True)
        ],
        only=[[int((one & ~other).sum()) for other in right] for one in right],
    )


def _describe(subject: Subject, evaluation: Evaluation, images: Tensor) -> dict[str, Any]:
    confusion = evaluation.confusion
    digits = []
    for digit in range(CLASSES):
        row = confusion[digit].clone()
        row[digit] = 0
        confused = f"{int(row.argmax())} ({int(row.max())}×)" if row.sum() else ""
        count, hits = int(confusion[digit].sum()), int(confusion[digit, digit])
        digits.append({"digit": digit, "count": count, "right": hits, "confused": confused})
    drawn = {
        "Curves": figures.learning_curves(subject.history) if subject.history else None,
        "Confusion": figures.confusion(evaluation),
        "Worst mistakes": figures.mistakes(evaluation, images),
        "First layer": figures.first_layer(subject.network),
        "Calibration": figures.calibration(evaluation),
    }
    return {
        "name": subject.name,
        "correct": evaluation.correct,
        "total": evaluation.total,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "parameters": count_parameters(subject.network),
        "report": subject.report,
        "config": subject.config,
        "layers": summary.table(subject.network, Path(subject.name).name),
        "digits": digits,
        "figures": {name: figure and _embed(figure) for name, figure in drawn.items()},
    }


def _embed(figure: Figure) -> str:
    stored = io.BytesIO()
    figure.savefig(stored, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()
