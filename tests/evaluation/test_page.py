"""The page of a run, and of several."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mnist_lit import MNISTDataModule, compose, folders
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import read_file
from mnist_lit.cli import main
from mnist_lit.errors import UserError
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.evaluation.history import Epoch, History
from mnist_lit.evaluation.page import open_subject, page, render
from mnist_lit.training.train import train
from tests.conftest import TINY


class Reader(HTMLParser):
    """Collects the references, pictures and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [v for k, v in given.items() if k in ("src", "href") and v is not None]
        if tag == "img":
            self.pictures.append(given["alt"] or "")

    def handle_data(self, data: str) -> None:
        self.words += f"{data} "


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    config = compose(*TINY, "test=true", f"run_dir={place / 'run'}")
    return train(config, "python train.py <x>").run_dir.rename(place / "a <run>")


SECTIONS = ["Curves", "Learning rate", "Calibration", "First layer", "Augmentation"]


def test_a_run_becomes_one_file(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "page.html"
    main(["report", str(run), "--output", str(file)])
    made_again = file.read_text(encoding="utf-8")
    left_by_the_run = (run / "report.html").read_text(encoding="utf-8")
    for text in (made_again, left_by_the_run):
        page = Reader(text)
        assert all(link.startswith("data:image/png;base64,") for link in page.links)
        assert page.pictures == SECTIONS
        words = " ".join(page.words.split())
        assert words.startswith("nano, seed 0")
        assert "python train.py <x>" in words
        assert f"{date.today()}" in words
        assert "990 parameters" in words
        assert "Parameters < 20,000 990 pass" in words
        assert re.search(r"Validation Accuracy ≥ 99.4% \d+\.\d+% FAIL", words)
        assert "data.batch_size: 64" in words
        assert "metrics: {} " in words
        assert "requirements.min_val_accuracy: 0.994" in words
        assert "${" not in words
        assert words.count("Good: ") == len(SECTIONS) + len(["confusion", "mistakes"])
        assert "most often mistaken for" in words
        assert "Where they differ" not in words
    assert f"{run}" in " ".join(Reader(made_again).words.split())


def test_a_shipped_model_has_what_is_known_of_it(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    main(["report", "nano", "--output", str(file)])
    page = Reader(file.read_text(encoding="utf-8"))
    correct = pretrained.record("nano")["test_correct"]
    assert f"{correct:,} of 10,000 test digits right" in " ".join(page.words.split())
    assert "Curves" not in page.pictures
    assert " ".join(page.words.split()).count("only of the folder of a run") == 1
    assert "Requirements" not in page.words


@pytest.mark.usefixtures("few_images")
def test_two_are_compared_by_their_names(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    main(["compare", str(run), "final", "--output", str(file)])
    page = Reader(file.read_text(encoding="utf-8"))
    assert page.pictures == ["Curves"]
    words = " ".join(page.words.split())
    assert "Not known" not in words
    differ = re.search(
        r"that of a column does not\. nano, seed 0 final nano, seed 0 – \d+ final (\d+) –", words
    )
    assert differ is not None
    assert int(differ[1]) > 100  # of 1,000; a network of ten batches reads far less


@pytest.mark.usefixtures("few_images")
def test_ten_have_a_row_each_and_what_their_configs_differ_in(run: Path) -> None:
    one, shipped = open_subject(str(run)), open_subject("nano")
    assert one.report is not None
    config = {**one.report["config"], "optimizer.lr": 0.123, "logger.csv.save_dir": "elsewhere"}
    other = replace(one, report={**one.report, "config": config})
    text = page([one, other, *8 * [shipped]])
    words = " ".join(Reader(text).words.split())
    assert words.startswith("nano, seed 0; nano, seed 0; nano; nano;")
    assert re.search(r" 10 nano \d+\.\d+% 0\.\d+ 990 Trainings", words)
    differ = (
        r"value: networks optimizer\.lr 0\.\d+ : 1 nano, seed 0 0\.123 : 2 nano, seed 0 The page"
    )
    assert re.search(differ, words)
    assert "elsewhere" not in words


def reported(**changed: Any) -> Callable[[Path], object]:
    """Change keys of report.json; None removes a key."""

    def change(folder: Path) -> None:
        file = folder / "report.json"
        content = {**json.loads(file.read_text(encoding="utf-8")), **changed}
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def written(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "report.json").write_bytes(content)


def recorded(**changed: Any) -> Callable[[Path], object]:
    """Change the History of last.ckpt; keys that begin with e belong to its first epoch."""

    def change(folder: Path) -> None:
        last = folder / "checkpoints" / "last.ckpt"
        content = read_file(last)
        history = content["callbacks"]["History"]
        history["epochs"][0] |= {k[2:]: v for k, v in changed.items() if k.startswith("e_")}
        history |= {k: v for k, v in changed.items() if not k.startswith("e_")}
        torch.save(content, last)

    return change


def unlike(name: str, content: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        torch.save(content, folder / "checkpoints" / f"{name}.ckpt")

    return change


def is_folder(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(written(text) for text in (b"", b"[]", b"3", b'"a"', b"null", b"[" * 10**5)),
        *(written(text) for text in (b'{"model": "\xff"}', "{}".encode("utf-16"))),
        written(b'{"seed": ' + b"9" * 5000 + b"}"),
        lambda folder: os.truncate(folder / "report.json", 2**31),
        is_folder("report.json"),
        reported(model=None),
        *(recorded(e_train_loss=value) for value in (float("nan"), "x", 1e308, True)),
        *(recorded(e_val_count=number) for number in (0, None, -1)),
        *(recorded(epochs="abc"), recorded(epochs=[{}]), recorded(epochs=[])),
        *(recorded(learning_rates=rates) for rates in ([0.1], 5, torch.zeros(2, 2))),
        recorded(learning_rates=torch.zeros(1).double().expand(10**9)),
        recorded(another=1),
        *(unlike("last", {"callbacks": [1]}), unlike("last", {"callbacks": {"History": []}})),
        *(unlike("last", {}), unlike("last", [])),
        *(is_folder(f"checkpoints/{name}.ckpt") for name in ("best", "last")),
        unlike("best", {"state_dict": {}}),
        lambda folder: os.truncate(folder / "checkpoints" / "last.ckpt", 500),
    ],
)
def test_an_altered_folder_is_a_line(
    run: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    for part in ("report.json", "checkpoints"):
        copy: Callable[..., object] = shutil.copytree if (run / part).is_dir() else shutil.copy
        copy(run / part, tmp_path / part)
    change(tmp_path)
    with pytest.raises(UserError, match="not the folder of a finished run") as caught:
        open_subject(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        *(reported(**{k: None}) for k in ("seed", "requirements", "protocol", "device")),
        *(reported(**{k: "x"}) for k in ("wall_seconds", "test_metrics", "requirements")),
        *(reported(requirements={"a": one}) for one in (1, {}, {"limit": 1})),
        *(reported(test_metrics=one) for one in ({"f1": 0.5}, [1])),
        reported(date=5),
        *(reported(**{k: 10**400}) for k in ("peak_learning_rate", "config", "optimizer")),
    ],
)
def test_a_report_that_no_run_wrote_is_a_line(
    run: Path, tmp_path: Path, mnist: MNISTDataModule, change: Callable[[Path], object]
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    change(folder)
    subject = open_subject(str(folder))
    found = evaluate(subject.trained.network, mnist.test.subset(torch.arange(10)))
    with pytest.raises(UserError, match=r"run: report\.json is not as a run leaves it: [^\n]+$"):
        render([subject], [found], [{}])


@pytest.mark.usefixtures("few_images")
def test_what_is_not_to_be_read_beside_report_and_checkpoints_is_left_out(
    run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    is_folder("figures/augmentation.png")(folder)
    reported(test_metrics={"f1": float("nan")}, val_metrics={"f1": 0.5}, wall_seconds=1)(folder)
    recorded(e_train_loss=-1.0, e_val_loss=0.0, e_epoch=10**6)(folder)
    recorded(learning_rates=torch.zeros(0))(folder)
    main(["report", str(folder), "--output", str(tmp_path / "page.html")])
    page = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Augmentation" not in page.pictures
    assert "f1 nan (validation 0.5000)" in " ".join(page.words.split())


def test_a_strangers_links_and_what_is_no_picture_stay_out(run: Path, tmp_path: Path) -> None:
    folder, secret = shutil.copytree(run, tmp_path / "run"), tmp_path / "secret"
    picture = folder / "figures" / "augmentation.png"
    picture.rename(secret)
    picture.symlink_to(secret)
    assert not open_subject(str(folder)).pictures
    picture.unlink()
    picture.write_text("no picture")
    assert not open_subject(str(folder)).pictures
    (folder / "report.json").unlink()
    (folder / "report.json").symlink_to(run / "report.json")
    with pytest.raises(UserError, match="not the folder of a finished run"):
        open_subject(str(folder))


def test_rates_survive_a_checkpoint() -> None:
    rates = [0.1, 1 / 3, 2e-45]
    history = History([Epoch(1, 0.1, None, None, None, 0.1, 2.0)], rates, 5, 1.0)
    assert History.of({"callbacks": {"History": history.plain()}}) == history


@pytest.mark.usefixtures("few_images")
def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        (tmp_path, "not the folder of a finished run"),
        (tmp_path / "none.ckpt", "not there"),
        ("finale", "no such network"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            main(["report", str(wrong), "--output", str(tmp_path / "page.html")])
    with pytest.raises(SystemExit, match=r"error: .*cannot be written"):
        main(["report", "final", "--output", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_the_page_has_the_accuracy_of_the_last_epoch(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"last epoch: <b>{report['last_val_accuracy']:.2%}</b>" in page
    assert f"{report['optimizer']}, highest rate {report['peak_learning_rate']:.3g}" in page


LABELS = "t10k-labels-idx1-ubyte.gz"


def test_an_output_is_never_an_input(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, link, picture = tmp_path / "x.ckpt", tmp_path / "link.html", tmp_path / "seven.png"
    shutil.copy(pretrained.checkpoint_of("nano"), theirs)
    link.symlink_to(theirs)
    Image.new("L", (28, 28)).save(picture)
    best, report = run / "checkpoints" / "best.ckpt", run / "report.json"
    data = tmp_path / "images"
    data.mkdir()
    (data / LABELS).write_bytes(b"theirs")
    default = tmp_path / "data" / "MNIST" / "raw" / LABELS
    default.parent.mkdir(parents=True)
    default.write_bytes(b"the default's")
    monkeypatch.setattr(folders, "data", lambda: tmp_path / "data")
    files = theirs, picture, best, report, data / LABELS, default
    read = {file: file.read_bytes() for file in files}
    for words, output in (
        (["export", str(theirs), "--to", "torch"], theirs),
        (["export", str(theirs), "--to", "torch"], link),
        (["export", str(link), "--to", "torch"], theirs),
        (["export", str(run), "--to", "torch"], best),
        (["report", str(theirs)], theirs),
        (["report", str(run)], run / "run.log"),
        (["report", "nano", "--data-root", str(data)], data / LABELS),
        (["export", "nano", "--to", "torch", "--data-root", str(data)], data / LABELS),
        (["report", "nano"], default),
        (["compare", "nano", "pico"], default),
        (["export", "nano", "--to", "torch"], default),
        (["report", str(best)], report),
        (["report", "nano"], report),
        (["export", "nano", "--to", "torch"], best),
        (["export", str(best), "--to", "torch"], report),
        (["report", str(run)], best),
        (["report", str(run)], report),
        (["compare", "final", str(run)], run / "checkpoints" / "last.ckpt"),
        (["compare", str(run), str(theirs)], link),
        (["predict", "nano", str(picture)], picture),
        (["predict", "nano", str(tmp_path)], picture),
    ):
        option = "--show" if words[0] == "predict" else "--output"
        with pytest.raises(
            SystemExit, match=r"error: .*: an input, or of a run; give another name"
        ):
            main([*words, option, str(output)])
    with pytest.raises(SystemExit, match="an input"):
        main(["report", "nano", "--output", str(pretrained.checkpoint_of("nano"))])
    assert {file: file.read_bytes() for file in read} == read
    assert link.is_symlink()
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.usefixtures("few_images")
def test_a_file_that_is_replaced_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in (
        ("nano.safetensors", ["export", "nano", "--to", "safetensors", "--output"]),
        ("page.html", ["report", "nano", "--output"]),
    ):
        (tmp_path / name).write_text("older")
        main([*words, str(tmp_path / name)])
        assert capsys.readouterr().out.startswith(f"{tmp_path / name} (replaced)")
    monkeypatch.chdir(tmp_path)
    Path("index.safetensors").write_text("mine")
    Path("model.ckpt").symlink_to("index.ckpt")
    Path("index.ckpt").write_bytes(pretrained.checkpoint_of("nano").read_bytes())
    main(["export", "./model.ckpt", "--to", "safetensors"])
    assert Path("index.safetensors").read_text() == "mine", "a link does not choose the output"
    picture, sheet = tmp_path / "7.png", tmp_path / "sheet.png"
    Image.fromarray(255 - MNISTDataModule().images("test").images[0, 0].numpy()).save(picture)
    for said in ("", " (replaced)"):
        main(["predict", "nano", str(picture), "--show", str(sheet)])
        assert f"{sheet}{said}\n" in capsys.readouterr().err
