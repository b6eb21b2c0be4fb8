"""Folders on this machine."""

import os
import re
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def config() -> Path:
    """Return the folder of the shipped YAML files: the wheel's, or the checkout's ``conf/``."""
    packed = PACKAGE / "conf"
    return packed if packed.is_dir() else PACKAGE.parents[1] / "conf"


def cache() -> Path:
    """Return the user's cache folder, for files that can be made or downloaded again.

    Without a home folder, it is in the folder of temporary files.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The XDG standard ignores relative paths.
        root = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"mnist-lit-{os.getuid()}"
    return root / "mnist-lit"


def data() -> Path:
    """Return the folder of the images: the checkout's, one in the working folder, or the cache."""
    for place in (PACKAGE.parents[1], Path()):
        if (place / "data" / "MNIST" / "raw").is_dir():
            return (place / "data").resolve()
    return cache()


def shown(path: Path) -> str:
    """Return a path for a message, relative to the working folder if it is inside.

    A relative path never looks like an option or the name of a network.
    """
    place = str(path).removeprefix(f"{Path.cwd()}/")
    return place if re.match("/|[^-].*/", place) else f"./{place}"
