"""Reading digits from people's pictures."""

import contextlib
import csv
import io
import json
import math
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw, ImageOps
from scipy import ndimage

import mnist_lit
from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.cli import main
from mnist_lit.errors import CheckpointError, PictureError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.inference import files
from mnist_lit.inference.files import find_pictures, open_picture
from mnist_lit.inference.pictures import lay_out, prepare_for, to_gray
from tests.conftest import ordinary_user
from tests.inference.photographs import photograph


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


def prepare(picture: Image.Image) -> np.ndarray:
    found = prepare_for(MNIST, picture, single=True)
    assert not isinstance(found, str), found
    return found[0].candidates[0].pixels


def test_every_image_of_mnist_passes_through_unchanged(mnist: MNISTDataModule) -> None:
    images = torch.cat([mnist.test.images[:2000], mnist.train.images[:2000]])[:, 0].numpy()
    for image in images:
        assert np.array_equal(prepare(Image.fromarray(image)), image)


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_photographs_are_read_right(count: int, mnist: MNISTDataModule) -> None:
    """Test digits, blown up, turned, on uneven noisy paper or a board, as JPEG."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(10_000, count, replace=False)
    pictures = [
        Image.open(io.BytesIO(photograph(mnist.test.images[i, 0].numpy(), rng))) for i in chosen
    ]
    found = mnist_lit.predict(pictures, device="cpu")
    wanted = mnist.test.labels[torch.from_numpy(chosen)].tolist()
    right = sum(p.text == str(label) for p, label in zip(found, wanted, strict=True))
    assert right >= 0.985 * count


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
def test_formats(suffix: str, digits: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    file = tmp_path / f"digit.{suffix}"
    paper_with(digits[0]).save(file)
    assert mnist_lit.predict(file)[0].digit == labels[0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK", "1"])
def test_modes(mode: str, digits: np.ndarray, labels: list[int]) -> None:
    for digit, label in zip(digits[:5], labels, strict=False):
        assert read(paper_with(digit).convert(mode)) == label


@pytest.mark.parametrize("factor", [257, 16, 1])
def test_sixteen_bits_that_hold_as_many_or_twelve_or_eight(
    factor: int, digits: np.ndarray, labels: list[int], tmp_path: Path
) -> None:
    deep = np.asarray(paper_with(digits[1])).astype(np.uint16) * factor
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
    with pytest.raises(PictureError, match=r"picture 0: floats from 40.5 to 235.5; 0 to 1"):
        mnist_lit.predict(batch[0] + 0.5)
    digit, blank = mnist_lit.predict([batch[0], np.full((50, 50), 200, np.uint8)])
    assert (digit.status, blank.status) == ("read", "none")
    assert "no digit found" in blank.why


def test_predictions_are_those_of_the_network(mnist: MNISTDataModule) -> None:
    found = mnist_lit.predict(mnist.test.images[:20], device="cpu")
    network = mnist_lit.load_pretrained("final-world")
    wanted = classify(network, mnist.test.images[:20]).softmax(dim=1)
    got = torch.tensor([p.probabilities for p in found])
    torch.testing.assert_close(got, wanted)
    assert MNIST.normalize(mnist.test.images[:1]).shape == (1, 1, 28, 28)
    digit, probability = found[0].top(3)[0]
    assert digit == found[0].digit
    assert probability == max(found[0].probabilities)


def test_every_shape_and_type_that_people_have_is_read(
    mnist: MNISTDataModule, digits: np.ndarray, labels: list[int], tmp_path: Path
) -> None:
    ink = digits[:4]
    rows = ink.reshape(4, 784)
    wide = np.stack([np.asarray(paper_with(digit, 100)) for digit in ink])
    path = tmp_path / "0.png"
    Image.fromarray(ink[0]).save(path)
    content = path.read_bytes()
    tensor = torch.from_numpy(ink)
    four: list[Any] = [
        *(ink, ink[:, None], ink[..., None], ink.astype(np.int32), ink / 255, ink > 127, ink * 1.0),
        *(rows, rows.astype(np.float64), torch.from_numpy(rows), rows.tolist(), ink.tolist()),
        *(tensor, tensor[:, None], (tensor / 255).bfloat16(), (tensor / 255).half()),
        *(wide, wide[:, None], np.repeat(wide[..., None], 4, -1), torch.from_numpy(wide)[:, None]),
        *((tensor[:, None], mnist.test.labels[:4]), (rows, np.array(labels[:4]))),
        [(one, label) for one, label in zip(ink, labels, strict=False)],
        (Image.fromarray(one) for one in ink),
    ]
    for images in four:
        found = mnist_lit.predict(images, model="nano", device="cpu")
        assert [one.digit for one in found] == labels[:4], np.shape(images)
    for count in (1, 3, 4):  # images of MNIST's side, not one picture with `count` channels
        assert (
            len(mnist_lit.predict(tensor[:count])) == len(mnist_lit.predict(ink[:count])) == count
        )
    with path.open("rb") as file:
        one: list[Any] = [
            *(content, bytearray(content), memoryview(content), io.BytesIO(content), file),
            *(
                path,
                str(path),
                Image.open(io.BytesIO(content)),
                ink[0],
                ink[0][..., None],
                rows[0],
                rows[:1],
            ),
            *(np.repeat(ink[0][..., None], 3, -1), tensor[0], tensor[:1], rows[0].tolist()),
            *((tensor[0][None] / 255, labels[0]), (Image.fromarray(ink[0]), torch.tensor(7))),
            torch.from_numpy(wide)[:1].expand(3, -1, -1),
        ]
        for images in one:
            found = mnist_lit.predict(images, device="cpu")
            assert [prediction.digit for prediction in found] == labels[:1], type(images)
    assert mnist_lit.predict([]) == mnist_lit.predict(ink[:0]) == []


def test_what_is_no_picture_is_refused_in_a_line() -> None:
    wrong: list[Any] = [
        *(None, 5, 0.5, {"image": 1}, object(), [1, 2], np.zeros(5), np.zeros((2, 3, 4, 5, 6))),
        *(np.zeros((2, 5, 28, 28)), np.array("a"), np.array([None]), torch.zeros(3, device="meta")),
        *([[1, 2], [3]], b"", b"text", io.BytesIO(), io.StringIO("text"), "a" * 5000, "a\0b", ""),
        *(np.full((28, 28), np.nan), np.full((28, 28), 300), np.zeros((28, 28), complex)),
        *(torch.randn(28, 28), np.zeros((0, 5)), np.full((28, 28), -1), [b"x", Path("/dev/null")]),
    ]
    for images in wrong:
        with pytest.raises(PictureError) as caught:
            mnist_lit.predict(images, model="nano", device="cpu")
        assert str(caught.value).count("\n") == 0


def test_a_network_takes_the_place_of_a_name(digits: np.ndarray, labels: list[int]) -> None:
    trained = pretrained.load("final")
    network = mnist_lit.load_pretrained("final").train().double()
    for model in (trained, network, mnist_lit.LitClassifier(trained.network, trained.facts)):
        found = mnist_lit.predict(digits, model=model, device="cpu")
        assert [one.digit for one in found] == labels
    assert network.training  # the caller's network is not changed
    assert network.linear.weight.dtype is torch.float64
    network.linear.weight.data.fill_(math.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        mnist_lit.predict(digits, model=network, device="cpu")
    with pytest.raises(CheckpointError, match="values for 10 classes"):
        mnist_lit.predict(digits, model=torch.nn.Flatten(), device="cpu")


def test_a_default_of_float64_changes_nothing(digits: np.ndarray, labels: list[int]) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        found = mnist_lit.predict(digits, device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert [one.digit for one in found] == labels


@pytest.mark.slow
def test_a_forked_process_predicts_after_the_first_one_has() -> None:
    program = (
        "import multiprocessing, numpy, torch, mnist_lit; torch.set_num_threads(2)\n"
        "y, x = numpy.mgrid[-1:1:28j, -1:1:28j]; ring = abs(numpy.hypot(x, y / 1.4) - 0.45) < 0.1\n"
        "def read(n): return mnist_lit.predict([ring] * n)[0].digit\n"
        "read(64)\n"
        "with multiprocessing.get_context('fork').Pool(1) as pool:\n"
        "    print(pool.map_async(read, [64]).get(60))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert done.stdout == "[0]\n", done.stderr


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
    """Write a PNG whose header gives 60,000×60,000 pixels."""

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
    Image.new("1", (20_000, 3_000), 1).save(folder / "wide.png")
    frames = [Image.new("L", (50, 50), shade) for shade in (0, 100, 200)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    bomb(folder / "bomb.png")
    with pytest.raises(SystemExit) as exit_:
        main(["predict", "final", str(folder), str(folder / "none.png"), "--json"])
    assert exit_.value.code == 1
    out, err = capsys.readouterr()
    rows = {Path(row["file"]).name: row for row in json.loads(out)}
    assert [rows.pop(name)["status"] for name in ("blank.png", "noise.png")] == ["none", "none"]
    assert len(rows) == 4
    lines = {line.split(": ")[1].rpartition("/")[2]: line for line in err.splitlines()}
    wanted = {
        "text.png": "not an image",
        "cut.png": "cannot be read: ",
        "empty.png": "an empty file",
        "blank.png": "no digit found",
        "noise.png": "no digit found",
        "wide.png": "20,000×3,000 pixels; at most 36 million",
        "moving.gif": "several frames",
        "bomb.png": "pixels",
        "none.png": "No such file",
    }
    assert set(lines) == set(wanted)
    for name, words in wanted.items():
        assert words in lines[name]
    assert all(line.startswith("error: ") for line in lines.values())


def chunk_of_webp(side: int) -> bytes:
    """Return the start of a WebP whose header gives this size."""
    body = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", side, side) + bytes(100)
    body = b"VP8 " + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def tiff(*pages: dict[int, int]) -> bytes:
    """Return a TIFF of pages of 1×1, with tags on top."""
    content = bytearray(b"II*\0" + struct.pack("<I", 8))
    usual = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 0, 278: 1, 279: 1}
    for number, page in enumerate(pages, 1):
        tags = sorted({**usual, **page}.items())
        end = len(content) + 2 + 12 * len(tags) + 4
        content += struct.pack("<H", len(tags))
        content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        content += struct.pack("<I", end if number < len(pages) else 0)
    return bytes(content)


def saved(kind: str) -> bytes:
    stored = io.BytesIO()
    Image.new("L", (30, 30), 5).save(stored, kind)
    return stored.getvalue()


def scanned(times: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan of 48,000 blocks."""
    stored = io.BytesIO()
    Image.new("L", (1_400, 1_400), 5).save(stored, "JPEG", progressive=True)
    content = stored.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + times * scan + content[-2:]


