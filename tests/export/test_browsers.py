"""The page of the project in Firefox and in WebKit, by their own drivers."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from mnist_lit import MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.evaluation.evaluate import classify
from tests.conftest import PROJECT
from tests.inference.test_demo import STROKES, free_port

pytestmark = pytest.mark.slow
PAGE = (PROJECT / "docs/demo.html").as_uri()
START = 60  # seconds for a browser to start
SCRIPT = """
const [rows] = arguments, box = paper.getBoundingClientRect();
return [rows.map((row) => logits(row)), [box.x, box.y, box.width, box.height]];
"""

T = TypeVar("T")
Command = Callable[[str, dict[str, Any]], Any]


def patiently(start: Callable[[], T]) -> T:
    """Call until it no longer raises ``OSError``; the last error is raised after ``START``."""
    until = time.monotonic() + START
    while True:
        try:
            return start()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a browser or its driver, and stop all of its processes at the end."""
    environment = {**os.environ, "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1"}  # root has none
    process = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def firefox(folder: Path) -> Iterator[Command]:
    """Drive Firefox by its protocol Marionette: JSON behind its length."""
    port = free_port()
    (folder / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
    options = ["--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    with running(["firefox-esr", *options]):
        link = patiently(lambda: socket.create_connection(("127.0.0.1", port), START))
        with link, link.makefile("rb") as answers:

            def answer() -> Any:
                length = b"".join(iter(lambda: answers.read(1), b":"))
                return json.loads(answers.read(int(length)))

            def command(name: str, values: dict[str, Any]) -> Any:
                words = json.dumps([0, 1, f"WebDriver:{name}", values]).encode()
                link.sendall(b"%d:%s" % (len(words), words))
                _, _, error, value = answer()
                assert error is None, error
                return value.get("value")

            answer()  # its greeting
            command("NewSession", {})
            yield command


@contextlib.contextmanager
def webkit(folder: Path) -> Iterator[Command]:
    """Drive WebKitGTK's browser, on a screen of its own, by WebDriver."""
    address = f"http://127.0.0.1:{free_port()}"
    (program,) = Path("/usr/lib").glob("*/webkit2gtk-4.1/MiniBrowser")
    paths = {"Navigate": "/url", "ExecuteScript": "/execute/sync", "PerformActions": "/actions"}

    def post(path: str, values: dict[str, Any]) -> Any:
        request = urllib.request.Request(address + path, json.dumps(values).encode())
        with urllib.request.urlopen(request, timeout=START) as answer:
            return json.load(answer)["value"]

    with running(["xvfb-run", "-a", "WebKitWebDriver", f"--port={address.rpartition(':')[2]}"]):
        chosen = {"binary": str(program), "args": ["--automation"]}
        wanted = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": chosen}}}
        session = f"/session/{patiently(lambda: post('/session', wanted))['sessionId']}"
        yield lambda name, values: post(session + paths[name], values)


BROWSERS = {"firefox-esr": firefox, "WebKitWebDriver": webkit}


@pytest.mark.parametrize("name", BROWSERS)
def test_the_page_reads_and_takes_a_drawing(
    name: str, mnist: MNISTDataModule, tmp_path: Path
) -> None:
    if not shutil.which(name):
        pytest.skip(f"no {name} here; apt install firefox-esr webkit2gtk-driver xvfb")
    pixels = mnist.test.images[:100]
    with BROWSERS[name](tmp_path) as command:
        command("Navigate", {"url": PAGE})
        rows = pixels.flatten(1).tolist()
        got, (x, y, width, height) = command("ExecuteScript", {"script": SCRIPT, "args": [rows]})
        wanted = classify(pretrained.load("final").network, pixels)
        np.testing.assert_allclose(got, wanted, atol=1e-3)

        (stroke,) = STROKES["7"]
        places = [(round(x + u * width), round(y + v * height)) for u, v in stroke]
        moves = [{"type": "pointerMove", "x": x, "y": y, "duration": 50} for x, y in places]
        button = [{"type": f"pointer{kind}", "button": 0} for kind in ("Down", "Up")]
        steps = [moves[0], button[0], *moves[1:], button[1]]
        command("PerformActions", {"actions": [{"type": "pointer", "id": "m", "actions": steps}]})
        script = "return document.querySelector('output').innerText"
        until = time.monotonic() + START
        while not command("ExecuteScript", {"script": script, "args": []}).startswith("7 "):
            assert time.monotonic() < until
            time.sleep(0.1)
