"""Reading digits from people's pictures."""

import contextlib
import csv
import io
import json
import math
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

import mnist_lit
from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.cli import main
from mnist_lit.errors import PictureError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.inference.pictures import lay_out, open_picture, prepare, to_gray
from tests.conftest import ordinary_user
from tests.inference.photographs import photograph

PHOTOGRAPHS = 1000


@pytest.fixture(scope="module")
def digits(mnist: MNISTDataModule) -> np.ndarray:
    """Test digits, all of which ``final`` reads right: a 7, 2, 1, 0, 4 and so on."""
    return mnist.test.images[:40, 0].numpy()


@pytest.fixture(scope="module")
def labels(mnist: MNISTDataModule) -> list[int]:
    return mnist.test.labels[:40].tolist()


def paper_with(digit: np.ndarray, size: int = 300, light: int = 235, dark: int = 40) -> Image.Image:
    """Draw a digit as dark ink on light paper, off centre."""
    ink = np.asarray(
        Image.fromarray(digit).resize((size // 2, size // 2), Image.Resampling.BICUBIC)
    )
    paper = np.full((size, size), light, np.float32)
    paper[size // 8 : size // 8 + size // 2, size // 3 : size // 3 + size // 2] -= (
        ink / 255 * (light - dark)
    )
    return Image.fromarray(paper.clip(0, 255).astype(np.uint8))


def read(picture: Image.Image | np.ndarray | torch.Tensor) -> int:
    return mnist_lit.predict(picture, device="cpu")[0].digit


def test_every_image_of_mnist_passes_through_unchanged(mnist: MNISTDataModule) -> None:
    images = torch.cat([mnist.test.images[:2000], mnist.train.images[:2000]])[:, 0].numpy()
    for image in images:
        assert np.array_equal(prepare(Image.fromarray(image)), image)


def test_photographs_are_read_right(mnist: MNISTDataModule) -> None:
    """A thousand test digits, blown up, turned, on uneven noisy paper or a board, as JPEG."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(10_000, PHOTOGRAPHS, replace=False)
    pictures = [
        Image.open(io.BytesIO(photograph(mnist.test.images[i, 0].numpy(), rng))) for i in chosen
    ]
    found = mnist_lit.predict(pictures, device="cpu")
    wanted = mnist.test.labels[torch.from_numpy(chosen)].tolist()
    right = sum(p.digit == label for p, label in zip(found, wanted, strict=True))
    assert right >= 0.985 * PHOTOGRAPHS


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
def test_formats(suffix: str, digits: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    file = tmp_path / f"digit.{suffix}"
    paper_with(digits[0]).save(file)
    assert mnist_lit.predict(file)[0].digit == labels[0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK", "1"])
def test_modes(mode: str, digits: np.ndarray, labels: list[int]) -> None:
    for digit, label in zip(digits[:5], labels, strict=False):
        assert read(paper_with(digit).convert(mode)) == label


def test_sixteen_bits(digits: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    deep = np.asarray(paper_with(digits[1])).astype(np.uint16) * 257
    file = tmp_path / "deep.png"
    Image.fromarray(deep).save(file)
    assert mnist_lit.predict(file)[0].digit == labels[1]


@pytest.mark.parametrize("colour", ["black", "white"])
def test_ink_on_nothing_is_seen(colour: str, digits: np.ndarray, labels: list[int]) -> None:
    drawn = Image.new("RGBA", (28, 28), colour)
    drawn.putalpha(Image.fromarray(digits[1]))
    assert read(drawn.resize((200, 200))) == labels[1]


def test_a_camera_held_sideways(digits: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    upright = paper_with(digits[4])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it upright
    file = tmp_path / "sideways.jpg"
    upright.rotate(90, expand=True).save(file, exif=exif)
    assert mnist_lit.predict(file)[0].digit == labels[4]


def test_light_on_dark_is_prepared_as_dark_on_light_is(digits: np.ndarray) -> None:
    for digit in digits[:10]:
        paper = paper_with(digit)
        board = Image.fromarray(255 - np.asarray(paper))
        difference = prepare(paper).astype(int) - prepare(board).astype(int)
        assert abs(difference).max() <= 8


def test_ruled_paper_and_a_hard_shadow(digits: np.ndarray, labels: list[int]) -> None:
    for digit, label in zip(digits[:10], labels, strict=False):
        picture = paper_with(digit, 600)
        draw = ImageDraw.Draw(picture)
        for y in range(30, 600, 75):
            draw.line([(0, y), (600, y + 6)], fill=130, width=3)
        shaded = np.asarray(picture).astype(np.float32)
        shaded[:, 420:] *= 0.6
        assert read(Image.fromarray(shaded.astype(np.uint8))) == label


def weave(size: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return np.sign(np.sin(x * (120 * math.pi / size)) * np.sin(y * (120 * math.pi / size)))


def grain(size: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(size, size))
    wood = ndimage.gaussian_filter(noise, (size / 200, size / 10))
    return wood / wood.std()


def creases(size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size]
    paper = np.zeros((size, size))
    for angle, place in zip(rng.uniform(0, math.pi, 6), rng.uniform(0, size, 6), strict=True):
        away = (x * math.cos(angle) + y * math.sin(angle) - place) / size
        paper += np.tanh(100 * away) * np.exp(-15 * abs(away))
    return paper


@pytest.mark.parametrize("texture", [weave, grain, creases])
def test_textured_paper(
    texture: Callable[[int], np.ndarray], digits: np.ndarray, labels: list[int]
) -> None:
    pattern = 12 * texture(400)
    papers = [np.asarray(paper_with(digit, 400)) * (1 + pattern / 235) for digit in digits[:20]]
    pictures = [Image.fromarray(paper.clip(0, 255).astype(np.uint8)) for paper in papers]
    assert [read(picture) for picture in pictures] == labels[:20]


def test_strokes_of_every_width_are_laid_out() -> None:
    for width in range(1, 14):
        for length in range(30, 150):
            ink = np.zeros((160, 160), np.float32)
            ink[5 : 5 + length, 60 : 60 + width] = 1
            laid = lay_out(ink)
            assert laid.any(axis=1).sum() == 20
            assert laid.max() == 255


def test_arrays_and_tensors_of_every_layout(digits: np.ndarray, labels: list[int]) -> None:
    batch = np.stack([np.asarray(paper_with(digit)) for digit in digits[:5]])
    colour = np.repeat(batch[..., None], 3, axis=-1)
    tensor = torch.from_numpy(colour).movedim(-1, -3)
    for images in (
        batch,
        list(batch),
        batch / 255,
        colour,
        tensor,
        tensor.float() / 255,
        torch.from_numpy(batch),
        torch.from_numpy(batch)[:, None],
    ):
        assert [p.digit for p in mnist_lit.predict(images)] == labels[:5]
    assert read(batch[0]) == read(tensor[0]) == labels[0]
    with pytest.raises(PictureError, match=r"picture 0: floats from 40 to 235; 0 to 1"):
        mnist_lit.predict(batch[0].astype(float))
    with pytest.raises(PictureError, match=r"picture 1: no digit to be seen"):
        mnist_lit.predict([batch[0], np.full((50, 50), 200, np.uint8)])


def test_predictions_are_those_of_the_network(mnist: MNISTDataModule) -> None:
    found = mnist_lit.predict(mnist.test.images[:20], device="cpu")
    wanted = classify(mnist_lit.load_pretrained("final"), mnist.test.images[:20]).softmax(dim=1)
    got = torch.tensor([p.probabilities for p in found])
    torch.testing.assert_close(got, wanted)
    assert MNIST.normalize(mnist.test.images[:1]).shape == (1, 1, 28, 28)
    digit, probability = found[0].top(3)[0]
    assert digit == found[0].digit
    assert probability == max(found[0].probabilities)


@pytest.fixture
def folder(digits: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, digit in enumerate(digits[:4]):
        paper_with(digit).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_the_command_reads_files_folders_and_patterns(
    folder: Path, labels: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", "final", str(folder), "--json", "--top", "3"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["digit"] for row in rows] == labels[:4]
    assert [Path(row["file"]).name for row in rows] == [f"{n}.png" for n in range(4)]
    assert all(len(row["top"]) == 3 for row in rows)
    main(["predict", "final", str(folder / "[01].png"), str(folder / "0.png"), "--csv"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["digit_1"]) for row in table] == labels[:2]
    main(["predict", "final", str(folder / "2.png")])
    words = capsys.readouterr().out.split()
    assert words[:2] == [str(folder / "2.png"), str(labels[2])]


def test_the_sheet_shows_them(folder: Path, tmp_path: Path) -> None:
    main(["predict", "final", str(folder), "--show", str(tmp_path / "sheet.png")])
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    assert 0.02 < (pixels < 128).mean() < 0.7


def bomb(path: Path) -> None:
    """Write a PNG that says it has 60,000×60,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    )


def test_each_bad_file_gets_a_line_and_the_others_are_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "0.png").read_bytes()
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    Image.new("L", (100, 100), 250).save(folder / "blank.png")
    noise = np.random.default_rng(0).normal(200, 10, (200, 200)).clip(0, 255)
    Image.fromarray(noise.astype(np.uint8)).save(folder / "noise.png")
    Image.new("L", (20_000, 30), 255).save(folder / "wide.png")
    frames = [Image.new("L", (50, 50), shade) for shade in (0, 100, 200)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    bomb(folder / "bomb.png")
    with pytest.raises(SystemExit) as exit_:
        main(["predict", "final", str(folder), str(folder / "none.png"), "--json"])
    assert exit_.value.code == 1
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 4
    lines = {line.split(": ")[1].rpartition("/")[2]: line for line in err.splitlines()}
    wanted = {
        "text.png": "not an image",
        "cut.png": "damaged or cut off",
        "empty.png": "an empty file",
        "blank.png": "no digit to be seen",
        "noise.png": "no digit to be seen",
        "wide.png": "20,000×30 pixels",
        "moving.gif": "3 frames",
        "bomb.png": "pixels",
        "none.png": "no such file",
    }
    assert set(lines) == set(wanted)
    for name, words in wanted.items():
        assert words in lines[name]
    assert all(line.startswith("error: ") for line in lines.values())


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "webp", "bmp"])
def test_a_damaged_file_is_read_or_refused_in_words(
    suffix: str, digits: np.ndarray, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / f"digit.{suffix}"
    paper_with(digits[0], 60).save(file)
    whole = file.read_bytes()
    for _ in range(40):
        damaged = bytearray(whole)
        for position in rng.integers(len(whole), size=4):
            damaged[position] = int(rng.integers(256))
        file.write_bytes(damaged[: int(rng.integers(len(whole) // 2, len(whole) + 1))])
        with contextlib.suppress(PictureError):
            assert prepare(open_picture(file)).shape == (28, 28)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 3), (2000, 4)])
def test_pictures_too_small_for_a_digit_are_blank_or_read(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError, match="no digit to be seen"):
        prepare(Image.new("L", size, 200))
    noise = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    with contextlib.suppress(PictureError):
        assert prepare(Image.fromarray(noise)).shape == (28, 28)


def test_a_file_that_may_not_be_read(digits: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are for their owner alone
        Path(place).chmod(0o755)
        picture = Path(place) / "0.png"
        paper_with(digits[0]).save(picture)
        with ordinary_user():
            open_picture(picture)
        picture.chmod(0)
        with ordinary_user(), pytest.raises(PictureError) as caught:
            open_picture(picture)
    assert str(caught.value) == f"{picture}: no permission to read it"


def test_a_sheet_is_refused_a_name_before_anything_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "final", str(folder), "--show", "sheet.txt"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "'sheet.txt': a name that ends in .png is expected" in printed.err


def test_nothing_to_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "final", str(tmp_path), str(tmp_path / "*.png")])
    err = capsys.readouterr().err
    assert "no pictures in this folder" in err
    assert "no file matches" in err


def test_many_files_are_prepared_by_several_processes(
    digits: np.ndarray, labels: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(80):
        Image.fromarray(digits[number % 40]).save(tmp_path / f"{number:03}.png")
    (tmp_path / "041.png").write_text("broken")
    with pytest.raises(SystemExit):
        main(["predict", "final", str(tmp_path), "--json"])
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [row["digit"] for row in rows] == [labels[n % 40] for n in range(80) if n != 41]
    assert "041.png" in err


def test_a_gray_level_is_what_the_pixel_has() -> None:
    picture = Image.fromarray(np.array([[0, 128, 255]], np.uint8))
    np.testing.assert_allclose(to_gray(picture), [[0, 128 / 255, 1]], rtol=1e-6)


def test_open_picture_returns_all_pixels(folder: Path) -> None:
    assert open_picture(folder / "0.png").size == (300, 300)
