"""The page, in a real browser."""

import itertools
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from mnist_lit import MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.errors import MissingPackageError
from mnist_lit.inference import demo

# Strokes on a paper of 1×1, from the top left.
STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "1": [[(0.5, 0.2), (0.5, 0.8)]],
    "7": [[(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]],
    "0": [
        [
            (0.5 + 0.2 * math.sin(i * math.pi / 12), 0.5 - 0.3 * math.cos(i * math.pi / 12))
            for i in range(25)
        ]
    ],
    "4": [[(0.35, 0.2), (0.32, 0.5), (0.68, 0.5)], [(0.62, 0.2), (0.62, 0.82)]],
    "2": [
        [
            *((0.32, 0.35), (0.4, 0.22), (0.58, 0.22), (0.66, 0.36)),
            *((0.55, 0.55), (0.32, 0.78), (0.7, 0.78)),
        ]
    ],
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run ``mnist-lit demo`` as a user does, with a browser that notes what it is to open."""
    folder = tmp_path_factory.mktemp("browser")
    noting = folder / "browser"
    noting.write_text(f'#!/bin/sh\necho "$1" > "{folder}/opened"\n')
    noting.chmod(0o755)
    command = [sys.executable, "-m", "mnist_lit", "demo", "--port", str(free_port())]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": str(noting)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "starting the demo …\n"
        words = process.stdout.readline().split()
        assert words, "the demo did not start"
        while not (folder / "opened").is_file():
            assert process.poll() is None
            time.sleep(0.1)
        assert (folder / "opened").read_text().strip() == words[0]
        yield words[0]
        process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium: the machine's, or the one that Playwright has installed."""
    installed = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=installed, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
        except Error:
            if os.environ.get("CI"):
                raise
            pytest.skip("no Chromium here; apt install chromium, or playwright install chromium")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 1100, "height": 1000})


@pytest.fixture
def opened(page: Page, address: str) -> Page:
    page.goto(address)
    page.wait_for_selector("#paper canvas", timeout=60_000)
    return page


def draw(page: Page, strokes: list[list[tuple[float, float]]]) -> None:
    box = page.locator("#paper canvas").bounding_box()
    assert box is not None
    for stroke in strokes:
        for number, (x, y) in enumerate(stroke):
            page.mouse.move(
                box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8 if number else 1
            )
            if not number:
                page.mouse.down()
        page.mouse.up()


def test_digits_drawn_on_the_paper_are_read(opened: Page) -> None:
    elsewhere: list[str] = []
    opened.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else elsewhere.append(request.url)
        ),
    )
    opened.reload()
    opened.wait_for_selector("#paper canvas", timeout=60_000)
    for digit, strokes in STROKES.items():
        draw(opened, strokes)
        expect(opened.locator("#words")).to_have_text(digit, timeout=15_000)
        expect(opened.locator("#probabilities")).to_contain_text("100%")
        for other in range(10):
            expect(opened.locator("#probabilities")).to_contain_text(str(other))
        expect(opened.locator("#seen img")).to_be_visible()
        opened.locator("#paper button").click()
        expect(opened.locator("#words")).to_contain_text("Draw a digit", timeout=15_000)
    assert elsewhere == []


def test_a_finger_draws_on_a_phone(browser: Browser, address: str) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    phone.goto(address)
    paper = phone.locator("#paper canvas")
    paper.wait_for(timeout=60_000)
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    scrolled = phone.evaluate("window.scrollY")
    finger = phone.context.new_cdp_session(phone)
    for digit in ("7", "4"):
        for stroke in STROKES[digit]:
            for number, point in enumerate(fine(stroke)):
                at = {
                    "x": box["x"] + point[0] * box["width"],
                    "y": box["y"] + point[1] * box["height"],
                }
                kind = "touchMove" if number else "touchStart"
                finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
            # Lifted from rest: a tap that follows a fling only stops it, and presses nothing.
            time.sleep(0.2)
            finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(phone.locator("#words")).to_have_text(digit, timeout=15_000)
        phone.locator("#paper button").tap()
        expect(phone.locator("#words")).to_contain_text("Draw a digit", timeout=15_000)
    assert phone.evaluate("window.scrollY") == scrolled
    phone.close()


def fine(stroke: list[tuple[float, float]], steps: int = 8) -> Iterator[tuple[float, float]]:
    """Go along a stroke in small steps, as a finger does."""
    yield stroke[0]
    for (x0, y0), (x1, y1) in itertools.pairwise(stroke):
        for i in range(1, steps + 1):
            yield x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps


def test_the_page_reads_while_a_stroke_goes_on(opened: Page) -> None:
    box = opened.locator("#paper canvas").bounding_box()
    assert box is not None
    opened.mouse.move(box["x"] + 160, box["y"] + 60)
    opened.mouse.down()
    for y in range(60, 260, 10):
        opened.mouse.move(box["x"] + 160, box["y"] + y)
        time.sleep(0.03)
    expect(opened.locator("#words")).to_have_text("1", timeout=15_000)
    opened.mouse.up()


def test_a_picture_and_another_network(
    opened: Page, mnist: MNISTDataModule, tmp_path: Path
) -> None:
    picture = tmp_path / "two.png"
    digit = Image.fromarray(255 - mnist.test.images[1, 0].numpy()).resize((280, 280))
    digit.save(picture)
    opened.set_input_files("#picture input[type=file]", picture)
    expect(opened.locator("#words")).to_have_text("2", timeout=15_000)
    other = next(name for name in pretrained.names() if name != "final")
    opened.locator("#model input").click()
    opened.get_by_role("option", name=f"{other}:").click()
    expect(opened.locator("#model input")).to_have_value(demo.describe(other))
    expect(opened.locator("#words")).to_have_text("2", timeout=15_000)


def test_it_listens_on_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rsplit(":", 1)[1].strip("/"))
    with socket.socket() as other:  # another address of the same machine
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_nothing_and_nonsense_get_a_hint() -> None:
    blank = Image.new("RGB", (320, 320), "white")
    assert demo.read(None, "final") == demo.read(blank, "final") == (demo.HINT, None, None)
    faint = np.full((320, 320), 250, np.uint8)
    faint[100:200, 150:170] = 247
    words, labels, seen = demo.read(Image.fromarray(faint), "final")
    assert "no digit to be seen" in words
    assert labels is None
    assert seen is None


def test_a_missing_gradio_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        MissingPackageError, match=r"gradio is not installed; pip install .*\[demo\]"
    ):
        demo.build("final")
