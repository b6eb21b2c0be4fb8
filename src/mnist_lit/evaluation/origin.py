"""What a run came from: enough to make it again."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mnist_lit.files import write_text

PACKAGE = Path(__file__).parents[1]
PACKAGES = ("mnist-lit", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core")
# What a checkout adds to a commit: code and config, not what lies beside them or runs leave there.
CODE = ("*.py", "*.yaml", "*.c", "*.toml")
OF_RUNS = (":(exclude,glob)**/.hydra/**", ":(exclude,glob)**/multirun.yaml")


@dataclass(frozen=True)
class Origin:
    """What a run came from; the fields are keys of ``report.json``.

    Attributes:
        command: As it was typed; None for a call from Python.
        date: When it started, with the offset from UTC.
        git_commit: Of the checkout that the code runs from, marked if it was changed; None for an
            installed package.
        versions: Of Python and the packages that decide what is computed.
    """

    command: str | None
    date: str
    git_commit: str | None
    versions: dict[str, str]


def origin(command: str | None) -> Origin:
    """Return what a run that starts now comes from."""
    commit = _git("describe", "--always", "--abbrev=12", "--exclude=*")
    return Origin(
        command=command and masked(command),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        git_commit=f"{commit}-dirty" if commit and _changes() else commit,
        versions={"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    )


def override(key: str, path: Path) -> str:
    """Return an override of Hydra's, whatever characters the path has."""
    text = str(path)
    if not re.fullmatch(r"[\w.+-]*/[\w./+-]*", text, re.ASCII):  # without a slash 1_0 is a number
        # Within quotes a backslash counts only before a quote.
        text = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
        text = f'"{text}"'
    return f"{key}={text}"


def masked(text: str) -> str:
    """Return a text without the passwords of the addresses in it."""
    text = re.sub(r"(?<=://)[^/@\s:]*:[^/@\s]*@", "***@", text)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", text)


def flat(plain: Any) -> dict[str, Any]:
    """Return a config by keys as ``model.blocks.0.channels``; no password is in it.

    Args:
        plain: Mappings, lists and values.
    """
    found: dict[str, Any] = {}

    def add(key: str, node: Any) -> None:
        if isinstance(node, (Mapping, list)) and node:
            for name, value in enumerate(node) if isinstance(node, list) else node.items():
                add(f"{key}.{name}" if key else str(name), value)
        else:
            words = masked(str(node))
            found[key] = words if isinstance(node, str) or node in ({}, []) else node

    add("", plain)
    return found


def write(run_dir: Path) -> None:
    """Write ``packages.txt`` and, of a changed checkout, ``changes.diff`` into a run's folder."""
    write_text(run_dir / "packages.txt", _packages())
    if changes := _changes():
        write_text(run_dir / "changes.diff", f"{changes}\n")


def _packages() -> str:
    """Return a line for each installed package, by the names of their folders.

    To read the metadata in them would take as long as to read the images.
    """
    suffix = ".dist-info"
    folders = {file.name for path in sys.path for file in Path(path).glob(f"*{suffix}")}
    parted = (folder.removesuffix(suffix).rpartition("-") for folder in folders)
    lines = {f"{name.replace('_', '-')}=={number}\n" for name, _, number in parted}
    return "".join(sorted(lines, key=str.lower))


def _changes() -> str | None:
    """Return the difference from the commit, with new files of code in it."""
    index = _git("rev-parse", "--path-format=absolute", "--git-path", "index")
    if index is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        # Adding to a copy leaves the user's index as it is.
        copy = shutil.copy(index, folder)
        new = _git("ls-files", "--others", "--exclude-standard", "--", *CODE, *OF_RUNS)
        _git("add", "--intent-to-add", "--", *(new or "").splitlines(), index=copy)
        return _git("diff", "HEAD", index=copy)


def _git(*arguments: str, index: str | None = None) -> str | None:
    """Return what git says of the checkout of this code; None where it has none."""
    environment = os.environ | ({"GIT_INDEX_FILE": index} if index else {})
    outputs = []
    # A package installed somewhere below a checkout of another project is not of that commit.
    for command in (["ls-files", "--error-unmatch", "--", str(PACKAGE / "cli.py")], arguments):
        try:
            done = subprocess.run(
                ["git", "-c", "core.quotePath=off", *command],
                cwd=PACKAGE.parents[1],
                env=environment,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        outputs.append(done.stdout.rstrip("\n"))
    return outputs[-1] or None