def test_size_is_bounded_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 40_000 + b"\0"  # read in quadratic time
    gif = saved("GIF")
    long, high = io.BytesIO(), io.BytesIO()
    Image.new("L", (1, 36_000_000), 255).save(high, "PNG")
    Image.new("1", (65_536, 1), 1).save(long, "PNG")
    monkeypatch.setattr(files, "MAX_SECONDS", 0.2)
    for content, words in {
        chunk_of_webp(16_383): r"cannot be read: .*268402689 pixels",
        high.getvalue(): "1×36,000,000 pixels; .* 65,535 a side",
        long.getvalue(): "65,536×1 pixels; .* 65,535 a side",
        tiff(*[{}] * 20_000): "several frames or pages",
        tiff({259: 5, 322: 60_000, 323: 60_000}): "cannot be read: ",
        b"P6 60000 60000 255\n": r"cannot be read: .*3600000000 pixels",
        gif[:-1] + comment + gif[-1:]: "takes more than 0.2 s to decode",
        scanned(2_000): "takes more than 0.2 s to decode",
        bytes(files.MAX_BYTES + 1): "more than 100 MB",
    }.items():
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        with pytest.raises(PictureError, match=words):
            open_picture(io.BytesIO(content))
        assert time.process_time() - start < 3
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 512_000


