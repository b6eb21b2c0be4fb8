"""Reading people's files: pages, telephones' photographs, standard input."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import mnist_lit
from mnist_lit import MNISTDataModule
from mnist_lit.cli import main
from mnist_lit.errors import PictureError
from mnist_lit.inference import files
from mnist_lit.inference.files import open_picture
from tests.conftest import PROGRAM
from tests.inference.test_prediction import paper_with

pillow_heif = pytest.importorskip("pillow_heif")
pytest.importorskip("pypdfium2")


@pytest.fixture(scope="module")
def papers(mnist: MNISTDataModule) -> list[Image.Image]:
    """A 7, a 2 and a 1 on paper."""
    return [paper_with(digit) for digit in mnist.test.images[:3, 0].numpy()]


def in_one_file(papers: list[Image.Image], path: Path) -> Path:
    # Saving a PDF leaves settings in the image, which a TIFF would then use.
    first, *others = (paper.copy() for paper in papers)
    first.save(path, save_all=True, append_images=others)
    return path


def answers(capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[str, int]]:
    for row in json.loads(capsys.readouterr().out):
        yield row["file"].rpartition("/")[2], row["digit"]


@pytest.mark.parametrize("ending", ["tiff", "pdf"])
def test_every_page_is_read(
    ending: str, papers: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_one_file(papers, tmp_path / f"scan.{ending}")
    main(["predict", "final", str(path), "--json", "--show", str(tmp_path / "sheet.png")])
    wanted = [(f"scan.{ending}#{n}", digit) for n, digit in ((1, 7), (2, 2), (3, 1))]
    assert list(answers(capsys)) == wanted
    assert open_picture(tmp_path / "sheet.png").size[0] > 500
    found = mnist_lit.predict(mnist_lit.pages(str(path)), device="cpu")
    assert [one.digit for one in found] == [7, 2, 1]
    with path.open("rb") as file:
        assert len(list(mnist_lit.pages(file))) == 3
    with pytest.raises(PictureError, match=rf"scan\.{ending}: .* pages; read them with pages\(\)"):
        mnist_lit.predict(path, device="cpu")


@pytest.mark.parametrize("ending", ["tiff", "pdf"])
def test_a_file_of_one_page_is_a_picture(
    ending: str, papers: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_one_file(papers[:1], tmp_path / f"scan.{ending}")
    main(["predict", "final", str(path), "--json"])
    assert list(answers(capsys)) == [(f"scan.{ending}", 7)]
    assert mnist_lit.predict(path, device="cpu")[0].digit == 7


@pytest.mark.parametrize("ending", ["tiff", "pdf"])
def test_a_page_without_a_digit_is_named_and_the_others_are_read(
    ending: str, papers: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = Image.new("L", (300, 300), 255)
    path = in_one_file([papers[0], blank, papers[1]], tmp_path / f"scan.{ending}")
    with pytest.raises(SystemExit) as exit_:
        main(["predict", "final", str(path)])
    assert exit_.value.code == 1
    out, err = capsys.readouterr()
    assert [line.split()[0].rpartition("#")[2] for line in out.splitlines()] == ["1", "3"]
    assert f"scan.{ending}#2: no digit found" in err


def test_a_damaged_page_does_not_lose_those_before_it(
    papers: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_one_file(papers, tmp_path / "scan.tiff")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(SystemExit):
        main(["predict", "final", str(path)])
    out, err = capsys.readouterr()
    assert "scan.tiff#1  7" in out
    assert "scan.tiff: cannot be read: " in err


def test_the_number_of_pages_is_bounded(
    papers: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_PAGES", 2)
    for ending in ("tiff", "pdf"):
        found = mnist_lit.pages(in_one_file(papers, tmp_path / f"scan.{ending}"))
        assert next(found).size
        assert next(found).size
        with pytest.raises(PictureError, match="more than 2 pages"):
            next(found)


def test_the_pixels_of_all_pages_together_are_bounded(
    papers: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = papers[0].width * papers[0].height
    monkeypatch.setattr(files, "MAX_PIXELS", int(2.5 * one))
    found = mnist_lit.pages(in_one_file(papers, tmp_path / "scan.tiff"))
    assert next(found).size == next(found).size == papers[0].size
    with pytest.raises(PictureError, match=r"scan\.tiff: 300×300 pixels; .* save fewer pages"):
        next(found)
    drawn = list(mnist_lit.pages(in_one_file(papers, tmp_path / "scan.pdf")))
    assert 2.4 * one < sum(page.width * page.height for page in drawn) < 2.6 * one


def test_white_pages_end_soon(tmp_path: Path) -> None:
    """150 pages of a telephone's scanner, and a small PDF of 300 pages: 50 of each are read."""
    small = [Image.new("1", (200, 300), 1)] * 150
    for path in (in_one_file(small, tmp_path / "a.tiff"), in_one_file(small, tmp_path / "a.pdf")):
        with pytest.raises(PictureError, match="more than 50 pages"):
            list(mnist_lit.pages(path))
    large = in_one_file([Image.new("1", (2_480, 3_508), 1)] * 30, tmp_path / "b.tiff")
    start = time.process_time()
    with pytest.raises(PictureError, match=r"2,480×3,508 pixels; at most 36 million"):
        list(mnist_lit.pages(large))
    assert time.process_time() - start < 3


