"""The page, in a real browser."""

import asyncio
import contextlib
import html
import http.client
import io
import itertools
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright
from scipy import ndimage

import mnist_lit
from mnist_lit import MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.errors import MissingPackageError, UserError
from mnist_lit.inference import demo
from tests.conftest import PROGRAM, PROJECT

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
    """Run ``mnist-lit demo`` as a user does, with a browser that notes what it is to open.

    The environment names a proxy that is not there. At the end nothing was said on the console, and
    nothing is left of the pictures that were sent.
    """
    folder = tmp_path_factory.mktemp("browser")
    noting = folder / "browser"
    noting.write_text(f'#!/bin/sh\necho "$1" > "{folder}/opened"\n')
    noting.chmod(0o755)
    command = [PROGRAM, "demo", "--port", str(free_port())]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "BROWSER": str(noting),
            "TMPDIR": str(folder),
            **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1"),
        },
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
        assert any((folder / path).is_dir() for path in os.listdir(folder))  # noqa: PTH208
        process.terminate()
        assert process.communicate() == ("", "")
        assert process.returncode == 0
    assert sorted(os.listdir(folder)) == ["browser", "opened"]  # noqa: PTH208


@pytest.fixture(scope="module")
def browser(mnist: MNISTDataModule, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start Chromium: the machine's, or the one that Playwright has installed.

    Its camera sees a 7.
    """
    film = tmp_path_factory.mktemp("camera") / "seven.y4m"
    seven = Image.fromarray(255 - mnist.test.images[0, 0].numpy()).resize((240, 240))
    paper = Image.new("L", (320, 240), 255)
    paper.paste(seven, (40, 0))
    colourless = bytes([128]) * (2 * 160 * 120)
    frame = b"FRAME\n" + paper.tobytes() + colourless
    film.write_bytes(b"YUV4MPEG2 W320 H240 F10:1 Ip A1:1 C420jpeg\n" + 10 * frame)
    camera = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    arguments = [*camera, f"--use-file-for-fake-video-capture={film}"]
    installed = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=installed,
                args=[*arguments, *(["--no-sandbox"] if os.geteuid() == 0 else [])],
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


def wait_for_paper(page: Page) -> None:
    """Wait until a pointer meets the paper: that it is visible is not enough."""
    page.locator("#paper canvas").click(trial=True, timeout=60_000)


@pytest.fixture
def opened(page: Page, address: str) -> Page:
    page.goto(address)
    wait_for_paper(page)
    return page


def draw(page: Page, strokes: list[list[tuple[float, float]]], left: float = 0.25) -> None:
    """Draw on a square part of the paper, which begins at this share of its height."""
    box = page.locator("#paper canvas").bounding_box()
    assert box is not None
    for stroke in strokes:
        for number, (x, y) in enumerate(stroke):
            page.mouse.move(
                box["x"] + (x + left) * box["height"],
                box["y"] + y * box["height"],
                steps=8 if number else 1,
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
    wait_for_paper(opened)
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
    wait_for_paper(phone)
    paper = phone.locator("#paper canvas")
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
                    "x": box["x"] + (point[0] + 0.25) * box["height"],
                    "y": box["y"] + point[1] * box["height"],
                }
                kind = "touchMove" if number else "touchStart"
                finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
            # Lifted after a rest: a tap after a fling only stops the fling.
            time.sleep(0.2)
            finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(phone.locator("#words")).to_have_text(digit, timeout=15_000)
        phone.locator("#paper button").tap()
        expect(phone.locator("#words")).to_contain_text("Draw a digit", timeout=15_000)
    assert phone.evaluate("window.scrollY") == scrolled
    phone.close()


def marks(page: Page) -> list[list[int]]:
    """Return left, top, right and bottom of each piece of ink on the paper."""
    (data,) = [page.evaluate("document.querySelector('#paper canvas').toDataURL()")]
    paper = Image.open(io.BytesIO(demo.decode(data))).convert("L")
    labels, _ = ndimage.label(np.asarray(paper) < 128)
    return [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)]


def touch(page: Page, *fingers: tuple[float, float] | None) -> dict[str, Any]:
    """Return the fingers' positions in pixels of the paper's box; None for an idle finger."""
    box = page.locator("#paper canvas").bounding_box()
    assert box is not None
    return {
        "touchPoints": [
            {"x": box["x"] + at[0], "y": box["y"] + at[1], "id": number}
            for number, at in enumerate(fingers)
            if at is not None
        ]
    }


def test_one_finger_draws_whatever_else_touches_the_paper(browser: Browser, address: str) -> None:
    phone = browser.new_page(viewport={"width": 600, "height": 780}, has_touch=True, is_mobile=True)
    phone.goto(address)
    wait_for_paper(phone)
    finger = phone.context.new_cdp_session(phone)

    def send(kind: str, *fingers: tuple[float, float] | None) -> None:
        finger.send("Input.dispatchTouchEvent", {"type": kind, **touch(phone, *fingers)})

    send("touchStart", (40, 40))
    send("touchMove", (40, 80))
    send("touchStart", (40, 80), (300, 250))  # a palm
    send("touchMove", (40, 120), (310, 255))
    send("touchEnd", None, (310, 255))  # the palm is lifted
    send("touchMove", (40, 200))
    send("touchEnd")
    phone.wait_for_timeout(200)
    ((left, top, right, bottom),) = marks(phone)
    assert right - left < 40
    assert bottom - top > 150
    phone.close()


def test_a_tap_is_a_dot_and_the_right_button_draws_nothing(opened: Page) -> None:
    box = opened.locator("#paper canvas").bounding_box()
    assert box is not None
    opened.mouse.click(box["x"] + 100, box["y"] + 100)
    ((left, top, right, bottom),) = marks(opened)
    assert 15 <= right - left <= 30
    assert 15 <= bottom - top <= 30
    opened.locator("#paper button").click()
    assert marks(opened) == []
    opened.mouse.move(box["x"] + 100, box["y"] + 100)
    opened.mouse.down(button="right")
    opened.mouse.move(box["x"] + 200, box["y"] + 200)
    opened.mouse.up(button="right")
    assert marks(opened) == []


def test_clear_during_a_stroke_ends_it(opened: Page) -> None:
    box = opened.locator("#paper canvas").bounding_box()
    assert box is not None
    opened.mouse.move(box["x"] + 100, box["y"] + 100)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 200, box["y"] + 200)
    assert marks(opened)
    opened.locator("#paper button").dispatch_event("click")
    opened.mouse.move(box["x"] + 300, box["y"] + 200)
    assert marks(opened) == []
    opened.mouse.up()
    draw(opened, STROKES["7"])
    expect(opened.locator("#words")).to_have_text("7", timeout=15_000)


def fine(stroke: list[tuple[float, float]], steps: int = 8) -> Iterator[tuple[float, float]]:
    """Go along a stroke in small steps, as a finger does."""
    yield stroke[0]
    for (x0, y0), (x1, y1) in itertools.pairwise(stroke):
        for i in range(1, steps + 1):
            yield x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps


def test_a_number_is_read_and_boxed(opened: Page) -> None:
    draw(opened, STROKES["7"], left=-0.1)
    draw(opened, STROKES["4"], left=0.6)
    expect(opened.locator("#words h1")).to_have_text("74", timeout=15_000)
    expect(opened.locator("#boxes img")).to_be_visible()
    expect(opened.locator("#seen img")).to_be_visible()
    expect(opened.locator("#probabilities")).not_to_contain_text("100%")


def test_what_is_no_digit_is_said_to_be_none(opened: Page, tmp_path: Path) -> None:
    squares = 255 * (np.random.default_rng(0).random((21, 21)) > 0.5).astype(np.uint8)
    Image.fromarray(squares).resize((210, 210), Image.Resampling.NEAREST).save(tmp_path / "qr.png")
    opened.set_input_files("#picture input[type=file]", tmp_path / "qr.png")
    expect(opened.locator("#words h1")).to_have_text("no digit", timeout=15_000)


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
    opened.get_by_role("radio", name=other, exact=True).check()
    expect(opened.locator("#words")).to_have_text("2", timeout=15_000)


def test_the_camera_takes_a_picture(opened: Page) -> None:
    opened.locator("#picture").get_by_label("Capture from camera").click()
    opened.get_by_title("grant webcam access").click()
    filmed = "(document.querySelector('#picture video') ?? {}).currentTime > 0.2"
    opened.wait_for_function(filmed, timeout=15_000)
    opened.locator("#picture").get_by_label("capture photo").click(timeout=15_000)
    expect(opened.locator("#words")).to_have_text("7", timeout=15_000)


def test_it_listens_on_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rsplit(":", 1)[1].strip("/"))
    with socket.socket() as other:  # another address of the same machine
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_nothing_and_nonsense_get_a_hint() -> None:
    network = pretrained.load("final")
    for nothing in (None, b""):
        assert demo.read(nothing, network) == (demo.HINT, None, None, None)
    blank = np.full((320, 320), 250, np.uint8)
    faint = blank.copy()
    faint[100:200, 150:170] = 247
    for picture in (blank, faint):
        words, *others = demo.read(as_png(Image.fromarray(picture)), network)
        assert "no digit found" in words
        assert others == [None, None, None]


def as_png(picture: Image.Image) -> bytes:
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    return stored.getvalue()


def test_pictures_are_read_as_the_command_line_reads_them(
    mnist: MNISTDataModule, tmp_path: Path
) -> None:
    digit = mnist.test.images[1, 0].numpy()
    clear = Image.new("RGBA", (28, 28), "white")
    clear.putalpha(Image.fromarray(digit))
    deep = Image.fromarray((255 - digit).astype(np.uint16) * 257)
    for picture in (clear.resize((200, 200)), deep.resize((200, 200))):
        (tmp_path / "2.png").write_bytes(content := as_png(picture))
        (wanted,) = mnist_lit.predict(tmp_path / "2.png", device="cpu")
        words, labels, *_ = demo.read(content, pretrained.load("final-world"))
        assert words == "# 2"
        assert labels is not None
        assert tuple(labels.values()) == wanted.probabilities


def ask(
    address: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, str]:
    place = address.removeprefix("http://").strip("/")
    with contextlib.closing(http.client.HTTPConnection(place, timeout=60)) as connection:
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_pages_of_other_places_are_refused(address: str) -> None:
    own = address.removeprefix("http://").strip("/")
    for headers, status in (
        ({"Host": own, "Origin": f"http://{own}"}, 200),
        ({"Host": "LOCALHOST:9"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": f"rebound.example:{own.rpartition(':')[2]}"}, 400),
        ({"Host": "192.0.2.1"}, 400),
        ({"Host": ""}, 400),
        ({"Host": "[::"}, 400),
        ({"Host": own, "Origin": "http://rebound.example"}, 403),
        ({"Host": own, "Origin": "http://localhost:3000"}, 403),
        ({"Host": own, "Origin": "http://[::"}, 403),
        ({"Host": own, "Origin": "null"}, 403),
    ):
        assert ask(address, "/config", headers)[0] == status, headers


@pytest.mark.slow
def test_it_works_behind_a_proxy_that_keeps_the_host(tmp_path: Path) -> None:
    """With all addresses, it answers to any host name; other sites' pages are still refused."""
    command = [PROGRAM, "demo", "--no-browser", "--host", "0.0.0.0"]
    with (
        contextlib.ExitStack() as taken,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        ) as process,
    ):
        with contextlib.suppress(OSError):  # another process has the port
            taken.enter_context(socket.create_server(("127.0.0.1", 7860)))
        try:
            assert process.stdout is not None
            words = process.stdout.readline()
            found = re.match(r"http://localhost:(\d+)/ ", words)
            assert found, words
            assert 7860 < int(found[1]) < 7960  # the next one that is free
            address = f"http://127.0.0.1:{found[1]}/"
            through = {"Host": "digits.example", "Origin": "https://digits.example"}
            assert ask(address, "/config", {**through, "X-Forwarded-Proto": "https"})[0] == 200
            assert ask(address, "/gradio_api/upload", {**through, **FORM}, form(1000))[0] == 200
            foreign = {"Host": "digits.example", "Origin": "https://other.example"}
            assert ask(address, "/gradio_api/upload", {**foreign, **FORM}, form(1000))[0] == 403
        finally:
            process.terminate()
            out, err = process.communicate(timeout=60)
    assert (out, err) == ("", "starting the demo …\n")
    assert not list(tmp_path.iterdir())


