"""Make the pictures of README and docs from the shipped weights and the results.

python research/pictures.py              # all of them, into docs/pictures/; needs a Chromium
python research/pictures.py overview     # some of them

Each picture contains the digests of its source files; a test compares them.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import cos, sin
from pathlib import Path
from statistics import mode
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright
from tqdm import tqdm

from mnist_lit import MNISTDataModule, predict
from mnist_lit.checkpoints import pretrained
from mnist_lit.data.mnist import EACH, SYNTHETIC, bank
from mnist_lit.evaluation.page import open_subject, page
from mnist_lit.inference.predict import Page, sheet

# `accuracy` reads the results, and the tests make the photographs.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from accuracy import RESULTS, ROOT, hardest, load_results
from tests.inference.photographs import photograph
from tests.inference.world import GROUPS, SEVERAL

FOLDER = ROOT / "docs" / "pictures"
KEY = "Made-from"  # key of the digests in a PNG file
# Results of others for one network: ranges of the number of parameters and of the accuracy in %.
PUBLIC_MARKS = (
    ("many restarts", (697, 697), (99.03, 99.03)),
    ("75 epochs", (1_936, 1_936), (99.1, 99.1)),
    ("picked by test accuracy", (7_000, 9_000), (99.4, 99.5)),
    ("150 epochs", (1_000_000, 1_500_000), (99.7, 99.8)),
)
NUMBER, NUMBER_SIDE = "31415", 112  # the number, and the side of a digit in pixels
WRITTEN = (7, 1, 0, 2, 1)  # of the drawn digits, those that are no display's
PAPER, PEN = 320, 22  # pixels, as on the page of the demo
# A digit drawn by hand: points of one stroke, as shares of the paper's side.
FIVE = (
    *((0.67, 0.18), (0.39, 0.19), (0.36, 0.47)),
    *((0.49 + 0.2 * cos(a / 20), 0.61 + 0.2 * sin(a / 20)) for a in range(-45, 46, 3)),
)


class Picture(NamedTuple):
    """The function that makes a picture, and its source files."""

    make: Callable[[], Figure | bytes]
    sources: Sequence[Path]


def drawn() -> Image.Image:
    """Draw the digit as on the demo's paper."""
    paper = Image.new("L", (PAPER, PAPER), 255)
    pen = ImageDraw.Draw(paper)
    points = [(x * PAPER, y * PAPER) for x, y in FIVE]
    pen.line(points, fill=0, width=PEN, joint="curve")
    for x, y in points:
        pen.ellipse((x - PEN / 2, y - PEN / 2, x + PEN / 2, y + PEN / 2), fill=0)
    return paper


def overview() -> Figure:
    """Draw a digit, the input and the answer of `final`; and accuracy against parameters."""
    (found,) = predict(drawn(), "final", device="cpu")
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, bars, right = figure.subplots(1, 4, width_ratios=(1, 1, 0.9, 2.6))
    left.imshow(drawn(), cmap="gray")
    left.set_title("a digit, drawn")
    middle.imshow(found.prepared, cmap="gray")
    middle.set_title("what the network sees")
    for axes in (left, middle):
        axes.set(xticks=[], yticks=[])
    bars.barh(range(10), found.probabilities)
    bars.invert_yaxis()
    bars.set(title=f"its answer: {found.name}", yticks=range(10), xlim=(0, 1), xticks=[0, 1])
    bars.set_xlabel("probability")
    bars.set_box_aspect(1.1)
    plot_accuracy(right)
    right.set_xlim(right=50_000)  # room for the longest name
    right.set_title("accuracy against size, mean of ten seeds")
    return figure


