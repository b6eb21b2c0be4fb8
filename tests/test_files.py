"""Files and folders of other programs beside ours."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from mnist_lit import CompactCNN, cli, files
from mnist_lit.checkpoints import pretrained
from mnist_lit.errors import ConfigError, WriteError
from mnist_lit.evaluation import evaluate
from mnist_lit.sweeps import job
from mnist_lit.training import rundir


def test_drafts_of_others_stay(tmp_path: Path) -> None:
    names = ("thesis.md", "20260101-thesis.md", "novel")
    theirs = [tmp_path / f"{files.UNFINISHED}{name}" for name in names]
    theirs[0].write_text("chapter 1")
    theirs[1].write_text("chapter 2")
    theirs[2].mkdir()
    draft = tmp_path / f"{files.UNFINISHED}0123abcd.html"
    draft.touch()
    for path in (*theirs, draft):
        os.utime(path, (0, 0))
    files.write_text(tmp_path / "page.html", "done")
    assert sorted(tmp_path.iterdir()) == sorted([*theirs, tmp_path / "page.html"])


def test_a_sweep_within_a_sweep_has_its_own_jobs(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    for folder in (tmp_path / "0", inner / "0"):
        job.Job(folder, 0, [], {}, "").write()
    (inner / job.CONFIG).touch()
    assert [one.folder for one in job.jobs(tmp_path)] == [tmp_path / "0"]
    assert [one.folder for one in job.jobs(inner)] == [inner / "0"]


def test_a_folder_without_a_jobs_record_is_not_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / rundir.JOB).write_text(json.dumps({"name": "of another program"}))
    with pytest.raises(
        ConfigError, match=r"job\.json: not .*number: a value is missing.* another folder"
    ):
        job.read(tmp_path)


def test_a_sweep_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    kept = {"number": 0, "overrides": [], "config": {}, "state": "stopped", "error": None}
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / rundir.JOB).write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"0.job\.json: not .* this version .*state: no such key"):
        job.jobs(tmp_path)


REPORT = {
    **{"last_val_metrics": {}, "wall_seconds": 1.0, "protocol": "p", "passed": False},
    "requirements": {"dropout": {"passed": False, "title": "Uses Dropout"}},
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSONDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b"[1]", "Error"),
        (b'{"passed": true}', "KeyError: 'protocol'"),
        (json.dumps(REPORT | {"last_val_metrics": {"f1": "high"}}).encode(), "TypeError"),
        (json.dumps(REPORT | {"wall_seconds": None}).encode(), "TypeError"),
        (json.dumps(REPORT | {"requirements": [1]}).encode(), "AttributeError"),
    ],
)
def test_an_altered_report_of_a_job_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    config = {"optimized_metric": "val/f1", "requirements.enforce": True}
    job.Job(tmp_path / "0", 0, [], config).write()
    report = tmp_path / "0" / "report.json"
    for value, expected in ((0.5, 0.5), (None, math.nan), (math.inf, math.nan)):
        report.write_text(json.dumps(REPORT | {"last_val_metrics": {"f1": value}}))
        (one,) = job.jobs(tmp_path)
        assert (one.state, one.why) == (job.MISSED, "Uses Dropout")
        assert one.value(one.ranked_by) == pytest.approx(expected, nan_ok=True)
    report.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"0.report\.json: .*({words}).*; move it away, or"):
        job.jobs(tmp_path)
    report.unlink()
    (tmp_path / "0" / rundir.ERROR).write_bytes(b"{")
    with pytest.raises(ConfigError, match=r"error\.json: .*JSONDecodeError.*; move it away, or"):
        job.jobs(tmp_path)


def test_a_link_leads_to_no_job(tmp_path: Path) -> None:
    for sweep in ("mine", "theirs"):
        job.Job(tmp_path / sweep / "0", 0, [], {}).write()
    (tmp_path / "mine/1").symlink_to(tmp_path / "theirs/0")
    (tmp_path / "mine/2").mkdir()
    (tmp_path / "mine/2" / rundir.JOB).symlink_to(tmp_path / "theirs/0" / rundir.JOB)
    (tmp_path / "mine/latest").symlink_to(tmp_path / "mine/0")
    (tmp_path / "linked").symlink_to(tmp_path / "mine")
    for place in (tmp_path / "mine", tmp_path / "linked"):
        assert [one.folder for one in job.jobs(place)] == [tmp_path / "mine/0"]


@pytest.mark.usefixtures("few_images")
def test_an_export_of_a_folder_has_its_whole_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr0.1", "lr0.2"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        shutil.copy(pretrained.checkpoint_of("pico"), tmp_path / name / "checkpoints/best.ckpt")
    cli.main(["export", "lr0.1", "--to", "safetensors"])
    cli.main(["export", "lr0.2", "--to", "safetensors"])
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        "lr0.1.safetensors",
        "lr0.2.safetensors",
    }


def test_a_wide_network_reads_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = CompactCNN([{"channels": 5}, {"channels": 40, "kernel": 1}]).eval()
    images = torch.randint(256, (9, 1, 28, 28), dtype=torch.uint8)
    wanted = evaluate.classify(network, images)
    monkeypatch.setattr(evaluate, "MOST_NUMBERS", 3 * network.widest)
    given: list[int] = []
    network.register_forward_pre_hook(lambda _, arguments: given.append(len(arguments[0])))
    torch.testing.assert_close(evaluate.classify(network, images), wanted)
    assert given == [3, 3, 3]


def test_a_name_that_is_not_utf_8_is_written_with_question_marks(tmp_path: Path) -> None:
    files.write_text(tmp_path / "page.html", os.fsdecode(b"a\xff"))
    assert (tmp_path / "page.html").read_text() == "a?"


def test_a_read_only_file_stays(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("mine")
    page.chmod(0o444)
    for place in (page, tmp_path / "missing/../report.html"):
        with pytest.raises(WriteError, match=r"report\.html: cannot be written: it is read-only; "):
            files.write_text(place, "ours")
    assert page.read_text() == "mine"


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("private")
    page.chmod(0o600)
    files.write_text(page, "ours")
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "report.html").symlink_to(tmp_path / "mine")
    files.write_text(tmp_path / "report.html", "ours")
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / "link.html").symlink_to(tmp_path / "gone")
    assert files.named(tmp_path / "link.html") == f"{tmp_path / 'link.html'} (replaced)"
    assert not (tmp_path / "report.html").is_symlink()


def test_a_run_whose_checkpoint_is_given_by_a_link_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).touch()
    (tmp_path / "my.ckpt").symlink_to(folder / "best.ckpt")
    with pytest.raises(WriteError, match=r"last\.ckpt: cannot be written: an input"):
        files.named(folder / "last.ckpt", tmp_path / "my.ckpt")


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        *(("s/multirun.yaml", name) for name in ("study.db", "study.db-wal", "results.csv")),
        *(("s/multirun.yaml", name) for name in ("multirun.yaml", "results.html")),
        ("s/0/.mnist-lit/lock", "0/output.log"),
        ("s/checkpoints/r/.mnist-lit/lock", "checkpoints/r/report.json"),
        ("s/.mnist-lit/lock", "missing/../report.json"),
        *(("s/checkpoints/best.ckpt", name) for name in ("checkpoints/best.ckpt", "report.json")),
    ],
)
def test_a_file_of_a_sweep_or_an_earlier_run_is_protected(
    mark: str, name: str, tmp_path: Path
) -> None:
    for file in (tmp_path / mark, (tmp_path / "s" / name).resolve()):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with pytest.raises(WriteError, match="cannot be written: an input, or of a run; give another"):
        files.named(tmp_path / "s" / name)
