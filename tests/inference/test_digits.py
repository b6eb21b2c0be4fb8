"""Numbers of several digits are read in order, and other things are not read as digits."""

import csv
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import mnist_lit
from mnist_lit import MNISTDataModule
from mnist_lit.cli import main
from mnist_lit.inference.predict import Page, boxed, montage, prepare_again, sheet
from mnist_lit.inference.reading import Reading, in_lines
from tests.inference.test_ink import digits
from tests.inference.world import GROUPS, SEVERAL

# Number of pictures, and the least number that is read completely right.
LEAST = {
    "numbers": (40, 37),
    "touching": (20, 10),
    "lines": (16, 12),
    "filling": (40, 34),
    "cut": (20, 15),
    "desk": (20, 18),
    "ledger": (30, 24),
    "uphill": (20, 17),
    "painted": (20, 18),
    "segment numbers": (20, 16),
    "dot numbers": (20, 17),
}
SLOW = ("cut", "desk", "ledger", "uphill", "painted")  # as the others, on other paper


@pytest.fixture(scope="module")
def written(mnist: MNISTDataModule) -> list[Image.Image]:
    """Test digits as dark ink, 80 pixels a side: a 7, 2, 1, 0, 4 and so on."""
    return [Image.fromarray(255 - one).resize((80, 80)) for one, _ in islice(digits(mnist), 20)]


def on_paper(rows: list[list[Image.Image]]) -> Image.Image:
    paper = Image.new("L", (90 * max(map(len, rows)) + 40, 110 * len(rows) + 40), 255)
    for y, row in enumerate(rows):
        for x, digit in enumerate(row):
            paper.paste(digit, (20 + 90 * x, 20 + 110 * y))
    return paper


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SEVERAL],
)
def test_numbers_are_read(name: str, mnist: MNISTDataModule) -> None:
    count, least = LEAST[name]
    made = SEVERAL[name](islice(digits(mnist), 600), np.random.default_rng(1))
    cases = list(islice(made, count))
    found = mnist_lit.predict([case.picture for case in cases])
    right = [one.text == case.text for one, case in zip(found, cases, strict=True)]
    assert sum(right) >= least
    sure = [one.status == "read" for one in found]
    assert sum(s and not r for s, r in zip(sure, right, strict=True)) <= 0.06 * count
    if name == "numbers":
        assert sum(sure) >= 0.7 * count
    if name == "touching":  # most were cut apart
        assert sum(sure) <= 0.5 * count


