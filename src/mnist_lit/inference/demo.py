"""A local page on which to draw a digit and watch a network read it."""

import base64
import errno
import html
import os
import signal
import socket
import tempfile
import time
import webbrowser
from asyncio import get_running_loop
from contextlib import redirect_stderr, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from mnist_lit.checkpoints import pretrained
from mnist_lit.errors import MissingPackageError, PictureError, UserError, need
from mnist_lit.inference.files import open_picture
from mnist_lit.inference.pictures import prepare_for, to_gray
from mnist_lit.inference.predict import boxed, montage
from mnist_lit.inference.reading import read_all
from mnist_lit.network.compact import count_parameters
from mnist_lit.text import for_terminal

SEEN = 8  # screen pixels for each of the 28
HINT = "Draw a digit or a number, or give a picture of one."
PORTS = range(7860, 7960)
UPLOAD = 20_000_000  # bytes of a picture, at most
BODY = UPLOAD + 1_000_000  # bytes of a request, at most: a picture and what goes with it
KEPT = 120  # seconds that a picture lies in the temporary folder
ROOM = 200_000_000  # bytes of pictures in it, at most
SWEEP = 5  # seconds between looks into it
SESSIONS = 20  # pages whose latest picture is remembered
EVERYWHERE = ("0.0.0.0", "[::]")
PAPER = """
<canvas width="480" height="320" aria-label="paper"></canvas>
<button type="button">Clear</button>
"""
STYLE = """
canvas { width: 100%; max-width: 480px; aspect-ratio: 3 / 2; display: block; background: white;
         border: 1px solid silver; border-radius: 8px; touch-action: none; cursor: crosshair; }
button { margin-top: 8px; padding: 4px 16px; border: 1px solid silver; border-radius: 8px; }
"""
# Tells of the drawing ten times a second while a stroke goes on, and at its end.
DRAW = """
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let finger = null, told = 0;  // the pointer that draws: a palm or a second finger does not
const clear = () => pen.fillRect(0, 0, canvas.width, canvas.height);
const tell = () => {
    told = Date.now();
    props.value = canvas.toDataURL("image/png");
    trigger("input");
};
const to = (event) => {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    pen.lineTo((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    pen.stroke();
    if (Date.now() - told > 100) tell();
};
Object.assign(pen, {lineWidth: 22, lineCap: "round", lineJoin: "round", fillStyle: "white"});
clear();
canvas.addEventListener("pointerdown", (event) => {
    if (finger !== null || event.button !== 0) return;
    finger = event.pointerId;
    canvas.setPointerCapture(finger);
    pen.beginPath();
    to(event);
    to({clientX: event.clientX + 0.1, clientY: event.clientY});  // a tap is a dot
});
canvas.addEventListener("pointermove", (event) => { if (event.pointerId === finger) to(event); });
canvas.addEventListener("lostpointercapture", (event) => {  // it is lifted, or cancelled
    if (event.pointerId === finger) { finger = null; tell(); }
});
element.querySelector("button").addEventListener("click", () => {
    finger = null;
    clear();
    tell();
});
"""
trained = cache(pretrained.load)  # each network once


