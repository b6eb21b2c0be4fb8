import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lit import archives
from mnist_lit.archives import FILES, DataError, prepare

from .conftest import PROJECT, ordinary_user


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder of its own, with the four archives and nothing unpacked."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(PROJECT / "data" / "MNIST" / "raw" / f"{name}.gz", raw / f"{name}.gz")
    return tmp_path / "data"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send downloads to a port where nobody listens."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")


def test_archives_unpack_to_files_with_the_right_digests(root: Path) -> None:
    assert prepare(root) == root
    assert archives._is_complete(root)
    assert {p.name for p in (root / "MNIST" / "raw").iterdir()} - {".lock"} == {
        *FILES,
        *(f"{name}.gz" for name in FILES),
    }


@pytest.mark.parametrize("damage", [b"", b"not images at all"])
def test_a_damaged_unpacked_file_is_unpacked_again(root: Path, damage: bytes) -> None:
    prepare(root)
    victim = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    victim.write_bytes(damage)
    prepare(root)
    assert archives._sha256(victim) == FILES[victim.name]


@pytest.mark.usefixtures("no_network")
def test_a_damaged_archive_is_named_with_the_remedy(root: Path) -> None:
    victim = root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(DataError, match="git checkout") as caught:
        prepare(root)
    message = str(caught.value)
    assert f"{victim} is damaged" in message
    assert "\n" not in message
    assert not (victim.parent / "train-images-idx3-ubyte").exists()


@pytest.mark.usefixtures("no_network")
def test_an_empty_folder_without_network_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is missing .*data.root="):
        prepare(tmp_path)


def test_a_damaged_archive_does_not_matter_once_unpacked(root: Path) -> None:
    prepare(root)
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    assert prepare(root) == root


def test_a_folder_that_cannot_be_written_to_is_unpacked_to_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for folder in (root, *root.rglob("*")):
        folder.chmod(0o555)
    for folder in tmp_path.parents:  # pytest's own folders are for their owner alone
        if folder.stat().st_uid == os.geteuid() and folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    with ordinary_user():
        ready = prepare(root)
    assert ready == cache / "mnist-lit"
    assert archives._is_complete(ready)
    assert not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists()


def test_processes_that_start_at_once_do_not_trip_over_each_other(root: Path) -> None:
    code = "import sys, pathlib, mnist_lit.archives as a; a.prepare(pathlib.Path(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(root)], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert (process.returncode, stderr) == (0, "")
    assert archives._is_complete(root)