def test_a_dark_thing_beside_a_number_is_left_out(written: list[Image.Image]) -> None:
    """It extends beyond two edges, and all but its own edge looks like paper."""
    read = []
    for left in (20, 60, 160, 300):
        paper = Image.new("L", (420, 315), 200)
        ImageDraw.Draw(paper).rounded_rectangle((left, 230, 600, 400), 60, fill=50)
        paper = paper.filter(ImageFilter.GaussianBlur(3))
        for x, digit in enumerate(written[:8]):
            thin = digit.resize((32, 32)).point(lambda light: light * 200 // 255)
            paper.paste(thin, (40 + 44 * x, 60))
        read.append(mnist_lit.predict(paper)[0].text)
    assert read == ["72104149"] * 4


def test_a_thing_of_a_digits_size_beside_a_number_makes_it_unsure(
    written: list[Image.Image],
) -> None:
    paper = on_paper([written[:3]])
    ImageDraw.Draw(paper).rectangle((paper.width - 40, 40, paper.width - 5, 90), fill=0)
    (found,) = mnist_lit.predict(paper)
    assert (found.status, found.why) == ("unsure", "something is left out")
    assert str(found).endswith(f"unsure: {found.why}")


@pytest.mark.parametrize(
    "box",
    [(97, 58, 112, 64), (98, 92, 106, 100), (101, 95, 106, 100)],
    ids=["dash", "point", "small point"],
)
def test_a_sign_between_digits_makes_a_number_unsure(
    box: tuple[int, int, int, int], written: list[Image.Image]
) -> None:
    paper = Image.new("L", (220, 140), 255)
    for digit, left in zip(written[:2], (15, 115), strict=True):
        paper.paste(digit, (left, 20))
    assert mnist_lit.predict(paper)[0].status == "read"
    ImageDraw.Draw(paper).ellipse(box, 0)
    (found,) = mnist_lit.predict(paper)
    assert (found.text, found.status) == ("72", "unsure")


def test_the_edge_of_a_cell_that_touches_two_edges_of_the_picture_is_not_a_one(
    mnist: MNISTDataModule,
) -> None:
    train = mnist.images("train")
    some = ((train.images[n, 0].numpy(), str(int(train.labels[n]))) for n in range(22_000, 22_096))
    made = list(GROUPS["cells"](some, np.random.default_rng(1)))
    found = mnist_lit.predict([made[17].picture, made[95].picture])
    assert [one.text for one in found] == [made[17].text, made[95].text]


@pytest.mark.parametrize("side", [300, 2400])
def test_a_sheet_on_a_desk_is_read_and_its_boxes_are_of_the_whole_picture(
    side: int, written: list[Image.Image]
) -> None:
    desk = Image.new("L", (side, side), 70)
    sheet = on_paper([written[:2]])
    scale = side * 0.6 / sheet.width
    desk.paste(sheet.resize((round(sheet.width * scale), round(sheet.height * scale))), (50, 60))
    (found,) = mnist_lit.predict(desk)
    assert (found.text, found.status) == ("72", "read")
    for column, digit in enumerate(found.digits):
        ink = np.argwhere(np.asarray(written[column]) < 128) + np.array([20, 20 + 90 * column])
        top, left = ink.min(axis=0) * scale + np.array([60, 50])
        bottom, right = (ink.max(axis=0) + 1) * scale + np.array([60, 50])
        assert digit.box == pytest.approx((left, top, right, bottom), abs=side * 0.015)


def test_the_only_digit_on_a_sheet_on_a_desk_is_not_the_sheet(written: list[Image.Image]) -> None:
    desk = Image.new("L", (300, 240), 70)
    desk.paste(on_paper([written[:1]]), (60, 40))
    for single in (True, False):
        assert mnist_lit.predict(desk, single=single)[0].text == "7"


def test_a_file_that_changes_while_it_is_read_is_a_line(tmp_path: Path) -> None:
    gone = [Page(tmp_path / "gone.png", ""), Page(tmp_path / "gone.tiff", "#2")]
    assert [*prepare_again(mnist_lit.MNIST, False, gone, [0, 1], 1)] == ["the file has changed"] * 2


def test_a_reading_is_its_digits_line_by_line(written: list[Image.Image]) -> None:
    paper = on_paper([written[:4], written[4:6]])
    (found,) = mnist_lit.predict(paper)
    assert found.text == "7210\n41"
    assert [digit.name for digit in found.digits] == list("721041")
    assert [len(line) for line in found.lines] == [4, 2]
    assert found.status == "read"
    assert found.probability == pytest.approx(
        np.prod([max(digit.probabilities) for digit in found.digits])
    )
    for digit, (row, column) in zip(
        found.digits, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)], strict=True
    ):
        left, top, right, bottom = digit.box
        assert 20 + 90 * column <= left < right <= 100 + 90 * column
        assert 20 + 110 * row <= top < bottom <= 100 + 110 * row
        ink = np.flatnonzero((np.asarray(paper)[top:bottom, left:right] < 128).any(axis=0))
        assert ink[0] <= 3
        assert ink[-1] >= right - left - 4
    assert repr(found).startswith("Reading('7210\\n41', ")
    assert repr(found).count("\n") == 0
    assert found == mnist_lit.predict(paper)[0]
    assert len({found, mnist_lit.predict(paper)[0]}) == 1
    for asked in ("digit", "name", "probabilities", "prepared"):
        with pytest.raises(ValueError, match="6 digits on this picture"):
            getattr(found, asked)
    with pytest.raises(ValueError, match="6 digits"):
        found.top(3)


