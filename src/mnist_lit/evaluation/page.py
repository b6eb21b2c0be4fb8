"""One page, in one file, of what a run or a checkpoint is worth; or of several side by side."""

import base64
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import Tensor

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained, read, read_file
from mnist_lit.data.reopen import reopen, split
from mnist_lit.errors import TrustError, UserError, reason
from mnist_lit.evaluation import figures
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.origin import masked
from mnist_lit.network import summary
from mnist_lit.network.compact import count_parameters
from mnist_lit.text import for_link
from mnist_lit.validation import validated

# The figures in the order of the page, with their titles.
FIGURES = {
    "curves": "Curves",
    "learning_rate": "Learning rate",
    "confusion": "Confusion",
    "mistakes": "Mistakes",
    "calibration": "Calibration",
    "filters": "First layer",
    "augmentation": "Augmentation",
}
MOST_BYTES = 2**24  # of a file of a run's folder, checkpoints aside
# What is not a finite number is null in report.json.
Metric = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]


class _Keys(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Requirement(_Keys):
    limit: Any
    value: Any
    passed: bool


class _Report(_Keys):
    """What the page shows of ``report.json``; older runs lack the keys that have a default."""

    model: str
    seed: int
    epochs: int
    best_epoch: int
    wall_seconds: float
    device: str
    protocol: str
    requirements: dict[str, _Requirement]
    val_metrics: dict[str, Metric] = {}
    test_metrics: dict[str, Metric] = {}
    last_val_accuracy: float | None = None
    optimizer: str | None = None
    peak_learning_rate: float | None = None
    batch_size: int | None = None
    command: str | None = None
    date: str | None = None
    git_commit: str | None = None


@dataclass(frozen=True)
class Subject:
    """A run's folder, or a checkpoint by itself.

    Attributes:
        name: What a person gave.
        trained: The network of the best epoch, or of the checkpoint.
        report: ``report.json``, of a folder.
        history: The epochs, of a folder.
        config: The composed config, of a folder that Hydra made.
        augmentation: A picture of augmented images (PNG), of a folder.
    """

    name: str
    trained: Trained
    report: dict[str, Any] | None = None
    history: History | None = None
    config: str | None = None
    augmentation: bytes | None = None

    @property
    def title(self) -> str:
        """What was trained, for a heading."""
        return f"{self.report['model']}, seed {self.report['seed']}" if self.report else self.name


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
        report: _Report = validated(_Report, _content(folder / "report.json"), "report.json")
        trained = read(folder / "checkpoints" / "best.ckpt", trust=trust)
        kept = read_file(folder / "checkpoints" / "last.ckpt")
        history = History.of(kept["callbacks"]["History"])
        if not history.validated or report.test_metrics.keys() - report.val_metrics.keys():
            raise UserError("no epoch was validated, or a metric was not")
    except TrustError:
        raise
    except (KeyError, TypeError):
        raise _unfinished(name, "last.ckpt has no History") from None
    except (OSError, UserError) as error:
        raise _unfinished(name, reason(error)) from None
    config = augmentation = None
    with suppress(OSError, UserError):
        config = _content(folder / ".hydra" / "config.yaml").decode("utf-8", "replace")
    with suppress(OSError, UserError):
        augmentation = _content(folder / "figures" / "augmentation.png")
    return Subject(name, trained, report.model_dump(), history, config, augmentation)


def _unfinished(name: str, why: str) -> UserError:
    return UserError(
        f"{name}: not the folder of a finished run, which has report.json and checkpoints ({why})"
    )


def _content(file: Path) -> bytes:
    if not file.is_file():
        raise UserError(f"{file} is not there, or no file")
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{file} is larger than {MOST_BYTES // 2**20} MB")
    return content


def page(
    subjects: Sequence[Subject], data_root: Path | None = None, trust: Collection[str] = ()
) -> str:
    """Return a page of HTML that needs no other file: the subjects in columns.

    Args:
        subjects: One or several, trained on the same data.
        data_root: The folder of the images, or the one above it; None for the default.
        trust: Data modules that may be imported, beside those of this project.

    Raises:
        UserError: They were trained on different data.
    """
    facts = subjects[0].trained.facts
    for subject in subjects[1:]:
        other = subject.trained.facts
        if (other.name, other.classes) != (facts.name, facts.classes):
            raise UserError(
                f"{subject.name}: trained on {other.name}, {subjects[0].name} on {facts.name}; "
                "only networks for the same images can be compared"
            )
    test = split(reopen(facts, data_root, trust), "test", facts)
    evaluations = [
        evaluate(s.trained.network, test, s.trained.facts, name=s.name) for s in subjects
    ]
    drawn = [draw(s, e, test.images) for s, e in zip(subjects, evaluations, strict=True)]
    return render(subjects, evaluations, drawn)


def draw(subject: Subject, evaluation: Evaluation, images: Tensor) -> dict[str, bytes]:
    """Return the figures that there can be of a subject, as PNG, by their names.

    Args:
        subject: The run or checkpoint.
        evaluation: What its network said of the test images.
        images: The test images, ``uint8 [N, 1, side, side]``.
    """
    drawn = figures.of_training(subject.history) if subject.history else {}
    drawn |= figures.of_network(subject.trained.network, evaluation, images, subject.trained.facts)
    pictures = {name: figures.png(figure) for name, figure in drawn.items()}
    return pictures | ({"augmentation": subject.augmentation} if subject.augmentation else {})


def render(
    subjects: Sequence[Subject],
    evaluations: Sequence[Evaluation],
    pictures: Sequence[dict[str, bytes]],
) -> str:
    """Return the page of subjects that have been evaluated and drawn.

    Args:
        subjects: One or several, trained on the same data.
        evaluations: Of each, on the same test images.
        pictures: Of each, what :func:`draw` returns.
    """
    right = [e.predictions == e.labels for e in evaluations]
    return filled(
        "evaluation/page.html",
        figures={
            name: title for name, title in FIGURES.items() if any(name in one for one in pictures)
        },
        noun=subjects[0].trained.facts.noun,
        subjects=[_describe(*one) for one in zip(subjects, evaluations, pictures, strict=True)],
        only=[[int((one & ~other).sum()) for other in right] for one in right],
    )


def filled(template: str, **values: Any) -> str:
    """Return a page made from a template, by its path in the package."""
    environment = Environment(
        loader=PackageLoader("mnist_lit", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"shown": _shown, "link": for_link}
    return environment.get_template(template).render(**values)


def embedded(png: bytes) -> str:
    """Return a picture as an address that holds it whole."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _shown(value: Any) -> str:
    """Return a limit, or what a run has, as on the console."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _describe(
    subject: Subject, evaluation: Evaluation, pictures: dict[str, bytes]
) -> dict[str, Any]:
    network, facts = subject.trained.network, subject.trained.facts
    confusion = evaluation.confusion
    classes = []
    for number, name in enumerate(facts.classes):
        row = confusion[number].clone()
        row[number] = 0
        most = [facts.classes[i] for i in (row == row.max()).nonzero().flatten()]
        confused = f"{', '.join(most)} ({int(row.max())}×)" if row.sum() else ""
        count, hits = int(confusion[number].sum()), int(confusion[number, number])
        classes.append({"name": name, "count": count, "right": hits, "confused": confused})
    return {
        "name": subject.name,
        "title": subject.title,
        "correct": evaluation.correct,
        "total": evaluation.total,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "parameters": count_parameters(network),
        "report": subject.report,
        "config": subject.config and masked(subject.config),
        "layers": summary.table(network, subject.title, facts.side),
        "classes": classes,
        "figures": {name: embedded(content) for name, content in pictures.items()},
    }
