"""The requirements of a run: checks before training, and after it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mnist_lit.config.schema import Requirements
from mnist_lit.errors import UserError
from mnist_lit.network.compact import count_parameters

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True)
class Check:
    """One requirement and its result for a run.

    Attributes:
        name: Its key in the config and in ``report.json``.
        title: Its text for a person.
        limit: The required value.
        value: The value of the run.
        passed: Whether the run meets it.
    """

    name: str
    title: str
    limit: Any
    value: Any
    passed: bool

    def line(self) -> str:
        """Return its line in the report."""
        found = "" if isinstance(self.value, bool) else f" ({shown(self.value)})"
        mark, verdict = ("✓", "PASS") if self.passed else ("✗", "FAIL")
        return f"{mark} {self.title}: {verdict}{found}"


def shown(value: Any) -> str:
    """Return a limit or a value as text for a person."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else "–" if value is None else str(value)


def check_before(network: nn.Module, epochs: int, limits: Requirements) -> list[Check]:
    """Check what is known before training: parameters, epochs and layers.

    A layer type that the limits do not ask for always passes.
    """
    parameters, most = count_parameters(network), limits.max_parameters
    longest = limits.max_epochs
    checks = [
        Check("max_parameters", f"Parameters < {most:,}", most, parameters, parameters < most),
        Check("max_epochs", f"Epochs ≤ {longest}", longest, epochs, epochs <= longest),
    ]
    modules = list(network.modules())
    norms = any(isinstance(m, BATCH_NORMS) for m in modules)
    drops = any(isinstance(m, DROPOUTS) and m.p > 0 for m in modules)
    linear = any(isinstance(m, nn.Linear) for m in modules)
    for name, title, used in (
        ("batch_norm", "Uses Batch Normalization", norms),
        ("dropout", "Uses Dropout", drops),
        ("fully_connected", "Uses Fully Connected Layer", linear),
    ):
        required = getattr(limits, name)
        checks.append(Check(name, title, required, used, used or not required))
    return checks


def check_accuracy(accuracy: float, limits: Requirements) -> list[Check]:
    """Check the best validation accuracy, a share from 0 to 1, if there is a limit."""
    least = limits.min_val_accuracy
    if least is None:
        return []
    title = f"Validation Accuracy ≥ {100 * least:g}%"
    return [Check("min_val_accuracy", title, least, accuracy, accuracy >= least)]


def refuse(checks: Iterable[Check]) -> None:
    """Raise ``UserError`` with all failed checks, if there is one."""
    failed = [check for check in checks if not check.passed]
    words = [f"requirements.{c.name}={c.limit}, but this run has {c.value}" for c in failed]
    if failed:
        raise UserError(f"{'; '.join(words)}; requirements.enforce=false trains it all the same")