def test_one_digit_answers_for_itself(written: list[Image.Image]) -> None:
    (found,) = mnist_lit.predict(written[0])
    (digit,) = found.digits
    assert found.digit == digit.digit == 7
    assert found.probabilities == digit.probabilities
    assert found.prepared is digit.prepared
    assert found.top(2) == digit.top(2)


def test_a_single_digit_can_be_asked_for(written: list[Image.Image]) -> None:
    paper = on_paper([[written[0].resize((80, 80)), written[2].resize((60, 60))]])
    (both,), (one,) = mnist_lit.predict(paper), mnist_lit.predict(paper, single=True)
    assert both.text == "71"
    assert one.text == "7"


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_are_of_the_picture_as_it_is_seen(
    orientation: int, written: list[Image.Image], tmp_path: Path
) -> None:
    """A large JPEG is decoded at a fraction of its size, and a camera may be held sideways."""
    paper = on_paper([written[:2]]).resize((2200, 1500))
    stored = paper.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else paper
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "72.jpg", exif=exif)
    (found,) = mnist_lit.predict(tmp_path / "72.jpg")
    assert found.text == "72"
    scale = 2200 / on_paper([written[:2]]).width
    for number, digit in enumerate(found.digits):
        left, _, right, _ = digit.box
        assert (20 + 90 * number) * scale <= left < right <= (100 + 90 * number) * scale


@pytest.mark.slow
def test_a_full_page_is_read(mnist: MNISTDataModule) -> None:
    threes = mnist.test.images[mnist.test.labels == 3][:, 0].numpy()
    page = np.full((1754, 1240), 245.0)
    count = 0
    for top in range(60, 1680, 44):
        for left in range(60, 1160, 44):
            ink = Image.fromarray(threes[count % len(threes)]).resize((34, 34))
            page[top : top + 34, left : left + 34] -= 0.8 * np.asarray(ink)
            count += 1
    (found,) = mnist_lit.predict(Image.fromarray(page.clip(0, 255).astype(np.uint8)))
    assert len(found.lines) == len(range(60, 1680, 44))
    assert abs(len(found.digits) - count) <= 3
    assert found.text.count("3") >= 0.97 * count


def test_digits_beside_an_object_are_read(written: list[Image.Image]) -> None:
    paper = on_paper([written[:3]])
    scene = Image.new("L", (paper.width, paper.height + 120), 250)
    scene.paste(paper, (0, 0))
    ImageDraw.Draw(scene).rectangle((60, paper.height + 10, scene.width, scene.height), fill=30)
    assert mnist_lit.predict(scene)[0].text == "721"


def test_lines_may_slope() -> None:
    sloping = [(40 * n, 12 * n, 40 * n + 25, 12 * n + 40) for n in range(6)]
    below = [(left, top + 60, right, low + 60) for left, top, right, low in sloping]
    mixed = [*below, *sloping]
    order = np.random.default_rng(0).permutation(len(mixed))
    lines = in_lines([mixed[number] for number in order])
    assert [[mixed[order[n]] for n in line] for line in lines] == [sloping, below]


def qr() -> Image.Image:
    squares = 255 * (np.random.default_rng(0).random((21, 21)) > 0.5).astype(np.uint8)
    return Image.fromarray(squares).resize((210, 210), Image.Resampling.NEAREST)


def letters() -> list[Image.Image]:
    font = ImageFont.truetype("DejaVuSans.ttf", 120)
    drawn = []
    for letter in "AEFHKMNRVWXaekmwx":
        paper = Image.new("L", (200, 200), 255)
        ImageDraw.Draw(paper).text((100, 100), letter, 0, font, anchor="mm")
        drawn.append(paper)
    return drawn


def test_what_is_no_digit_is_refused() -> None:
    box = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(box).rectangle((30, 30, 170, 170), outline=0, width=6)
    for pictures in (letters(), [qr(), box]):
        found = mnist_lit.predict(pictures)
        sure = sum(one.status == "read" for one in found)
        assert sure <= len(found) // 5
        assert any(one.status == "none" for one in found)
        for one in found:
            if one.status == "none":
                assert (one.text, one.digits, one.probability) == ("", (), 0.0)
                assert one.why
                with pytest.raises(ValueError, match="0 digits"):
                    one.digit  # noqa: B018 - it must raise


