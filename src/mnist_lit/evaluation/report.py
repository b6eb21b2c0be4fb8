"""What a run says of itself: on the console and in ``report.json``."""

import json
import math
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnist_lit.evaluation.evaluate import Evaluation
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.requirements import Check
from mnist_lit.facts import Facts
from mnist_lit.files import write_text
from mnist_lit.text import for_terminal

COLUMNS = 80  # of a terminal


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of a run; the fields are the keys of ``report.json``.

    Accuracies are shares from 0 to 1, losses mean cross-entropies, epochs count from 1. The test
    entries are those of the best epoch's weights, None of a run that does not test; ``val_metrics``
    are of the best epoch too. A class without test images has no accuracy, which is None.
    """

    model: str
    data: str
    classes: list[str]
    protocol: str
    parameters: int
    epochs: int
    best_epoch: int
    best_val_accuracy: float
    best_val_loss: float
    last_val_accuracy: float
    last_val_loss: float
    last_train_loss: float
    last_train_accuracy: float | None
    val_metrics: dict[str, float]
    test_metrics: dict[str, float]
    test_accuracy: float | None = None
    test_loss: float | None = None
    test_correct: int | None = None
    test_total: int | None = None
    test_accuracy_per_class: list[float | None] | None = None
    requirements: dict[str, dict[str, Any]]
    checks: list[str]
    passed: bool
    wall_seconds: float
    train_images_per_second: float
    seed: int
    device: str
    operations: str
    precision: str
    optimizer: str
    peak_learning_rate: float
    batch_size: int | None
    augmentation: list[dict[str, Any]]
    command: str | None
    date: str
    git_commit: str | None
    versions: dict[str, str]

    @property
    def tested(self) -> dict[str, float]:
        """What loggers are told of the test images."""
        if self.test_accuracy is None or self.test_loss is None:
            return {}
        found = {"test/accuracy": self.test_accuracy, "test/loss": self.test_loss}
        return found | {f"test/{name}": value for name, value in self.test_metrics.items()}

    def objective(self, name: str) -> float:
        """Return what ``optimized_metric`` names: an entry, or a metric as ``val/NAME``."""
        stage, _, metric = name.partition("/")
        value: float = self.val_metrics[metric] if stage == "val" else getattr(self, name)
        return value


def summary(
    facts: Facts, history: History, evaluation: Evaluation | None, checks: list[Check]
) -> dict[str, Any]:
    """Return the fields of a :class:`Report` that follow from these.

    Args:
        facts: Of the images.
        history: The epochs.
        evaluation: The best epoch's weights on the test images; None of a run that does not test.
        checks: The requirements and how the run stands to them.
    """
    best, last = history.best, history.validated[-1]
    fields: dict[str, Any] = {
        "data": facts.name,
        "classes": list(facts.classes),
        "protocol": facts.protocol,
        "epochs": history.epochs[-1].epoch,
        "best_epoch": best.epoch,
        "best_val_accuracy": best.val_accuracy,
        "best_val_loss": best.rank[1],
        "last_val_accuracy": last.val_accuracy,
        "last_val_loss": last.rank[1],
        "last_train_loss": history.epochs[-1].train_loss,
        "last_train_accuracy": history.epochs[-1].train_accuracy,
        "val_metrics": dict(best.metrics),
        "requirements": {
            c.name: {"limit": c.limit, "value": c.value, "passed": c.passed} for c in checks
        },
        "checks": [c.line() for c in checks],
        "passed": all(c.passed for c in checks),
        "train_images_per_second": history.train_images / history.train_seconds,
        "peak_learning_rate": max(history.learning_rates),
    }
    if evaluation is not None:
        fields |= {
            "test_accuracy": evaluation.accuracy,
            "test_loss": evaluation.loss,
            "test_correct": evaluation.correct,
            "test_total": evaluation.total,
            "test_accuracy_per_class": evaluation.per_class,
        }
    return fields


def text(report: Report) -> str:
    """Lay the report out for a terminal: final evaluation, results, requirements check."""
    final = report.test_accuracy
    lines = [
        *_test_text(report),
        "-" * 50,
        f"FINAL RESULTS: {for_terminal(report.model)}",
        f"Best Validation Accuracy: {report.best_val_accuracy:.2%} (Epoch {report.best_epoch})",
        f"Last Validation Accuracy: {report.last_val_accuracy:.2%} (Epoch {report.epochs})",
        *([] if final is None else [f"Final Test Accuracy: {final:.2%}"]),
        f"Model Parameters: {report.parameters:,}",
        f"Training Epochs: {report.epochs}",
        f"Protocol: {report.protocol}",
        f"Training Time: {report.wall_seconds:.1f} s, "
        f"{report.train_images_per_second:,.0f} images/s, {report.device}, {report.precision}, "
        f"{report.operations}",
        f"Seed: {report.seed}, commit {report.git_commit or 'unknown'}",
        "",
        "REQUIREMENTS CHECK:",
        *report.checks,
    ]
    wrapped = [
        textwrap.fill(line, COLUMNS, subsequent_indent="  ", break_long_words=False)
        for line in lines
    ]
    return "\n".join(wrapped).replace("\N{NO-BREAK SPACE}", " ")


def _test_text(report: Report) -> list[str]:
    if report.test_accuracy_per_class is None:
        return ["Not tested (test=false)."]
    # A class and its accuracy stay on one line.
    each = "  ".join(
        f"{for_terminal(name)}: {'–' if share is None else f'{share:.2%}'}".replace(
            " ", "\N{NO-BREAK SPACE}"
        )
        for name, share in zip(report.classes, report.test_accuracy_per_class, strict=True)
    )
    metrics = [
        f"{name}: {value:.4f} (validation of epoch {report.best_epoch}: "
        f"{report.val_metrics[name]:.4f})"
        for name, value in report.test_metrics.items()
    ]
    return [
        f"Final Evaluation (Best model from epoch {report.best_epoch}):",
        "",
        "Test Results:",
        f"Average loss: {report.test_loss:.4f}",
        f"Accuracy: {report.test_correct}/{report.test_total} ({report.test_accuracy:.2%})",
        f"By class:  {each}",
        *metrics,
    ]


def write(report: Report, run_dir: Path) -> None:
    """Write ``report.json`` into a run's folder; what is not a finite number is null in it."""
    content = {key: value for key, value in asdict(report).items() if key != "checks"}
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    write_text(run_dir / "report.json", f"{text}\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