def accuracy() -> Figure:
    """Draw accuracy against parameters, with the interval of each mean, and others' results."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for words, parameters, reached in PUBLIC_MARKS:
        axes.plot(parameters, reached, color="0.75", lw=7, marker="o")
        # To its right, but to the left of the leftmost mark, where no names are.
        left = parameters[0] < 1_000
        offset, place = ((-8, 10), ("right", "center")) if left else ((10, 2), ("left", "top"))
        axes.annotate(
            words,
            (parameters[0], reached[0]),
            offset,
            textcoords="offset points",
            fontsize=8,
            color="0.35",
            ha=place[0],
            va=place[1],
        )
    plot_accuracy(axes)
    axes.set_xlim(left=150)
    title = "Last of 20 epochs, mean of ten seeds with its 95 % interval; gray: others' figures"
    axes.set_title(title, fontsize=10)
    return figure


def plot_accuracy(axes: Axes) -> None:
    """Plot each network's mean and its 95 % interval against its parameters."""
    best = 0.0
    for result in sorted(load_results(RESULTS), key=lambda result: result["parameters"]):
        last, parameters = result["last_val_accuracy"], result["parameters"]
        low, high = last["interval_95"]
        point = parameters, 100 * last["mean"]
        axes.errorbar(*point, yerr=50 * (high - low), fmt="o", color="C0", capsize=3)
        # Names on the frontier are on one side, the others on the other, so they never overlap.
        beyond, best = last["mean"] > best, max(best, last["mean"])
        end, offset, side = (high, (4, 4), "right") if beyond else (low, (6, -6), "left")
        place = parameters, 100 * end
        axes.annotate(
            result["experiment"], place, offset, textcoords="offset points", fontsize=9, ha=side
        )
    axes.set(xscale="log", xlabel="trainable parameters", ylabel="test accuracy, %")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.margins(0.12)