def test_no_more_uploads_are_taken_than_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve files of 20 MB exceed 200 MB; after the removal of the first there is room again."""
    monkeypatch.setattr(demo, "KEPT", 0)
    monkeypatch.setattr(demo, "SWEEP", 0.2)
    answers: list[int] = []

    async def takes(_scope: Any, _receive: Any, _send: Any) -> None:
        answers.append(200)

    async def nothing() -> dict[str, Any]:
        return {}

    async def noted(message: dict[str, Any]) -> None:
        answers.extend([message["status"]] if "status" in message else [])

    async def upload() -> None:
        size = b"%d" % demo.UPLOAD
        headers = [(b"content-type", b"Multipart/form-data"), (b"content-length", size)]
        guard = demo.Guard(takes)
        for _ in range(12):
            await guard({"type": "http", "headers": headers}, nothing, noted)
        await asyncio.sleep(1)
        await guard({"type": "http", "headers": headers}, nothing, noted)

    with ThreadPoolExecutor() as pool:  # in this thread Playwright's loop runs
        pool.submit(lambda: asyncio.run(upload())).result()
    assert answers == [*10 * [200], 429, 429, 200]


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def form(*sizes: int) -> bytes:
    """Return the request of a browser for files of such sizes."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n'
    parts = (head % number + bytes(size) + b"\r\n" for number, size in enumerate(sizes))
    return b"".join(parts) + b"--x--\r\n"