@pytest.mark.parametrize("box", ["1 2000000000", "2000000000 1", "14400 14400"])
def test_a_page_of_any_size_is_drawn_within_the_bound(box: str) -> None:
    content = encrypted_pdf().replace(b"0 0 9 9", b"0 0 " + box.encode())
    content = content[: content.index(b"trailer")] + b"trailer<</Root 1 0 R>>\n%%EOF"
    (page,) = mnist_lit.pages(content)
    assert page.width * page.height < 1.01 * files.MAX_PIXELS
    assert max(page.size) <= files.MAX_SIDE + 1


def test_a_telephones_fifty_megapixels_are_read(papers: list[Image.Image], tmp_path: Path) -> None:
    papers[0].resize((8_160, 6_144)).save(tmp_path / "photo.jpg")
    page = open_picture(tmp_path / "photo.jpg")
    assert page.width * page.height < 4_000_000
    assert mnist_lit.predict(tmp_path / "photo.jpg", device="cpu")[0].digit == 7


def test_a_large_page_is_drawn_smaller(papers: list[Image.Image], tmp_path: Path) -> None:
    """A square metre: 62 million pixels at 200 dots an inch."""
    sheet = Image.new("L", (2000, 2000), 255)
    sheet.paste(papers[0].resize((900, 900)), (500, 400))
    sheet.save(tmp_path / "poster.pdf", resolution=50.8)
    (page,) = mnist_lit.pages(tmp_path / "poster.pdf")
    assert 0.9 * files.MAX_PIXELS < page.width * page.height <= 1.01 * files.MAX_PIXELS
    assert mnist_lit.predict(page, device="cpu")[0].digit == 7


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_telephones_heic_is_read_upright(
    turn: int, papers: list[Image.Image], tmp_path: Path
) -> None:
    stored = {1: 0, 3: 180, 6: 90, 8: 270}[turn]
    sideways = papers[0].convert("RGB").rotate(stored, expand=True)
    exif = Image.Exif()
    exif[274] = turn
    path = tmp_path / "IMG_0001.HEIC"
    pillow_heif.from_pillow(sideways).save(path, exif=exif.tobytes(), quality=80)
    upright = np.asarray(open_picture(path).convert("L"), dtype=float)
    drawn = np.asarray(papers[0], dtype=float)
    assert np.corrcoef(upright.ravel(), drawn.ravel())[0, 1] > 0.98
    assert mnist_lit.predict(path, device="cpu")[0].digit == 7


def test_of_a_folder_heic_is_read_and_pdf_passed_over(
    papers: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_one_file(papers, tmp_path / "scan.pdf")
    pillow_heif.from_pillow(papers[1].convert("RGB")).save(tmp_path / "b.heic")
    papers[0].save(tmp_path / "a.png")
    main(["predict", "final", str(tmp_path), "--json"])
    assert list(answers(capsys)) == [("a.png", 7), ("b.heic", 2)]


def test_standard_input_is_read(
    papers: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = in_one_file(papers[:1], tmp_path / "scan.png").read_bytes()
    command = [PROGRAM, "predict", "final", "-", "--json"]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    found = [(row["file"], row["digit"]) for row in json.loads(done.stdout)]
    assert found == [("-", 7)]
    pages = in_one_file(papers[:2], tmp_path / "scan.pdf").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pages)))
    main(["predict", "final", "-", "--json"])
    assert list(answers(capsys)) == [("-#1", 7), ("-#2", 2)]


def test_an_empty_standard_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(SystemExit):
        main(["predict", "final", "-"])
    assert capsys.readouterr().err == "error: standard input: an empty file\n"


def encrypted_pdf() -> bytes:
    """Return a PDF with an unknown password."""
    key = b"<" + b"42" * 32 + b">"
    lock = b"<</Filter/Standard/V 1/R 2/P -4/O " + key + b"/U " + key + b">>"
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n"
        b"trailer<</Root 1 0 R/ID[<41><41>]/Encrypt " + lock + b">>\n%%EOF"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encrypted_pdf(), "Incorrect password"),
        (b"%PDF-1.7\nnothing", "cannot be read: "),
        (b"\0\0\0\x18ftypheic" + bytes(40), "not an image that can be read|cannot be read: "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(content: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        open_picture(content)


@pytest.mark.parametrize(
    ("module", "content"),
    [("pypdfium2", b"%PDF-1.7"), ("pillow_heif", b"\0\0\0\x18ftypheic" + bytes(40))],
)
def test_without_the_extra_the_remedy_is_named(
    module: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, module, missing)
    with pytest.raises(PictureError, match=rf"{module} is .*'mnist-lit\[pictures\]'"):
        open_picture(content)


def test_pages_of_what_has_none_is_the_picture(papers: list[Image.Image], tmp_path: Path) -> None:
    ImageOps.invert(papers[0]).save(tmp_path / "a.png")
    assert len(list(mnist_lit.pages(tmp_path / "a.png"))) == 1
    with pytest.raises(PictureError, match="No such file"):
        list(mnist_lit.pages(tmp_path / "none.tiff"))
