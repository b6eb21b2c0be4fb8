"""A local page to draw digits on, which a network reads."""

import base64
import html
import os
import re
import signal
import socket
import tempfile
import time
import webbrowser
from asyncio import get_running_loop
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.errors import MissingPackageError, PictureError, UserError, need, reason
from mnist_lit.inference.files import open_picture
from mnist_lit.inference.predict import boxed, montage, predict

SEEN = 8  # screen pixels for each of the 28
HINT = "Draw a digit or a number, or give a picture of one."
UPLOAD = 20_000_000  # bytes of a picture, at most
BODY = UPLOAD + 1_000_000  # bytes of a request, at most: a picture and its headers
KEPT = 120  # seconds that a picture stays in the temporary folder
ROOM = 200_000_000  # bytes of pictures in that folder, at most
SWEEP = 5  # seconds between removals of old pictures
SESSIONS = 20  # open pages that keep their latest picture
EVERYWHERE = ("0.0.0.0", "[::]")
PAPER = Path(__file__).with_name("paper.html")  # with paper.js beside it


def build(model: str, trust: tuple[str, ...] = ()) -> Any:
    """Make the page, a ``gradio.Blocks``.

    Args:
        model: The network selected first: a name of the package, or a checkpoint.
        trust: Classes of other packages that a checkpoint may name.

    Raises:
        MissingPackageError: Gradio is not installed.
        CheckpointError: There is no such model.
    """
    gr = need("gradio", "demo")
    with suppress(MissingPackageError):  # Gradio opens a picture before `read` does
        need("pillow_heif", "pictures").register_heif_opener()
    networks = {name: pretrained.load(name, trust=trust) for name in (model, *pretrained.names())}
    with gr.Blocks(title="mnist-lit", analytics_enabled=False) as page:
        gr.Markdown("# mnist-lit\nA network of a few kilobytes reads the digits that you draw.")
        with gr.Row():
            with gr.Column():
                paper = gr.HTML(
                    html_template=PAPER.read_text(),
                    js_on_load=PAPER.with_suffix(".js").read_text(),
                    elem_id="paper",
                )
                words = gr.Markdown(HINT, elem_id="words")  # on a telephone, below the paper
                picture = gr.Image(
                    label="or a picture of digits",
                    type="filepath",
                    image_mode=None,  # with another mode Gradio would decode it, whatever its size
                    # A digit must not be mirrored. A telephone's rear camera is the better one.
                    webcam_options=gr.WebcamOptions(
                        mirror=False, constraints={"video": {"facingMode": "environment"}}
                    ),
                    elem_id="picture",
                    height=200,
                )
                choice = gr.Radio([*networks], value=model, label="Network", elem_id="model")
            with gr.Column():
                given = {"interactive": False, "buttons": []}
                seen = gr.Image(
                    label="What the network sees (28×28 a digit)", elem_id="seen", **given
                )
                probabilities = gr.Label(
                    label="Probabilities of one digit", num_top_classes=10, elem_id="probabilities"
                )
                boxes = gr.Image(label="Where it found them", elem_id="boxes", **given)
        latest = gr.State()  # the drawing or picture, to be read again by another network
        outputs = [latest, words, probabilities, seen, boxes]

        def answer(content: bytes | None, name: str) -> tuple[Any, ...]:
            return content, *read(content, networks[name])

        # While a drawing is read, only the newest of the following ones is kept.
        live: Any = {"outputs": outputs, "show_progress": "hidden", "trigger_mode": "always_last"}
        paper.input(lambda drawing, name: answer(decode(drawing), name), [paper, choice], **live)
        picture.change(lambda path, name: answer(uploaded(path), name), [picture, choice], outputs)
        choice.change(answer, [latest, choice], **live)
    return page


def read(picture: bytes | None, network: Trained) -> tuple[Any, ...]:
    """Read a picture file; return the outputs of the page.

    These are the text, the probabilities of one digit, the network's input, and the picture with
    boxes.

    Raises:
        PictureError: It cannot be decoded.
    """
    if not picture:
        return HINT, None, None, None
    image = open_picture(picture)
    (reading,) = predict(image, network, "cpu")
    if reading.status == "none":
        return f"# no digit\n{reading.why}", None, None, None
    # As Markdown, a class's name could fetch a picture.
    text = re.sub(r"([\\`*_{}\[\]()!|~])", r"\\\1", html.escape(reading.text))
    said = "# " + text.replace("\n", "<br>")
    labels = None
    if len(reading.digits) == 1:
        labels = dict(zip(network.facts.classes, reading.probabilities, strict=True))
    else:
        said += f"\n{reading.probability:.1%}"
    if reading.status == "unsure":
        said += f"\nunsure: {reading.why}"
    large = ImageOps.scale(Image.fromarray(montage(reading)), SEEN, Image.Resampling.NEAREST)
    return said, labels, large, boxed(image, reading)