def build(model: str, trust: tuple[str, ...] = ()) -> Any:
    """Make the page, a ``gradio.Blocks``.

    Args:
        model: The one that is picked at first: of the package, or a checkpoint.
        trust: Classes that a checkpoint may name, beside those of this project.

    Raises:
        MissingPackageError: Gradio is not installed.
        CheckpointError: There is no such model.
    """
    gr = need("gradio", "demo")
    with suppress(MissingPackageError):  # Gradio opens a picture before it is read here
        need("pillow_heif", "pictures").register_heif_opener()
    trained(model, trust=trust)
    models = dict.fromkeys([model, *pretrained.names()])
    with gr.Blocks(title="mnist-lit", analytics_enabled=False) as page:
        gr.Markdown("# mnist-lit\nA network of a few kilobytes reads the digits that you draw.")
        with gr.Row():
            with gr.Column():
                paper = gr.HTML(
                    html_template=PAPER, css_template=STYLE, js_on_load=DRAW, elem_id="paper"
                )
                picture = gr.Image(
                    label="or a picture of digits",
                    type="filepath",
                    image_mode=None,  # any other would be decoded here, whatever its size
                    sources=["upload", "webcam", "clipboard"],
                    # A digit must not be mirrored; a telephone has its better camera at the back.
                    webcam_options=gr.WebcamOptions(
                        mirror=False, constraints={"video": {"facingMode": "environment"}}
                    ),
                    elem_id="picture",
                )
            with gr.Column():
                networks = [(describe(name, trust), name) for name in models]
                choice = gr.Dropdown(networks, value=model, label="Network", elem_id="model")
                words = gr.Markdown(HINT, elem_id="words")
                given = {"interactive": False, "buttons": []}
                seen = gr.Image(
                    label="What the network sees (28×28 a digit)", elem_id="seen", **given
                )
                probabilities = gr.Label(
                    label="Probabilities of one digit", num_top_classes=10, elem_id="probabilities"
                )
                boxes = gr.Image(label="Where it found them", elem_id="boxes", **given)
        latest = gr.State()  # the drawing or the picture, for another network to read
        outputs = [latest, words, probabilities, seen, boxes]

        def answer(content: bytes | None, name: str) -> tuple[Any, ...]:
            return content, *read(content, name, trust)

        # Of the drawings that come while one is being read only the newest matters.
        live: Any = {"outputs": outputs, "show_progress": "hidden", "trigger_mode": "always_last"}
        paper.input(lambda drawing, name: answer(decode(drawing), name), [paper, choice], **live)
        picture.change(lambda path, name: answer(uploaded(path), name), [picture, choice], outputs)
        choice.change(answer, [latest, choice], **live)
    return page


def read(
    picture: bytes | None, model: str, trust: tuple[str, ...] = ()
) -> tuple[str, dict[str, float] | None, Image.Image | None, Image.Image | None]:
    """Return what the page shows of a picture file.

    Words, the probabilities of one digit, what the network saw, and the picture with boxes.
    """
    if picture is None:
        return HINT, None, None, None
    try:
        image = open_picture(picture)
        if to_gray(image).min() == 1:  # the empty paper
            return HINT, None, None, None
        network = trained(model, trust=trust)
        found = prepare_for(network.facts, image, single=False)
    except PictureError as error:
        return f"{HINT} ({error})", None, None, None
    (reading,) = read_all(network, [found], torch.device("cpu"))
    if reading.status == "none":
        return f"# no digit\n{reading.why}", None, None, None
    said = ["# " + html.escape(reading.text).replace("\n", "<br>")]
    if len(reading.digits) > 1:
        said.append(f"{reading.probability:.1%}")
    if reading.status == "unsure":
        said.append("unsure")
    large = ImageOps.scale(Image.fromarray(montage(reading)), SEEN, Image.Resampling.NEAREST)
    labels = None
    if len(reading.digits) == 1:
        (digit,) = reading.digits
        labels = dict(zip(digit.classes, digit.probabilities, strict=True))
    return "\n".join(said), labels, large, boxed(image, reading)


def decode(drawing: Any) -> bytes:
    """Read a file that a browser gave as a data URL.

    Raises:
        PictureError: It is something else.
    """
    try:
        return base64.b64decode(drawing.partition(",")[2], validate=True)
    except (AttributeError, TypeError, ValueError):
        raise PictureError("the drawing: a PNG as a data URL is expected") from None


def uploaded(path: str | None) -> bytes | None:
    """Read a picture that Gradio has put into the temporary folder.

    Raises:
        PictureError: It lies elsewhere; Gradio lets some of those through.
    """
    if path is None:
        return None
    if not Path(path).resolve().is_relative_to(Path(tempfile.gettempdir()).resolve()):
        raise PictureError("a file that was not uploaded")
    return Path(path).read_bytes()


def describe(model: str, trust: tuple[str, ...] = ()) -> str:
    """Name a model with its size, and its accuracy if that is on record."""
    if model not in pretrained.names():
        parameters = count_parameters(trained(model, trust=trust).network)
        return f"{Path(model).name}: {parameters:,} parameters"
    known = pretrained.record(model)
    accuracy = known["test_correct"] / known["test_total"]
    return f"{model}: {known['parameters']:,} parameters, {accuracy:.2%}"


