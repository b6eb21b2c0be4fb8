"""Shared fixtures: the config of a small run, the command line in a subprocess, and others."""

import gc
import gzip
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

# PyTorch is imported where it is used: the process that distributes the tests does not need it.
if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mnist_lit import MNISTDataModule

# Batches this small take longer on two threads than on one; subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

# Let Python keep compiled files even if the environment forbids it. Otherwise each process that a
# test starts would compile PyTorch and Lightning again, which takes ten seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell's background jobs ignore Ctrl-C, and the processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup they would also ignore the end of the terminal.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

PROJECT = Path(__file__).parents[1]
PROGRAM = str(Path(sys.executable).with_name("mnist-lit"))

# Two epochs of five batches of the fastest network: nothing is learned. Testing and the page would
# take as long again.
TINY = (
    "model=nano",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "data.train_size=320",
    "data.batch_size=64",
    "trainer.limit_val_batches=1",
    "logger=none",
    "callbacks=none",
    "requirements.enforce=false",
    "test=false",
)


# Some machines have no compiler; only tests that need one are skipped there.
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

LONG = ("test_benchmarks.py", "test_notebook.py", "test_command_line.py", "test_prediction.py")
# Each group runs in one process and shares a server, a browser, a training or slow imports.
TOGETHER = {
    "test_demo.py": "browser",
    "test_web.py": "browser",
    "test_c.py": "exports",
    "test_export.py": "exports",
    "test_own.py": "own",
    "test_search.py": "search",
    "test_page.py": "pages",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the long tests, so that no core waits for one at the end."""
    items.sort(key=lambda item: item.path.name not in (*TOGETHER, *LONG))
    for item in items:
        if {"address", "browser"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.slow)
        if group := TOGETHER.get(item.path.name):
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """Exclude the objects of torch's and Lightning's imports from later garbage collections."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Include them again at the end; otherwise they are reported as leaked."""
    gc.unfreeze()


@pytest.fixture
def tiny(tmp_path: Path) -> "Callable[..., DictConfig]":
    """Compose the config of a run that takes about a second."""
    from mnist_lit import compose

    def make(*overrides: str, run_dir: str = "run") -> "DictConfig":
        return compose(*TINY, f"run_dir={tmp_path / run_dir}", *overrides)

    return make


@pytest.fixture(scope="session", autouse=True)
def unpacked_once() -> Iterator[None]:
    """Unpack each file only once: MNIST takes 0.35 s, and most trainings read it.

    The cache holds bytes, which no test can change, and its key is the content of the file.
    """
    from mnist_lit.data import archives

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "_verified", lru_cache(maxsize=8)(archives._verified))
        yield


@pytest.fixture(scope="session")
def mnist() -> "MNISTDataModule":
    """The real images, read once."""
    from mnist_lit import MNISTDataModule

    data = MNISTDataModule()
    data.setup("fit")
    return data


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands use only 1,000 images; each export format has a test with all of them."""
    import torch

    from mnist_lit.data import reopen
    from mnist_lit.data.batches import Images
    from mnist_lit.evaluation import page
    from mnist_lit.export import run

    whole = reopen.split

    def split(*arguments: Any) -> Images:
        images = whole(*arguments)
        return images.subset(torch.arange(min(1000, len(images))))

    for module in (reopen, page, run):
        monkeypatch.setattr(module, "split", split)


def write_idx(folder: Path, classes: int, side: int, train: int = 840, test: int = 210) -> Path:
    """Write a data set in MNIST's layout; the place of a bright bar is the class."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % classes).astype(np.uint8)
        images = rng.integers(0, 60, (count, side, side), dtype=np.uint8)
        width = side // classes
        for image, label in zip(images, labels, strict=True):
            image[:, label * width : (label + 1) * width] += 180
        for name, array in ((f"{split}-images-idx3", images), (f"{split}-labels-idx1", labels)):
            header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
            content = gzip.compress(header + array.tobytes(), 1)
            (folder / f"{name}-ubyte.gz").write_bytes(content)
    return folder


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Drop root, which ignores permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


Here = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Here:
    """Do what ``python train.py`` does, in this process, which has loaded torch already."""
    from hydra.core.hydra_config import HydraConfig

    from mnist_lit.training import hydra

    # Else a later training in this process would lie in the sweep of this one.
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py"])
        monkeypatch.setattr(sys, "path", list(sys.path))
        capfd.readouterr()
        code: Any = 0
        try:
            hydra.main(PROJECT / "conf", arguments)
        except SystemExit as stop:
            code = stop.code
        words = f"{code}\n" if isinstance(code, str) else ""
        out, err = capfd.readouterr()
        returned = 1 if words else code or 0
        return subprocess.CompletedProcess(arguments, returned, out, err + words)

    return run


def run_train(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run ``python train.py`` as a user does."""
    return _run(str(PROJECT / "train.py"), *arguments, cwd=cwd)


def _run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )
