"""The page to draw on, opened from the disk in a real browser."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from mnist_lit import MNIST, MNISTDataModule, predict
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.errors import UserError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.formats import FORMATS
from mnist_lit.export.run import export
from mnist_lit.export.source import Source
from mnist_lit.network.compact import CompactCNN
from tests.export.test_export import odd_network
from tests.inference.test_demo import STROKES, browser
from tests.test_text import HOSTILE, named

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
    assert len(content) <= 75_000


def test_the_browser_reads_as_the_network_does(browser: Browser, mnist: MNISTDataModule) -> None:
    page = browser.new_page()
    page.goto(DEMO.as_uri())
    pixels = mnist.test.images[:100]
    got = page.evaluate("rows => rows.map(row => logits(row))", pixels.flatten(1).tolist())
    wanted = classify(pretrained.load("final").network, pixels)
    np.testing.assert_allclose(got, wanted, atol=1e-3)
    page.close()


@pytest.mark.parametrize(
    ("digit", "width", "height"), [*((digit, 1200, 900) for digit in STROKES), ("7", 390, 800)]
)
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
    page.locator("#paper").click(trial=True)  # waits until a pointer there meets the paper
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
    # The page lays digits out as `predict` does.
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
    assert done.largest_difference < FORMATS["web"].tolerance
    assert done.correct == done.reference


def test_what_nobody_draws_is_refused(odd_network: CompactCNN, mnist: MNISTDataModule) -> None:
    facts = MNIST.of({**MNIST.plain(), "name": "shoes", "centred": False})
    source = Source(odd_network, facts, 1, 1, calibration=lambda: torch.zeros(1))
    with pytest.raises(UserError, match="shoes: a page to draw on needs images laid out as"):
        web.make(source, False)


@pytest.fixture
def paper(browser: Browser) -> Iterator[Page]:
    """The page of the project on a touch screen; checks at the end that no error occurred."""
    page = browser.new_page(has_touch=True)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(DEMO.as_uri())
    # Events of a pointer, with coordinates in pixels of the paper.
    page.evaluate(
        """() => {
            paper.setPointerCapture = () => {}; // there is no such pointer
            window.send = (kind, x, y, more) => {
                const box = paper.getBoundingClientRect();
                const place = {clientX: box.left + x, clientY: box.top + y};
                const all = {...place, pointerId: 1, buttons: 1, ...more};
                paper.dispatchEvent(new PointerEvent("pointer" + kind, all));
            };
        }"""
    )
    yield page
    assert not wrong
    page.close()


def test_a_move_without_parts_is_drawn(paper: Page) -> None:
    paper.evaluate(
        """() => {
            PointerEvent.prototype.getCoalescedEvents = () => []; // as Firefox has it on Android
            send("down", 160, 60, {});
            for (let y = 70; y < 260; y += 10) send("move", 160, y, {});
            send("up", 160, 250, {});
        }"""
    )
    assert paper.evaluate("strokes.map(points => points.length)") == [20]
    expect(paper.locator("output")).to_have_text(re.compile(r"^1 \d+\.\d %$"))


def test_a_second_finger_and_a_palm_neither_draw_nor_end_a_stroke(paper: Page) -> None:
    paper.evaluate(
        """() => {
            send("down", 160, 60, {pointerId: 5});
            send("move", 160, 100, {pointerId: 5});
            send("down", 20, 300, {pointerId: 6});
            send("move", 30, 310, {pointerId: 6});
            send("up", 30, 310, {pointerId: 6});
            send("move", 160, 140, {pointerId: 5});
            send("down", 20, 300, {pointerId: 7});
            send("cancel", 20, 300, {pointerId: 7});
            send("move", 160, 250, {pointerId: 5});
            send("up", 160, 250, {pointerId: 5});
            send("move", 300, 10, {pointerId: 5});
            send("down", 100, 250, {pointerId: 8}); // the next stroke, of another finger
            send("up", 100, 250, {pointerId: 8});
        }"""
    )
    first, second = paper.evaluate("strokes")
    np.testing.assert_allclose(first, [(160, 60), (160, 100), (160, 140), (160, 250)], atol=3)
    np.testing.assert_allclose(second, [(100, 250)], atol=3)


@pytest.mark.parametrize("how", ["touch", "mouse"])
def test_a_tap_is_a_dot(how: str, paper: Page) -> None:
    paper.evaluate("$('clear').click()")
    box = paper.locator("#paper").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    (paper.touchscreen.tap if how == "touch" else paper.mouse.click)(*middle)
    expect(paper.locator("output")).to_have_text("Not a digit? Nearest: 0, 99.2 %")
    ink = paper.evaluate("inked().reduce((a, b) => a + b)")
    assert ink == pytest.approx(np.pi * 11**2, rel=0.05)


def test_other_buttons_draw_nothing(paper: Page) -> None:
    for button in ("right", "middle"):
        paper.locator("#paper").click(button=button)
    assert paper.evaluate("strokes.length") == 0


def test_clear_ends_a_stroke(paper: Page) -> None:
    paper.evaluate("send('down', 160, 60, {}); send('move', 160, 200, {}); $('clear').click()")
    paper.evaluate("send('move', 160, 250, {}); send('up', 160, 250, {})")
    assert paper.evaluate("strokes.length") == 0
    expect(paper.locator("output")).to_have_text("Mouse, pen or finger.")
    paper.evaluate("send('down', 160, 60, {}); send('move', 160, 200, {})")
    expect(paper.locator("output")).to_have_text(re.compile(r"\d %$"))


def test_the_last_strokes_are_undone_by_button_and_keys(paper: Page) -> None:
    paper.evaluate("strokes.push(...[100, 160, 220].map((x) => [[x, 60], [x, 250]]))")
    paper.locator("#undo").click()
    assert paper.evaluate("strokes.map(points => points[0][0])") == [100, 160]
    for left in (1, 0, 0):
        paper.keyboard.press("Control+z")
        assert paper.evaluate("strokes.length") == left
    expect(paper.locator("output")).to_have_text("Mouse, pen or finger.")
    drawn = "new Uint32Array(paper.getContext('2d').getImageData(0, 0, 320, 320).data.buffer)"
    assert paper.evaluate(f"{drawn}.every(pixel => pixel === 0xffffffff)")


def test_the_keyboard_reaches_every_control(paper: Page) -> None:
    reached = []
    for _ in range(3):
        paper.keyboard.press("Tab")
        reached.append(paper.evaluate("document.activeElement.textContent"))
    assert reached == ["Undo", "Clear", "What each layer makes of it"]
    paper.keyboard.press("Enter")
    expect(paper.locator("details")).to_have_attribute("open", "")


def test_a_reading_is_announced_when_its_stroke_ends(paper: Page) -> None:
    said, announced = paper.locator("output"), paper.get_by_role("status").nth(1)
    paper.evaluate("send('down', 160, 60, {}); send('move', 160, 250, {})")
    expect(said).to_have_text(re.compile(r"^1 \d+\.\d %$"))
    expect(announced).to_have_text("Mouse, pen or finger.")
    paper.evaluate("send('up', 160, 250, {})")
    expect(announced).to_have_text(re.compile(r"^1 \d+\.\d %$"))
    assert said.get_attribute("aria-live") == "off"


def test_the_paper_has_every_pixel_of_the_screen(browser: Browser) -> None:
    page = browser.new_page(device_scale_factor=3)
    page.goto(DEMO.as_uri())
    assert page.evaluate("[paper.width, paper.height, paper.clientWidth]") == [960, 960, 320]
    # What is read is independent of the screen.
    found = page.evaluate(
        """() => {
            strokes.push([[160, 60], [160, 250]]);
            show();
            const drawn = paper.getContext("2d").getImageData(0, 0, 960, 960).data;
            const black = drawn.reduce((sum, value, i) => sum + (i % 4 === 0 && value === 0), 0);
            return [black / 9, inked().reduce((a, b) => a + b)];
        }"""
    )
    np.testing.assert_allclose(found, 22 * 190 + np.pi * 11**2, rtol=0.02)
    page.close()


ZIGZAG = [(60 + 200 * (i % 2), 60 + 14 * i) for i in range(15)]
WAVE = [(40 + 26 * i, 60 + 200 * (i % 2)) for i in range(9)]
ALL = [(12 + 296 * (i // 2 % 2 ^ i % 2), 12 + 16 * (i // 2)) for i in range(38)]
EIGHTS = [[(x + 40 * (i % 2), 60 + 30 * (i // 2)) for i in range(12)] for x in (40, 140, 240)]


@pytest.mark.parametrize(
    "strokes", [[ZIGZAG], [WAVE], [ALL], EIGHTS], ids=["scribble", "wave", "all", "three"]
)
def test_what_is_no_digit_is_announced_as_such(
    strokes: list[list[tuple[int, int]]], paper: Page
) -> None:
    paper.evaluate("drawn => { strokes.push(...drawn); show(); }", strokes)
    expect(paper.locator("#heard")).to_have_text(
        re.compile(r"^Not a digit\? Nearest: \d, \d+\.\d %$")
    )


def test_at_most_one_of_a_hundred_digits_is_called_none(
    paper: Page, mnist: MNISTDataModule
) -> None:
    images = mnist.test.images
    shares = classify(pretrained.load("final").network, images).softmax(1).amax(1)
    called = paper.evaluate(
        """([text, shares]) => {
            const all = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            return shares.map((share, i) => strange(all.subarray(784 * i, 784 * i + 784), share));
        }""",
        [base64.b64encode(images.numpy().tobytes()).decode(), shares.tolist()],
    )
    assert len(called) == 10_000
    assert 0 < sum(called) <= 100


STOPPED = "The script of this page does not run:"
POLICY = "the server's Content-Security-Policy lacks the hashes in the page's head."


@pytest.mark.parametrize(
    ("policy", "script", "words"),
    [
        ("default-src 'none'; {own}; frame-ancestors 'none'", True, "Mouse, pen or finger."),
        ("default-src 'self'", True, f"{STOPPED} {POLICY}"),
        ("", False, f"{STOPPED} JavaScript is off, or {POLICY}"),
    ],
)
def test_a_page_with_a_servers_policy_works_or_names_the_reason(
    policy: str, script: bool, words: str, browser: Browser
) -> None:
    content = DEMO.read_text()
    own = re.search(r"style-src 'sha256-[^;]*; script-src 'sha256-[^;]*", content)
    assert own is not None
    page = browser.new_page(java_script_enabled=script)
    headers = {"content-type": "text/html"}
    if policy:
        headers["content-security-policy"] = policy.format(own=own[0])
    page.route("**", lambda route: route.fulfill(body=content, headers=headers))
    page.goto("http://digits.test/")
    expect(page.locator("output")).to_have_text(words, use_inner_text=True)
    page.close()


def test_a_page_runs_no_script_but_its_own(browser: Browser) -> None:
    page = browser.new_page()
    added = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><style>p {}</style>"
    content = DEMO.read_text().replace("</main>", f"{added}</main>")
    page.route("**", lambda route: route.fulfill(body=content, content_type="text/html"))
    page.goto("http://digits.test/")
    expect(page.locator("output")).to_have_text("Mouse, pen or finger.")
    assert page.evaluate("[typeof ran, document.styleSheets.length]") == ["undefined", 1]
    page.close()


def test_any_number_of_points_is_read(paper: Page) -> None:
    paper.evaluate(
        """() => {
            strokes.push(Array.from({length: 130000}, (_, i) => [160, 60 + i / 130000 * 200]));
            show();
        }"""
    )
    expect(paper.locator("output")).to_have_text(re.compile(r"^1 \d+\.\d %$"))


def test_names_of_classes_are_shown_and_never_run(
    browser: Browser, mnist: MNISTDataModule, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = CompactCNN([{"channels": 4}], classes=len(HOSTILE)).eval()
    source = Source(network, named(HOSTILE[0]), 1, 1, calibration=lambda: torch.zeros(1))
    (tmp_path / "page.html").write_bytes(web.make(source, False))
    page = browser.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    del wrong[:1]  # the page itself
    assert page.locator("li b").all_text_contents() == HOSTILE
    said = page.evaluate(
        """() => CLASSES.map((_, best) => {
            logits = () => CLASSES.map((_, i) => i === best ? 9 : 0);
            strokes.splice(0, 1, [[160, 60], [160, 250]]);
            show();
            return $("said").firstChild.textContent;
        })"""
    )
    assert said == HOSTILE
    assert page.evaluate("[typeof ran, document.images.length, document.links.length]") == [
        *("undefined", 0, 0)
    ]
    assert not wrong
    page.close()