def hardest_digits() -> Figure:
    """Draw the test digits that at least nine of ten trainings misread."""
    found = hardest(load_results(RESULTS))
    test = MNISTDataModule().images("test")
    columns = min(10, max(1, len(found)))
    rows = max(1, -(-len(found) // columns))
    figure = Figure(figsize=(columns * 0.9, rows * 1.15), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (position, readings) in zip(grid.flat, found.items(), strict=False):
        axes.imshow(test.images[position, 0].numpy(), cmap="gray_r")
        words = f"{test.labels[position]}, read {mode(readings)}\n#{position}"
        axes.set_title(words, fontsize=7)
    return figure


def photographs() -> Figure:
    """Draw test digits as photographs, with the inputs and the answers of `final-world`."""
    test = MNISTDataModule().images("test")
    rng = np.random.default_rng(3)
    with TemporaryDirectory() as folder:
        paths = []
        for number, position in enumerate(rng.choice(len(test.labels), 8, replace=False)):
            path = Path(folder) / f"{number}.jpg"
            path.write_bytes(photograph(test.images[position, 0].numpy(), rng))
            paths.append(path)
        found = predict(paths, device="cpu")
        return sheet([(Page(path, ""), one) for path, one in zip(paths, found, strict=True)])


def laid(pictures: dict[str, Image.Image]) -> Figure:
    """Draw pictures with their names, boxes and readings."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in pictures]
        for path, picture in zip(paths, pictures.values(), strict=True):
            picture.convert("RGB").save(path, "PNG")
        found = predict(paths, device="cpu")
        return sheet([(Page(path, ""), one) for path, one in zip(paths, found, strict=True)])


def number() -> bytes:
    """Write a number with a dark pen on light paper, from the drawn digits of the package."""
    drawn_digits = bank()
    paper = Image.new("L", (NUMBER_SIDE * (len(NUMBER) + 1), NUMBER_SIDE * 2), 236)
    for place, digit in enumerate(NUMBER):
        ink = Image.fromarray(drawn_digits.images[int(digit) * EACH + WRITTEN[place], 0].numpy())
        ink = ink.resize((NUMBER_SIDE, NUMBER_SIDE), Image.Resampling.BICUBIC)
        at = NUMBER_SIDE // 2 + place * NUMBER_SIDE, NUMBER_SIDE // 2 + (-6, 5)[place % 2]
        paper.paste(40, at, ink)
    stored = io.BytesIO()
    paper.save(stored, "PNG")
    return stored.getvalue()


def digits(count: int) -> list[tuple[np.ndarray, str]]:
    """Return the first test digits, and their labels."""
    test = MNISTDataModule().images("test")
    return [(test.images[n, 0].numpy(), str(int(test.labels[n]))) for n in range(count)]


def read() -> Figure:
    """Draw the first picture of many kinds."""
    shown = {}
    kinds = ("numbers", "lines", "cells", "page 8 mm", "equal gray", "8×8", "margin")
    for name in (*kinds, "broken strokes"):
        make = {**GROUPS, **SEVERAL}[name]
        shown[name] = next(iter(make(digits(40), np.random.default_rng(4)))).picture
    return laid(shown)


def unread() -> Figure:
    """Draw pictures without digits, and the first touching digits that are misread."""
    shown = {}
    for letter in "ARW":
        paper = Image.new("L", (200, 200), 255)
        font = ImageFont.truetype("DejaVuSans.ttf", 120)
        ImageDraw.Draw(paper).text((100, 100), letter, 0, font, anchor="mm")
        shown[f"letter {letter}"] = paper
    squares = np.random.default_rng(0).random((21, 21)) > 0.5
    code = Image.fromarray((255 * squares).astype(np.uint8))
    shown["squares"] = code.resize((210, 210), Image.Resampling.NEAREST)
    for case in SEVERAL["touching"](digits(300), np.random.default_rng(0)):
        if predict(case.picture, device="cpu")[0].text != case.text:
            shown[f"touching {case.text}"] = case.picture
        if len(shown) == 8:
            break
    return laid(shown)


def demonstration() -> bytes:
    """Draw the digit on the demo's page."""
    program = str(Path(sys.executable).with_name("mnist-lit"))
    command = [program, "demo", "final-world", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        try:
            return screenshot(partial(drawing, address), 1000, 860)
        finally:
            process.terminate()


def drawing(address: str, browser: Tab) -> None:
    """Draw the digit on the page at an address."""
    browser.goto(address)
    canvas = browser.locator("#paper canvas")
    canvas.wait_for(timeout=60_000)
    box = canvas.bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(FIVE):
        at = box["x"] + (x + 0.25) * box["height"], box["y"] + y * box["height"]
        browser.mouse.move(*at, steps=8 if number else 1)
        if not number:
            browser.mouse.down()
    browser.mouse.up()
    browser.locator("#seen img").wait_for()
    browser.wait_for_timeout(1000)


def comparison() -> bytes:
    """Compare two networks on a page."""
    html = page([open_subject("final"), open_subject("nano")])
    return screenshot(lambda browser: browser.set_content(html), 700, 780)


def screenshot(prepare: Callable[[Tab], object], width: int, height: int) -> bytes:
    """Return a screenshot of a browser."""
    installed = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": height})
        prepare(shown)
        content = shown.screenshot()
        browser.close()
    return content


def weights(*names: str) -> list[Path]:
    """Return the files of shipped weights."""
    return [pretrained.checkpoint_of(name) for name in names]


def results() -> list[Path]:
    """Return the files of measured seeds."""
    return sorted(RESULTS.glob("accuracy/*.json"))


PICTURES = {
    "overview": Picture(overview, [*weights("final"), *results()]),
    "accuracy": Picture(accuracy, results()),
    "hardest": Picture(hardest_digits, results()),
    "photographs": Picture(photographs, weights("final-world")),
    "number": Picture(number, [SYNTHETIC]),
    "read": Picture(read, weights("final-world")),
    "unread": Picture(unread, weights("final-world")),
    "demo": Picture(demonstration, weights("final-world")),
    "comparison": Picture(comparison, weights("final", "nano")),
}


def digests(sources: Sequence[Path]) -> str:
    """Return the digest of each file, by its path in the checkout, as JSON."""
    found = {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sources
    }
    return json.dumps(found, sort_keys=True)


def save(name: str) -> None:
    """Make a picture and write it with its digests."""
    made = PICTURES[name].make()
    if isinstance(made, Figure):
        stored = io.BytesIO()
        made.savefig(stored, dpi=110)
        made = stored.getvalue()
    words = PngImagePlugin.PngInfo()
    words.add_text(KEY, digests(PICTURES[name].sources))
    few = Image.open(io.BytesIO(made)).convert("RGB").quantize(128)
    FOLDER.mkdir(parents=True, exist_ok=True)
    few.save(FOLDER / f"{name}.png", pnginfo=words, optimize=True)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("names", nargs="*", help=f"of {', '.join(PICTURES)} (default: all)")
    return found


def main() -> None:
    """Make the pictures that the command line names."""
    names = command_line().parse_args().names or list(PICTURES)
    for name in names:
        if name not in PICTURES:
            command_line().error(f"{name}: no such picture; there are {', '.join(PICTURES)}")
    for name in tqdm(names, unit="picture"):
        save(name)


if __name__ == "__main__":
    main()
