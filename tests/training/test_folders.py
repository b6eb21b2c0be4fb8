"""Which folder a run gets, and how it is gone on with."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mnist_lit.evaluation.origin import override
from mnist_lit.files import UNFINISHED
from tests.conftest import TINY, Here

NAMED = (*TINY, "hydra.run.dir=run")


def test_runs_of_the_same_second_have_folders_of_their_own(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAY", "today")  # in place of the time, which a test cannot hold
    (tmp_path / "conf/local").mkdir(parents=True)
    own = "hydra:\n  run:\n    dir: outputs/${oc.env:DAY}\n"
    (tmp_path / "conf/local/default.yaml").write_text(f"# @package _global_\n{own}")
    for _ in range(2):
        done = here(*TINY, f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
        assert (done.returncode, done.stderr) == (0, "")
    runs = sorted((tmp_path / "outputs").iterdir())
    assert [run.name for run in runs] == ["today", "today-1"]
    assert all((run / "report.json").is_file() for run in runs)


def test_a_named_folder_holds_one_run(here: Here, tmp_path: Path) -> None:
    assert here(*NAMED).returncode == 0
    before = (tmp_path / "run" / "report.json").read_bytes()
    done = here(*NAMED, "seed=1")
    assert done.returncode == 1
    assert done.stderr == (
        "error: hydra.run.dir=run: another run lies there; give another folder, or go on with that "
        "run: ckpt_path=run\n"
    )
    assert (tmp_path / "run" / "report.json").read_bytes() == before


@pytest.mark.parametrize("name", ["run", 'ü "a" b=(c),\'d\\e\\'])
def test_a_run_goes_on_in_its_folder_whatever_its_name(
    here: Here, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    options = [*TINY, override("hydra.run.dir", folder), "logger=csv", "seed=3", "callbacks=plain"]
    assert here(*options).returncode == 0
    (folder / "report.json").unlink()
    killed = folder / "checkpoints" / f"{UNFINISHED}1.ckpt"
    killed.touch()
    done = here(override("ckpt_path", folder))
    assert not killed.exists()
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((folder / "report.json").read_text())
    assert (report["seed"], report["epochs"]) == (3, 2)
    with (folder / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    assert "val_accuracy" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_latest_is_the_newest_unfinished_run(here: Here, tmp_path: Path) -> None:
    assert here("ckpt_path=latest").stderr == (
        "error: ckpt_path=latest: there is no unfinished run below outputs/\n"
    )
    assert here(*TINY, "hydra.run.dir=outputs/day/a").returncode == 0
    day = tmp_path / "outputs/day"
    for name in ("b", "c"):
        shutil.copytree(day / "a", day / name)
    for name in ("a", "b"):
        (day / name / "report.json").unlink()
    (day / "b/checkpoints/last.ckpt").touch()
    assert here("ckpt_path=latest").returncode == 0
    assert (day / "b/report.json").is_file()
    assert not (day / "a/report.json").is_file()


def test_what_is_typed_is_what_is_meant() -> None:
    for text in ("/a/b", "/a b", "/it's", '/q"', "/back\\", "/a=b,(c)[d]{e}", "/~x", "/ü"):
        (word,) = shlex.split(shlex.quote(override("ckpt_path", Path(text))))
        assert OverridesParser.create().parse_override(word).value() == text


def test_a_folder_that_cannot_be_made_is_a_line(here: Here, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = here(*TINY, "hydra.run.dir=file/run")
    assert done.returncode == 1
    assert re.fullmatch(r"error: hydra.run.dir=.*: cannot be made: .*\n", done.stderr)


def test_a_file_of_yaml_that_cannot_be_read_is_named(here: Here, tmp_path: Path) -> None:
    broken = {"tab": "a:\n\tb: 1\n", "open": "a: {b: 1\n", "twice": "lr: 1\nlr: 2\n"}
    for name, text in broken.items():
        (tmp_path / "own" / "optimizer").mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / "optimizer" / f"{name}.yaml").write_text(text)
        done = here(f"hydra.searchpath=[file://{tmp_path / 'own'}]", f"optimizer={name}")
        assert done.returncode == 1
        assert re.match(rf"error: .*{name}.yaml.*, line \d: ", done.stderr), done.stderr
        assert done.stderr.count("\n") == 1