def test_every_mode_is_read_and_none_ends_the_others(
    digits: np.ndarray, labels: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = paper_with(digits[0])
    lab = ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB")
    changed = ImageCms.applyTransform(paper.convert("RGB"), to_lab)
    assert changed is not None
    changed.save(tmp_path / "lab.tiff")
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "LA", "PA", "La"):
        assert read(paper.convert("LA").convert(mode) if mode == "La" else paper.convert(mode)) == 7
    for name, value in {"nan": math.nan, "inf": math.inf}.items():
        values = np.asarray(paper, np.float32).copy()
        values[5, 5] = value
        Image.fromarray(values).save(tmp_path / f"{name}.tiff")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemExit):
        main(["predict", "final", str(tmp_path), str(tmp_path / "pipe"), "--json"])
    out, err = capsys.readouterr()
    assert [row["digit"] for row in json.loads(out)] == labels[:1]
    assert len(err.splitlines()) == 3
    assert err.count("not numbers") == 2
    assert "not a regular file" in err


def test_names_of_every_kind(
    digits: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [
        b"=1+1.png",
        b"@x.png",
        b"+.png",
        b"$a$b^.png",
        b"\x1b[31m.png",
        b"a\nb.png",
        b"\xff.png",
    ]
    for name in names:
        paper_with(digits[0]).save(os.fsdecode(name))
    paths = [os.fsdecode(name) for name in names]
    main(["predict", "nano", *paths, "--csv", "--show", "sheet.png"])
    rows = list(csv.reader(io.StringIO(capfd.readouterr().out)))
    assert [row[0] for row in rows[1:]] == [
        *(
            "'=1+1.png",
            "'@x.png",
            "'+.png",
            "$a$b^.png",
            "\\x1b[31m.png",
            "a\\nb.png",
            "\\udcff.png",
        )
    ]
    assert open_picture(Path("sheet.png")).size[0] > 500
    main(["predict", "nano", *paths])
    assert len(capfd.readouterr().out.splitlines()) == len(names)
    for path in paths:
        Path(path).write_text("no picture")
    with pytest.raises(SystemExit):
        main(["predict", "nano", *paths])
    assert len(capfd.readouterr().err.splitlines()) == len(names)


def test_a_folder_holds_pictures_and_other_things(folder: Path) -> None:
    for name in ("a.pdf", "b.h5", "c.eps", "._a.png", ".hidden.png", "d.mpg"):
        (folder / name).write_text("no picture")
    assert find_pictures(str(folder)) == [folder / f"{n}.png" for n in range(4)]
    with pytest.raises(PictureError, match="cannot be read: File name too long"):
        find_pictures("a" * 5000)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it(orientation: int) -> None:
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    picture.getexif()[0x0112] = orientation
    turned = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_allclose(to_gray(picture), turned / 255, rtol=1e-6)


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
            prepare_for(MNIST, open_picture(file), single=False)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 3), (2000, 4)])