@pytest.mark.parametrize("size", [(90, 90), (60, 100), (110, 70)])
@pytest.mark.parametrize("thick", [3, 8, 12])
def test_an_empty_box_is_no_zero(size: tuple[int, int], thick: int) -> None:
    paper = Image.new("L", (200, 200), 240)
    box = (40, 50, 40 + size[0], 50 + size[1])
    ImageDraw.Draw(paper).rectangle(box, None, 20, thick)
    (found,) = mnist_lit.predict(paper)
    assert found.status != "read"
    paper = Image.new("L", (200, 200), 240)
    ImageDraw.Draw(paper).ellipse(box, None, 20, thick)
    (found,) = mnist_lit.predict(paper)
    assert found.text == "0"


def test_test_digits_are_not_refused(mnist: MNISTDataModule) -> None:
    found = mnist_lit.predict(mnist.test.images[:1000])
    assert all(len(one.digits) == 1 for one in found)
    assert sum(one.status == "unsure" for one in found) <= 18


def test_the_command_reads_numbers(
    written: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_paper([written[:3], written[3:5]]).save(tmp_path / "number.png")
    written[0].save(tmp_path / "one.png")
    qr().save(tmp_path / "code.png")
    names = [str(tmp_path / f"{name}.png") for name in ("number", "one", "code")]

    def run(*options: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["predict", "final", *names, *options])
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    code, out, err = run()
    assert code == 1
    assert [line.split("  ")[1].split()[0] for line in out.splitlines()] == ["721", "7"]
    assert "721 / 04 (" in out
    assert f"{names[2]}: no digit" in err
    rows: list[dict[str, Any]] = json.loads(run("--json")[1])
    assert [row["status"] for row in rows] == ["read", "read", "none"]
    assert [row["digit"] for row in rows] == [None, 7, None]
    assert [row["text"] for row in rows] == ["721\n04", "7", ""]
    assert [len(row["digits"]) for row in rows] == [5, 1, 0]
    assert [len(row["top"]) for row in rows] == [0, 1, 0]
    assert all(len(digit["box"]) == 4 for digit in rows[0]["digits"])
    table = list(csv.DictReader(io.StringIO(run("--csv")[1])))
    assert [row["digit_1"] for row in table] == ["", "7", ""]
    assert [row["text"] for row in table] == ["721\\n04", "7", ""]
    assert [row["status"] for row in table] == ["read", "read", "none"]
    del names[2]
    main(["predict", "final", *names, "--min-confidence", "0.5"])
    assert capsys.readouterr().err == ""
    code, out, err = run("--min-confidence", "1")
    assert code == 1
    assert out.count("\n") == 2
    assert err.count("less than --min-confidence 1") == 2
    with pytest.raises(SystemExit):
        main(["predict", "final", *names, "--min-confidence", "2"])
    assert "'2': a number from 0 to 1 is expected" in capsys.readouterr().err


def test_the_sheet_draws_the_boxes(written: list[Image.Image], tmp_path: Path) -> None:
    paper = on_paper([written[:3]])
    paper.save(tmp_path / "721.png")
    (found,) = mnist_lit.predict(paper)
    drawn = np.asarray(boxed(paper, found)).astype(int)
    red = drawn[..., 0] - drawn[..., 1] > 100
    left, top, right, bottom = found.digits[1].box
    scale = drawn.shape[1] / paper.width
    middle = round((top + bottom) / 2 * scale)
    edges = np.flatnonzero(red[middle]) / scale
    assert min(abs(edges - left)) < 5
    assert min(abs(edges - right)) < 5
    assert montage(found).shape == (30, 90)
    many = Reading((found.digits * 10,), "read")
    assert montage(many).shape == (150, 180)
    axes = sheet([(Page(tmp_path / "721.png", ""), found)]).axes
    assert any("721" in one.get_title() for one in axes)
