"""The budget of a run: what must hold before training, and what after it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from mnist_lit.config.schema import Requirements
from mnist_lit.errors import UserError
from mnist_lit.network.compact import count_parameters


@dataclass(frozen=True)
class Check:
    """One requirement and how a run stands to it.

    Attributes:
        name: Its key in the config and in ``report.json``.
        title: Its wording for a person.
        limit: What was asked for.
        value: What the run has.
        passed: Whether that is enough.
    """

    name: str
    title: str
    limit: Any
    value: Any
    passed: bool

    def line(self) -> str:
        """Say it in one line for the report's check block."""
        value = self.value
        if isinstance(value, bool):
            shown = ""
        elif isinstance(value, float):
            shown = f" ({value:.2%})"
        else:
            shown = f" ({value:,})"
        mark, verdict = ("✓", "PASS") if self.passed else ("✗", "FAIL")
        return f"{mark} {self.title}: {verdict}{shown}"


def check_before(network: nn.Module, epochs: int, limits: Requirements) -> list[Check]:
    """Check what is known before training: parameters, epochs and layers.

    A layer type that the limits do not ask for always passes.
    """
    parameters = count_parameters(network)
    checks = [
        Check(
            "max_parameters",
            f"Parameters < {limits.max_parameters:,}",
            limits.max_parameters,
            parameters,
            parameters < limits.max_parameters,
        ),
        Check(
            "max_epochs",
            f"Epochs ≤ {limits.max_epochs}",
            limits.max_epochs,
            epochs,
            epochs <= limits.max_epochs,
        ),
    ]
    modules = list(network.modules())
    uses = {
        "batch_norm": any(isinstance(m, _BatchNorm) for m in modules),
        "dropout": any(isinstance(m, _DropoutNd) and m.p > 0 for m in modules),
        "fully_connected": any(isinstance(m, nn.Linear) for m in modules),
    }
    titles = {
        "batch_norm": "Uses Batch Normalization",
        "dropout": "Uses Dropout",
        "fully_connected": "Uses Fully Connected Layer",
    }
    for name, used in uses.items():
        required = getattr(limits, name)
        checks.append(Check(name, titles[name], required, used, used or not required))
    return checks


def check_accuracy(accuracy: float, limits: Requirements) -> list[Check]:
    """Check the best validation accuracy, a share from 0 to 1, if one is asked for."""
    least = limits.min_val_accuracy
    if least is None:
        return []
    title = f"Validation Accuracy ≥ {100 * least:g}%"
    return [Check("min_val_accuracy", title, least, accuracy, accuracy >= least)]


def refuse(checks: Iterable[Check]) -> None:
    """Raise :class:`UserError` naming every check that failed, if one did."""
    failed = [
        f"{check.name}={check.limit}, but this run has {check.value}"
        for check in checks
        if not check.passed
    ]
    if failed:
        raise UserError(
            "requirements." + "; requirements.".join(failed) + "; change the run, or train it "
            "all the same with requirements.enforce=false"
        )