def test_pictures_too_small_for_a_digit_are_blank_or_read(size: tuple[int, int]) -> None:
    assert mnist_lit.predict(Image.new("L", size, 200))[0].status == "none"
    noise = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    for single in (True, False):
        (found,) = mnist_lit.predict(Image.fromarray(noise), single=single)
        assert all(digit.prepared.shape == (28, 28) for digit in found.digits)


def test_a_file_that_may_not_be_read(digits: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as place:  # only their owner can open pytest's folders
        Path(place).chmod(0o755)
        picture = Path(place) / "0.png"
        paper_with(digits[0]).save(picture)
        with ordinary_user():
            open_picture(picture)
        picture.chmod(0)
        with ordinary_user(), pytest.raises(PictureError) as caught:
            open_picture(picture)
    assert str(caught.value) == f"{picture}: cannot be read: Permission denied"


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
    assert err == "".join(
        f"error: {place}: no pictures found\n" for place in (tmp_path, tmp_path / "*.png")
    )


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


def test_a_prediction_prints_in_a_line_and_can_be_compared(digits: np.ndarray) -> None:
    seven, two, again = mnist_lit.predict([digits[0], digits[1], digits[0]], device="cpu")
    assert re.fullmatch(r"Reading\('7', \d+\.\d%, read\)", repr(seven))
    assert re.fullmatch(r"Prediction\('7', \d+\.\d%\)", repr(seven.digits[0]))
    assert seven == again
    assert seven != two
    assert seven.digits[0] != two.digits[0]
    assert len({seven, two, again}) == 2
