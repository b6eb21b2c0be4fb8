"""What a run says of itself: on the console and in ``report.json``."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchmetrics import Metric

from mnist_lit.config.schema import Config
from mnist_lit.evaluation.evaluate import TOLD, Evaluation
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.requirements import Check, check_accuracy
from mnist_lit.facts import Facts
from mnist_lit.files import write_text
from mnist_lit.text import for_terminal

COLUMNS = 80  # of a terminal


def content(
    config: Config,
    facts: Facts,
    history: History,
    evaluation: Evaluation | None,
    metrics: Mapping[str, Metric],
    checks: Sequence[Check],
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the outcome of a run: the content of ``report.json``, and the lines of ``checks``.

    Accuracies are shares from 0 to 1, losses mean cross-entropies, epochs count from 1. ``test_…``
    and ``val_metrics`` are of the best epoch. A class without test images has the accuracy None.

    Args:
        config: Of the run.
        facts: Of the images.
        history: The epochs.
        evaluation: The best epoch's weights on the test images; None of a run that does not test.
        metrics: Taken of the test images, by name; none without an evaluation.
        checks: The requirements that were known before training.
        known: The other entries: ``parameters``, ``wall_seconds``, ``device``, ``operations`` and
            ``precision``, and where the run comes from.
    """
    best, last = history.best, history.validated[-1]
    checks = [*check_accuracy(best.val_accuracy, config.requirements), *checks]
    test_metrics = {}
    if evaluation is not None:
        for name, metric in metrics.items():
            test_metrics[name] = float(metric(evaluation.probabilities, evaluation.labels))
    return {
        "model": config.name,
        "data": facts.name,
        "classes": list(facts.classes),
        "protocol": facts.protocol,
        "epochs": history.epochs[-1].epoch,
        "best_epoch": best.epoch,
        "best_val_accuracy": best.val_accuracy,
        "best_val_loss": best.val_loss,
        "last_val_accuracy": last.val_accuracy,
        "last_val_loss": last.val_loss,
        "last_train_loss": history.epochs[-1].train_loss,
        "last_train_accuracy": history.epochs[-1].train_accuracy,
        "val_metrics": dict(best.metrics),
        "test_metrics": test_metrics,
        # None where there is no evaluation.
        **{f"test_{name}": getattr(evaluation, name, None) for name in TOLD},
        "requirements": {check.name: asdict(check) for check in checks},
        "checks": [check.line() for check in checks],
        "passed": all(check.passed for check in checks),
        "train_images_per_second": history.train_images / history.train_seconds,
        "seed": config.seed,
        "optimizer": config.optimizer["_target_"],
        "peak_learning_rate": max(history.learning_rates),
        "batch_size": config.data.get("batch_size"),
        "augmentation": [*config.augmentation.values()],
        **known,
    }


def text(report: Mapping[str, Any]) -> str:
    """Lay the report out for a terminal: final evaluation, results, requirements check."""
    lines = [
        *_test_lines(report),
        "-" * 50,
        f"FINAL RESULTS: {for_terminal(report['model'])}",
        f"Best Validation Accuracy: {report['best_val_accuracy']:.2%} "
        f"(Epoch {report['best_epoch']})",
        f"Last Validation Accuracy: {report['last_val_accuracy']:.2%} (Epoch {report['epochs']})",
    ]
    if report["test_accuracy"] is not None:
        lines.append(f"Final Test Accuracy: {report['test_accuracy']:.2%}")
    lines += [
        f"Model Parameters: {report['parameters']:,}",
        f"Training Epochs: {report['epochs']}",
        f"Protocol: {report['protocol']}",
        f"Training Time: {report['wall_seconds']:.1f} s, "
        f"{report['train_images_per_second']:,.0f} images/s, {report['device']}, "
        f"{report['precision']}, {report['operations']}",
        f"Seed: {report['seed']}, commit {report['git_commit'] or 'unknown'}",
        "",
        "REQUIREMENTS CHECK:",
        *report["checks"],
    ]
    wrap = textwrap.TextWrapper(COLUMNS, subsequent_indent="  ", break_long_words=False)
    return "\n".join(map(wrap.fill, lines)).replace("\N{NO-BREAK SPACE}", " ")


def _test_lines(report: Mapping[str, Any]) -> list[str]:
    if report["test_accuracy"] is None:
        return ["Not tested (test=false)."]
    shares = zip(report["classes"], report["test_accuracy_per_class"], strict=True)
    by_class = [
        f"{for_terminal(name)}: {'–' if share is None else f'{share:.2%}'}"
        for name, share in shares
    ]
    # A class and its accuracy stay on one line.
    each = "  ".join(words.replace(" ", "\N{NO-BREAK SPACE}") for words in by_class)
    best = report["best_epoch"]
    return [
        f"Final Evaluation (Best model from epoch {best}):",
        "",
        "Test Results:",
        f"Average loss: {report['test_loss']:.4f}",
        f"Accuracy: {report['test_correct']}/{report['test_total']} "
        f"({report['test_accuracy']:.2%})",
        f"By class:  {each}",
        *(
            f"{name}: {value:.4f} (validation of epoch {best}: {report['val_metrics'][name]:.4f})"
            for name, value in report["test_metrics"].items()
        ),
    ]


def write(report: Mapping[str, Any], run_dir: Path) -> None:
    """Write ``report.json`` into a run's folder; what is not a finite number is null in it."""
    kept = {key: value for key, value in report.items() if key != "checks"}
    finite = json.loads(json.dumps(kept), parse_constant=lambda name: None)
    write_text(run_dir / "report.json", f"{json.dumps(finite, indent=2)}\n")
