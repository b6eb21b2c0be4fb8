"""The provenance of a run, in real repositories."""

import subprocess
from pathlib import Path

import pytest

from mnist_lit import folders
from mnist_lit.evaluation import provenance
from mnist_lit.text import masked


def git(place: Path, *arguments: str) -> str:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=place, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose code is the running one."""
    place = tmp_path / "a checkout"
    package = place / "src" / "mnist_lit"
    package.mkdir(parents=True)
    (package / "cli.py").write_text("print(1)\n\n\n")
    git(place, "init", "-q")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "first")
    monkeypatch.setattr(folders, "PACKAGE", package)
    return place


def test_a_clean_checkout_leaves_no_diff(checkout: Path, tmp_path: Path) -> None:
    (checkout / "comparison.html").write_text("made by a command\n")
    (checkout / "sweep" / "0" / ".hydra").mkdir(parents=True)
    for name in ("multirun.yaml", "0/.hydra/config.yaml"):
        (checkout / "sweep" / name).write_text("made: by a sweep\n")
    provenance.write(tmp_path)
    assert not (tmp_path / "changes.diff").exists()
    assert provenance.provenance("x")["git_commit"] == git(checkout, "rev-parse", "HEAD")[:12]


def test_what_was_changed_can_be_made_again_but_for_new_files_which_are_named(
    checkout: Path, tmp_path: Path
) -> None:
    (checkout / "mine.py").write_text("own = 1\n")
    assert provenance.provenance(None)["git_commit"].endswith("-dirty"), "a new file is a change"
    (checkout / "src/mnist_lit/cli.py").write_text("print('é')\n\n\n")
    (checkout / "notes.txt").write_text("of no account\n")
    before = git(checkout, "status", "--porcelain")
    provenance.write(tmp_path)
    assert git(checkout, "status", "--porcelain") == before
    commit = provenance.provenance(None)["git_commit"]
    assert commit is not None
    assert commit.endswith("-dirty")
    git(tmp_path, "clone", "-q", str(checkout), "again")
    git(tmp_path / "again", "apply", str(tmp_path / "changes.diff"))
    name = "src/mnist_lit/cli.py"
    assert (tmp_path / "again" / name).read_text() == (checkout / name).read_text()
    difference = (tmp_path / "changes.diff").read_text()
    assert difference.startswith("new file, not in this difference: mine.py\n")
    assert "notes.txt" not in difference


def test_an_installed_package_is_not_of_the_commit_around_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = checkout / "venv" / "mnist_lit"
    installed.mkdir(parents=True)
    (installed / "cli.py").touch()
    monkeypatch.setattr(folders, "PACKAGE", installed)
    assert provenance.provenance(None)["git_commit"] is None
    provenance.write(tmp_path)
    assert not (tmp_path / "changes.diff").exists()


@pytest.mark.parametrize("place", ["venv/lib", "src"])
def test_the_configuration_of_a_repository_around_an_installed_package_runs_nothing(
    place: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(checkout, "config", "core.fsmonitor", f"touch '{checkout}/ran'; false")
    git(checkout, "config", "diff.external", f"touch '{checkout}/ran'; false")
    installed = checkout / place / "mnist_lit"
    (installed / "conf").mkdir(parents=True, exist_ok=True)
    (installed / "cli.py").write_text("print(2)\n")
    monkeypatch.setattr(folders, "PACKAGE", installed)
    assert provenance.provenance(None)["git_commit"] is None
    assert not (checkout / "ran").exists()


def test_no_password_is_kept() -> None:
    typed = "python train.py logger.x.uri=https://me:secret@host/x seed=1"
    assert provenance.provenance(typed)["command"] == (
        "python train.py logger.x.uri=https://***@host/x seed=1"
    )


@pytest.mark.parametrize("typed", ["u:p/w@host/x", "u:p w@host/x", "u:p@w@host/x", ":w@host/x"])
def test_no_part_of_a_password_is_left(typed: str) -> None:
    address = f"search.storage=postgresql+psycopg://{typed}"
    assert masked(address) == "search.storage=postgresql+psycopg://***@host/x"


def test_no_password_is_left_in_a_query() -> None:
    for key in (
        "password",
        "passwd",
        "sslpassword",
        "PASS",
        "token",
        "access_token",
        "pwd",
        "apikey",
    ):
        assert masked(f"https://host/x?a=1&{key}=w/@w&b=2") == f"https://host/x?a=1&{key}=***&b=2"
    for harmless in ("sqlite:////home/me@work/a.db", "https://me@host:80/x?passfile=~/a&b=2"):
        assert masked(harmless) == harmless