class Guard:
    """Refuses what Gradio carries out for pages of other places, and what would fill the disk.

    Gradio's own check keeps another page from reading an answer, but not from sending pictures; its
    ``max_file_size`` bounds a file, but neither a body of many files nor their sum.

    Args:
        app: What is guarded, an ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.held = 0  # bytes of uploads that may lie in the temporary folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it."""
        headers = {name: text.decode("latin-1") for name, text in scope.get("headers", ())}
        origin = headers.get(b"origin")
        size = int(headers.get(b"content-length", "0"))
        upload = size if headers.get(b"content-type", "").lower().startswith("multipart/") else 0
        if origin is not None and origin.partition("//")[2] != headers.get(b"host"):
            status, words = 403, "this is no page for pages of other places"
        elif size > BODY or b"transfer-encoding" in headers:
            status, words = 413, f"more than {UPLOAD / 1e6:.0f} MB, or of no known size"
        elif upload and self.held + upload > ROOM:
            status, words = 429, f"too many pictures; try again in {KEPT} s"
        else:
            self.held += upload
            try:
                await self.app(scope, receive, send)
            finally:
                get_running_loop().call_later(KEPT + 2 * SWEEP, self._release, upload)
            return
        while (await receive()).get("more_body"):
            pass  # a browser that is cut off while it sends shows no answer
        refusal = need("starlette.responses", "demo").PlainTextResponse
        await refusal(f"{words}\n", status, {"connection": "close"})(scope, receive, send)

    def _release(self, upload: int) -> None:
        self.held -= upload


def serve(
    model: str, host: str, port: int | None, trust: tuple[str, ...] = (), browser: bool = False
) -> None:
    """Serve the page until Ctrl-C, or until the process is asked to end.

    It answers requests for ``localhost``, this machine's own addresses 127.0.0.1 and ::1, and the
    host; of 0.0.0.0 and :: those for any name. Pictures lie in a temporary folder of its own for
    two minutes, 200 MB of them at most, and it goes at the end.

    Args:
        model: The one that is picked at first: of the package, or a checkpoint.
        host: The address to listen at.
        port: None for the first free one from 7860.
        trust: Classes that a checkpoint may name, beside those of this project.
        browser: Open the page in a browser.

    Raises:
        MissingPackageError: Gradio is not installed.
        UserError: The address is not to be had.
    """
    port = _free(host.strip("[]"), port)
    host = f"[{host.strip('[]')}]" if ":" in host else host  # as it stands in an address
    # Gradio asks its page for an answer when it starts, through the proxy that these would name.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    with (
        tempfile.TemporaryDirectory(prefix="mnist-lit-demo-", ignore_cleanup_errors=True) as folder,
        Path(os.devnull).open("w") as nowhere,
        # Gradio prints a traceback of each nonsense; who sent it is answered.
        redirect_stderr(nowhere),
    ):
        # Gradio reads its own when it is imported; some of its uploads lie where Python's are.
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(model, trust)
        _launch(page, host, port)
        address = f"http://{'localhost' if host in EVERYWHERE else host}:{port}/"
        print(f"{address} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(address)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            while page.is_running:
                time.sleep(SWEEP)
                _sweep(Path(folder))
        page.close(verbose=False)


def _launch(page: Any, host: str, port: int) -> None:
    gr = need("gradio", "demo")
    middleware = need("starlette.middleware", "demo").Middleware
    trusted = need("starlette.middleware.trustedhost", "demo").TrustedHostMiddleware
    # A page elsewhere could have its own name resolved to this machine. Who listens everywhere
    # means others to come, by names that only they and a proxy know.
    names = ["*"] if host in EVERYWHERE else [host, "localhost", "127.0.0.1", "[::1]"]
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        show_error=True,
        max_file_size=UPLOAD,
        state_session_capacity=SESSIONS,
        # Only fonts of the machine: the page needs no network.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        app_kwargs={"middleware": [middleware(trusted, allowed_hosts=names), middleware(Guard)]},
    )


def _free(host: str, port: int | None) -> int:
    """Return a port that can be had; Gradio would try a hundred of a wrong host, 5 s each."""
    place = f"--host {for_terminal(host)}, --port {port or 'any'}: cannot be opened"
    if port is not None and not 1 <= port <= 65_535:
        raise UserError(f"{place}: a port from 1 to 65535 is expected")
    words: object = ""
    for one in PORTS if port is None else [port]:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, one), family=family).close()
            return one
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            words = getattr(error, "strerror", None) or error
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                break
    raise UserError(f"{place}: {words}; give another")


def _sweep(folder: Path) -> None:
    """Remove pictures that are too old: Gradio's ``delete_cache`` forgets those cut off midway."""
    for path in folder.rglob("*"):
        with suppress(OSError):  # Gradio removes some too
            if path.is_file() and time.time() - path.stat().st_ctime > KEPT:
                path.unlink()