def test_uploads_are_bounded(address: str) -> None:
    for sizes, status in (
        ([1000], 200),
        ([demo.UPLOAD + 1], 413),
        ([demo.BODY], 413),
        ([1_000_000] * 22, 413),
    ):
        assert ask(address, "/gradio_api/upload", FORM, form(*sizes))[0] == status
    chunks = {**FORM, "Transfer-Encoding": "chunked"}
    assert ask(address, "/gradio_api/upload", chunks, b"1\r\nx\r\n0\r\n\r\n")[0] == 413


@pytest.mark.parametrize(
    ("number", "data", "words"),
    [
        (0, ["no data URL", "final"], demo.HINT),
        (0, ["data:image/png;base64,AAAA", "final"], "not an image"),
        (0, [7, "final"], "has no attribute 'partition'"),
        (0, [None], "enough input values"),
        (0, ["", "nonsense"], "not in the list of choices"),
        (1, [{"path": f"{PROJECT}/docs/pictures/read.png"}, "final"], "file that was not uploaded"),
        (1, [{"path": "/etc/passwd"}, "final"], "cannot identify image file"),
        (1, [{"path": 7}, "final"], "validation error"),
        (99, [], "Internal Server Error"),
    ],
)
def test_bad_input_gets_a_word(address: str, number: int, data: list[Any], words: str) -> None:
    body = json.dumps({"data": data, "fn_index": number, "session_hash": "a"}).encode()
    kind = {"Content-Type": "application/json"}
    assert words in html.unescape(ask(address, "/gradio_api/run/predict", kind, body)[1])


def test_pictures_are_swept_from_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0").write_bytes(bytes(100))
    demo._sweep(tmp_path)
    assert list(tmp_path.iterdir())
    monkeypatch.setattr(demo, "KEPT", 0)
    demo._sweep(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 70_000, "cannot be opened: .*port must be 0-65535"),
        ("127.0.0.1", 10**30, "cannot be opened"),
        ("a..b", None, "cannot be opened"),
        ("192.0.2.1", 7860, "cannot be opened"),
    ],
)
def test_an_address_that_is_not_to_be_had(host: str, port: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        demo.serve("final", host, port)
    assert not re.search(r"\n|\.;", str(caught.value))


def test_a_port_that_is_taken() -> None:
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(UserError, match="in use"),
    ):
        demo.serve("final", "127.0.0.1", port)


def test_a_missing_gradio_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        MissingPackageError, match=r"gradio is not installed; pip install .*\[demo\]"
    ):
        demo.build("final")
