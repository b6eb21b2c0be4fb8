"""Files in MNIST's layout, found and verified."""

import gzip
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from mnist_lit import MNISTDataModule, folders
from mnist_lit.data.archives import DIGESTS, folder_of, read
from mnist_lit.errors import DataError
from mnist_lit.files import UNFINISHED
from tests.conftest import PROJECT, ordinary_user


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A separate data folder with the four archives."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in DIGESTS:
        shutil.copyfile(PROJECT / "data" / "MNIST" / "raw" / f"{name}.gz", raw / f"{name}.gz")
    return tmp_path / "data"


@pytest.fixture
def no_network() -> Iterator[None]:
    """Send downloads to a port where nobody listens."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
            patch.setenv(name.upper(), "http://127.0.0.1:9")
        patch.setenv("no_proxy", "")
        patch.setenv("NO_PROXY", "")
        # The opener keeps the proxies of the time when it was built.
        urllib.request.install_opener(urllib.request.build_opener())
        yield
    urllib.request.install_opener(urllib.request.build_opener())


def tree(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.parametrize("below", ["", "MNIST", "MNIST/raw"])
def test_a_root_may_be_the_folder_itself_or_one_above(root: Path, below: str) -> None:
    before = tree(root)
    data = MNISTDataModule(root / below)
    assert len(data.images("test")) == 10_000
    assert tree(root) == before, "nothing is unpacked, locked or left"


def test_a_folder_that_cannot_be_written_to_is_read(root: Path) -> None:
    for folder in (root, *root.rglob("*")):
        folder.chmod(0o555)
    for folder in root.parents:  # only their owner can open pytest's folders
        if folder.stat().st_uid == os.geteuid() and folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    with ordinary_user():
        assert read(folder_of(root), "t10k-labels-idx1-ubyte").shape == (10_000,)


@pytest.mark.parametrize("content", [b"", b"not images at all"])
def test_files_of_the_users_beside_the_archives_stay_and_are_not_read(
    root: Path, content: bytes
) -> None:
    own = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    own.write_bytes(content)
    assert torch.equal(
        MNISTDataModule(root).images("test").labels, MNISTDataModule().images("test").labels
    )
    assert own.read_bytes() == content


def test_an_unpacked_file_is_as_good_as_its_archive(root: Path) -> None:
    archive = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    archive.write_bytes(b"")
    assert len(MNISTDataModule(root).images("test")) == 10_000


@pytest.mark.parametrize("length", [0, 5000, 9_912_000])
def test_a_damaged_archive_is_named_with_the_remedy(root: Path, length: int) -> None:
    victim = root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:length])
    with pytest.raises(DataError, match="leave out the root") as caught:
        MNISTDataModule(root).images("train")
    message = str(caught.value)
    assert message.startswith(f"{victim} is damaged")
    assert "\n" not in message


@pytest.mark.parametrize("pack", [lambda c: gzip.compress(c, 1), gzip.decompress, gzip.compress])
def test_what_a_file_holds_decides_and_not_how_it_is_packed(
    root: Path, pack: Callable[[bytes], bytes]
) -> None:
    """Gzipped again, unpacked under its old name, gzipped twice."""
    archive = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    before = read(archive.parent, archive.stem)
    content = archive.read_bytes()
    archive.write_bytes(pack(gzip.decompress(content) if pack.__name__ == "<lambda>" else content))
    digest = DIGESTS["t10k-labels-idx1-ubyte"]
    assert torch.equal(read(archive.parent, archive.stem, digest), before)


def test_other_data_in_the_place_of_mnist_is_said(root: Path) -> None:
    labels = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[-1] = (content[-1] + 1) % 10
    labels.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match=r"damaged, or not MNIST's; .* needs data=idx"):
        MNISTDataModule(root).images("test")


def test_a_folder_without_the_files_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz is missing; restore it"):
        MNISTDataModule(tmp_path / "typo").images("test")
    assert not list(tmp_path.iterdir())


def test_a_tilde_is_the_home_and_a_place_that_cannot_be_is_a_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(MNISTDataModule("~/data").images("test")) == 10_000
    for place in ("~nobody-of-that-name", "x" * 300, "a\0b"):
        with pytest.raises(DataError, match=r"^[^\n]*$"):
            MNISTDataModule(place).images("test")


def test_an_installed_package_finds_the_data_of_the_working_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "site-packages" / "mnist_lit")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(root.parent)
    data = MNISTDataModule()
    assert data.folder == root / "MNIST" / "raw"
    monkeypatch.chdir("/")
    assert len(data.images("test")) == 10_000
    assert not (tmp_path / "cache").exists()


class Mirror(SimpleHTTPRequestHandler):
    """Serves the checkout's files."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given, directory=str(PROJECT / "data" / "MNIST" / "raw"))

    def log_message(self, *given: Any) -> None:
        pass


DOWNLOAD = """
import os, sys
from mnist_lit import folders
from mnist_lit.data import archives
folders.PACKAGE, archives.MIRROR = folders.Path("/nowhere/of/it"), sys.argv[1]
if sys.argv[2] == "die":  # the draft is whole, but has not replaced the file yet
    os.fsync = lambda file: os.kill(os.getpid(), 9)
print(archives.find_mnist())
"""


@pytest.mark.slow
def test_a_download_that_was_killed_leaves_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    raw = tmp_path / "mnist-lit" / "MNIST" / "raw"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        for how, code in (("die", -9), ("live", 0)):
            place = f"http://127.0.0.1:{server.server_port}"
            command = [sys.executable, "-c", DOWNLOAD, place, how]
            assert subprocess.run(command, cwd=tmp_path, check=False).returncode == code
            unfinished = [path for path in raw.iterdir() if path.name.startswith(UNFINISHED)]
            assert len(unfinished) == (how == "die")
    finally:
        server.shutdown()
        server.server_close()
    assert {path.name for path in raw.iterdir()} - {".lock"} == {f"{name}.gz" for name in DIGESTS}


@pytest.mark.usefixtures("no_network")
def test_without_files_and_network_a_line_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "site-packages" / "mnist_lit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"cannot be downloaded to .*name a folder") as caught:
        MNISTDataModule().setup("fit")
    assert "\n" not in str(caught.value)
    left = [path.name for path in (tmp_path / "mnist-lit" / "MNIST" / "raw").iterdir()]
    assert left == [".lock"], "no half of a download stays"


def test_what_is_in_the_cache_is_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "site-packages" / "mnist_lit")
    monkeypatch.chdir(tmp_path)
    root.rename(tmp_path / "mnist-lit")
    assert len(MNISTDataModule().images("test")) == 10_000
