"""The provenance of a run: enough to repeat it."""

import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from mnist_lit import folders
from mnist_lit.errors import ConfigError
from mnist_lit.files import write_text
from mnist_lit.text import masked

SECRET = re.compile(r"(?i)logger\..*(key|token|secret|passw)[^.]*(\.\d+)*$")
PACKAGES = ("mnist-lit", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core")
# Changes of a checkout that count: code and config, but no files of runs.
CODE = ("*.py", "*.yaml", "*.c", "*.toml")
OF_RUNS = (":(exclude,glob)**/.hydra/**", ":(exclude,glob)**/multirun.yaml")


def provenance(command: str | None) -> dict[str, Any]:
    """Return the provenance of a run that starts now, as entries of ``report.json``.

    ``command`` that trains the same again, None for a call from Python; ``date``, with the offset
    from UTC; ``git_commit`` of the checkout that the code runs from, marked if it was changed, None
    for an installed package; ``versions`` of Python and the packages that decide what is computed.
    """
    commit = _git("describe", "--always", "--abbrev=12", "--exclude=*")
    return {
        "command": command and masked(command),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "git_commit": f"{commit}-dirty" if _changes() else commit or None,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }


def override(key: str, path: Path | str) -> str:
    """Return a Hydra override with a path, quoted if its characters need it.

    Raises:
        ConfigError: Hydra would replace a part of the path.
    """
    text = str(path)
    if "${" in text:
        raise ConfigError(f"{text}: Hydra would replace ${{…}}; rename the folder")
    if not re.fullmatch(r"[\w.+-]*/[\w./+-]*", text, re.ASCII):  # without a slash 1_0 is a number
        text = QuotedString(text, Quote.double).with_quotes()
    return f"{key}={text}"


def flat(plain: Any, key: str = "") -> dict[str, Any]:
    """Return a config by keys as ``model.blocks.0.channels``, with masked passwords and secrets.

    Args:
        plain: Mappings, lists and values.
        key: Prefix of all keys.
    """
    if isinstance(plain, str):
        return {key: "***" if plain and SECRET.match(key) else masked(plain)}
    if isinstance(plain, list) and plain:
        plain = dict(enumerate(plain))
    if not plain or not isinstance(plain, Mapping):
        return {key: plain}
    found: dict[str, Any] = {}
    for name, value in plain.items():
        found |= flat(value, f"{key}.{name}" if key else str(name))
    return found


def write(run_dir: Path) -> None:
    """Write ``packages.txt`` and, for a changed checkout, ``changes.diff`` to a run's folder."""
    # From the names of folders, because reading the metadata takes as long as reading the images.
    found = {file.stem for place in sys.path for file in Path(place).glob("*.dist-info")}
    packages = ["==".join(name.replace("_", "-").rsplit("-", 1)) + "\n" for name in found]
    write_text(run_dir / "packages.txt", "".join(sorted(packages, key=str.lower)))
    if changes := _changes():
        write_text(run_dir / "changes.diff", f"{changes}\n")


def _changes() -> str:
    """Return the names of new code files, and the diff of the others to the commit."""
    new = _git("ls-files", "--others", "--exclude-standard", "--", *CODE, *OF_RUNS)
    names = [f"new file, not in this difference: {name}" for name in new.splitlines()]
    return "\n".join([*names, _git("diff", "HEAD")]).strip("\n")


def _git(*arguments: str) -> str:
    """Return git's output for the checkout of this code; empty without a checkout."""
    checkout = folders.config().parent  # an installed package has its own config, and no checkout
    # In any folder above, git would run commands that the configuration of a repository names.
    if not (checkout / ".git").exists():
        return ""
    options: Any = {"cwd": checkout, "capture_output": True, "check": True}
    try:
        # A package installed inside the checkout of another project does not belong to its commit.
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", folders.PACKAGE / "cli.py"], **options
        )
        done = subprocess.run(["git", "-c", "core.quotePath=off", *arguments], **options)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return str(done.stdout.decode("utf-8", "replace")).rstrip("\n")
