"""The page of a run, and of several."""

import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mnist_lit import compose
from mnist_lit.checkpoints import pretrained
from mnist_lit.cli import main
from mnist_lit.training.run import train
from tests.conftest import TINY


class Reader(HTMLParser):
    """Notes what a page refers to, its pictures and its words."""

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
    config = compose(*TINY, f"run_dir={place / 'run'}")
    folder = train(config, "python train.py <x>").run_dir.rename(place / "a <run>")
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return folder


SECTIONS = [
    *("Curves", "Learning rate", "Confusion", "Mistakes", "Calibration", "First layer"),
    "Augmentation",
]


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
        assert "996 parameters" in words
        assert "requirement asked is" in words
        assert re.search(r"max_parameters 20000 996 pass", words)
        assert re.search(r"min_val_accuracy 0.994 0\.\d+ FAIL", words)
        assert "batch_size: 64" in words
        assert "Where they differ" not in words
    assert f"{run}" in " ".join(Reader(made_again).words.split())


def test_a_shipped_model_has_what_is_known_of_it(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    main(["report", "final", "--output", str(file)])
    page = Reader(file.read_text(encoding="utf-8"))
    correct = pretrained.record("final")["test_correct"]
    assert f"{correct:,} of 10,000 test digits right" in " ".join(page.words.split())
    assert "Curves" not in page.pictures
    assert page.words.count("without the folder of their run") == 1
    assert "Requirements" not in page.words


def test_two_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    main(["compare", str(run), "final", "--output", str(file)])
    page = Reader(file.read_text(encoding="utf-8"))
    assert page.pictures.count("Confusion") == 2
    assert page.pictures.count("Curves") == 1
    assert page.words.count("Not known.") == len(["requirements", "config", *SECTIONS]) - 4
    words = " ".join(page.words.split())
    differ = re.search(r"final, and not by (\d+) –", words)
    assert differ is not None
    assert int(differ[1]) > 1000  # a network of ten batches reads far less


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
