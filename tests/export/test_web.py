"""The page to draw on, opened from the disk in a real browser."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, expect

from mnist_lit import MNIST, MNISTDataModule, predict
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.errors import ExportError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.run import export
from mnist_lit.export.source import Source
from mnist_lit.network.compact import CompactCNN
from tests.export.test_export import odd_network
from tests.inference.test_demo import STROKES, browser

web = pytest.importorskip("mnist_lit.export.web", reason="needs the extra `export`")
__all__ = ["browser", "odd_network"]  # fixtures
DEMO = Path(__file__).parents[2] / "docs" / "demo.html"


def test_the_page_of_the_project_is_a_fresh_export() -> None:
    network = pretrained.load("final").network
    right = pretrained.record("final")["test_correct"]
    source = Source(network, MNIST, right, 10_000, calibration=lambda: torch.zeros(1))
    content = web.make(source, False)
    command = "mnist-lit export final --to web --output docs/demo.html"
    assert content == DEMO.read_bytes(), command
    assert len(content) <= 120_000


def test_the_browser_reads_as_the_network_does(browser: Browser, mnist: MNISTDataModule) -> None:
    page = browser.new_page()
    page.goto(DEMO.as_uri())
    pixels = mnist.test.images[:1000]
    got = page.evaluate("rows => rows.map(row => logits(row))", pixels.flatten(1).tolist())
    wanted = classify(pretrained.load("final").network, pixels)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    page.close()


@pytest.mark.parametrize(("width", "height"), [(1200, 900), (390, 800)])
@pytest.mark.parametrize("digit", STROKES)
def test_a_digit_drawn_with_the_mouse_is_read(
    digit: str, width: int, height: int, browser: Browser
) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto(DEMO.as_uri())
    del wrong[:1]  # the page itself
    expect(page.locator("output")).to_have_text("Mouse, pen or finger.")
    box = page.locator("#paper").bounding_box()
    assert box is not None
    for stroke in STROKES[digit]:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=5)
        page.mouse.up()
    expect(page.locator("output")).to_have_text(re.compile(rf"^{digit} \d+\.\d %$"))
    page.locator("summary").click()
    expect(page.locator("#maps canvas")).to_have_count(5)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # What the page lays out is what `predict` reads too.
    pixels = page.evaluate("[...layOut(inked(), SIZE, SIZE)]")
    image = np.array(pixels, np.uint8).reshape(28, 28)
    assert predict(image, pretrained.load("final").network)[0].text == digit
    page.locator("#clear").click()
    expect(page.locator("output")).to_have_text("Mouse, pen or finger.")
    assert not wrong
    page.close()


@pytest.mark.usefixtures("few_images")
def test_every_kind_of_block_is_read_in_a_page(odd_network: CompactCNN, tmp_path: Path) -> None:
    done = export(Trained(odd_network, MNIST), "web", tmp_path / "odd.html")
    assert done.largest_difference < 1e-4


def test_what_nobody_draws_is_refused(odd_network: CompactCNN, mnist: MNISTDataModule) -> None:
    facts = MNIST.of({**MNIST.plain(), "name": "shoes", "centred": False})
    source = Source(odd_network, facts, 1, 1, calibration=lambda: torch.zeros(1))
    with pytest.raises(ExportError, match="shoes: a page to draw on needs images laid out as"):
        web.make(source, False)
