"""Errors that a user can correct.

The message of each is one line that names the value, the place and the remedy.
"""

import difflib
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from mnist_lit.text import for_terminal


class UserError(Exception):
    """The base class of all; the command line prints its message without a traceback."""


class ConfigError(UserError, ValueError):
    """A config or an argument is impossible."""


class CheckpointError(UserError, ValueError):
    """A file is not a checkpoint of this project, or cannot be loaded."""


class TrustError(CheckpointError):
    """A checkpoint names a class of another package, and ``trust`` does not name it."""


class DataError(UserError, RuntimeError):
    """Images are missing, damaged, or not of the expected shape, type or values."""


class StoppedError(UserError, RuntimeError):
    """A training was stopped from outside; the message says how to resume it."""


class WriteError(UserError, OSError):
    """A file cannot be written; the former file of that name is unchanged."""


class DivergedError(UserError, RuntimeError):
    """The loss of a training is not a finite number."""


class RunError(UserError, RuntimeError):
    """A run, sweep or search failed for an unforeseen reason; the message names it."""


class PictureError(UserError, ValueError):
    """A picture cannot be read."""


class MissingPackageError(UserError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def unknown(name: str, known: Iterable[str], what: str = "key") -> str:
    """Return a message that a name does not exist, with the likely one and all existing ones.

    Args:
        name: The name that the user gave; its last part is compared with the existing names.
        known: The existing names.
        what: The kind of name, as key or choice.
    """
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(re.split("[.=]", name)[-1].lower(), by_lower, n=1)
    hint = f" did you mean {by_lower[near[0]]}?" if near else ""
    allowed = ", ".join(by_lower.values()) or "nothing"
    return f"{for_terminal(name)}: no such {what};{hint} allowed here: {allowed}"


def need(package: str, extra: str) -> Any:
    """Import an optional package.

    Args:
        package: The name to import.
        extra: The extra of this project that brings it.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError:
        raise MissingPackageError(missing(package, extra)) from None


def missing(package: str, extra: str) -> str:
    """Return a message that a package is not installed, with the commands that install it."""
    return (
        f"{package} is not installed; pip install -e '.[{extra}]' in a checkout, or "
        f"pip install 'mnist-lit[{extra}]'"
    )


def line(error: BaseException) -> str:
    """Return an error's message in one line, after its class unless it is a ``UserError``."""
    known = isinstance(error, UserError)
    return str(error) if known else f"{type(error).__name__}: {reason(error)}"


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message or, if it is empty, its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
