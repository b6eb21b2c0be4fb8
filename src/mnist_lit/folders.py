"""Where things lie on this machine."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def config() -> Path:
    """Return the folder of the shipped YAML files: the wheel's, or the checkout's ``conf/``."""
    packed = PACKAGE / "conf"
    return packed if packed.is_dir() else PACKAGE.parents[1] / "conf"


def cache() -> Path:
    """Return the user's cache, for what can be made or downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist-lit"


def data() -> Path:
    """Return the folder of the images: the checkout's, or for an installed package the cache."""
    checkout = PACKAGE.parents[1] / "data"
    return checkout if (checkout / "MNIST" / "raw").is_dir() else cache()