def decode(drawing: str) -> bytes:
    """Return the file in a data URL."""
    return base64.b64decode(drawing.partition(",")[2])


def uploaded(path: str | None) -> bytes | None:
    """Read a picture that Gradio has saved in the temporary folder.

    Raises:
        PictureError: The path is elsewhere; Gradio accepts some such paths.
    """
    if path is None:
        return None
    if not Path(path).resolve().is_relative_to(Path(tempfile.gettempdir()).resolve()):
        raise PictureError("a file that was not uploaded")
    return Path(path).read_bytes()


class Guard:
    """Refuses requests of other sites' pages, and uploads that would fill the disk.

    Gradio's own check prevents another site from reading an answer, but not from sending pictures.
    Its ``max_file_size`` limits one file, but neither a request with many files nor their sum.

    Args:
        app: The ASGI application to guard.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.held = 0  # bytes of uploads that may still be in the temporary folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request to the application, or refuse it."""
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
            pass  # a browser shows the answer only if it could send everything
        from starlette.responses import PlainTextResponse

        refusal = PlainTextResponse(f"{words}\n", status, {"connection": "close"})
        await refusal(scope, receive, send)

    def _release(self, upload: int) -> None:
        self.held -= upload


def serve(
    model: str, host: str, port: int | None, trust: tuple[str, ...] = (), browser: bool = False
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    It answers requests with the host name ``localhost``, 127.0.0.1, ::1 or ``host``; with any name
    if ``host`` is 0.0.0.0 or ::. Pictures stay in a separate temporary folder for two minutes, at
    most 200 MB of them; the folder is removed at the end.

    Args:
        model: The network selected first: a name of the package, or a checkpoint.
        host: The address to listen at.
        port: The port; None for the first free one from 7860.
        trust: Classes of other packages that a checkpoint may name.
        browser: Whether to open the page in a browser.

    Raises:
        MissingPackageError: Gradio is not installed.
        UserError: The address is not available.
    """
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:  # for a wrong host Gradio would try a hundred ports, 5 s each
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((name, port or 0))
    except (OSError, OverflowError, ValueError) as error:  # ValueError: an invalid name
        place = f"--host {host}, --port {port or 'any'}"
        raise UserError(f"{place}: give another; cannot be opened: {reason(error)}") from None
    host = f"[{name}]" if ":" in name else name  # as in a URL
    # At its start Gradio requests its own page, which must not go through a proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    with (
        tempfile.TemporaryDirectory(prefix="mnist-lit-demo-", ignore_cleanup_errors=True) as folder,
        Path(os.devnull).open("w") as nowhere,
        # Gradio prints a traceback for each invalid request; the sender gets an answer.
        redirect_stderr(nowhere),
    ):
        # Gradio reads its variable on import; some of its uploads go to Python's folder.
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(model, trust)
        _launch(page, host, port)
        address = page.local_url.replace("[::]", "localhost")
        print(f"{address} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(address)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            while page.is_running:
                time.sleep(SWEEP)
                _sweep(Path(folder))
        page.close(verbose=False)


def _launch(page: Any, host: str, port: int | None) -> None:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Another site could let its own name resolve to this machine. With all addresses, users come
    # from other machines or a proxy, by unknown names.
    names = ["*"] if host in EVERYWHERE else [host, "localhost", "127.0.0.1", "[::1]"]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(Guard)]
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        show_error=True,
        max_file_size=UPLOAD,
        state_session_capacity=SESSIONS,
        # Only local fonts: the page needs no network.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        app_kwargs={"middleware": guards},
    )


def _sweep(folder: Path) -> None:
    """Remove old pictures; Gradio's ``delete_cache`` misses interrupted uploads."""
    for path in folder.rglob("*"):
        with suppress(OSError):  # Gradio removes some too
            if path.is_file() and time.time() - path.stat().st_ctime > KEPT:
                path.unlink()
