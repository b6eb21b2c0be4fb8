"""A local page on which to draw a digit and watch a network read it."""

import base64
import io
import webbrowser
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.errors import DemoError, PictureError, need
from mnist_lit.inference.pictures import prepare_for
from mnist_lit.inference.predict import run
from mnist_lit.network.compact import count_parameters

SEEN = 8  # screen pixels for each of the 28
HINT = "Draw a digit, or give a picture of one."
PAPER = """
<canvas width="320" height="320" aria-label="paper"></canvas>
<button type="button">Clear</button>
"""
STYLE = """
canvas { width: 100%; max-width: 320px; aspect-ratio: 1; display: block; background: white;
         border: 1px solid silver; border-radius: 8px; touch-action: none; cursor: crosshair; }
button { margin-top: 8px; padding: 4px 16px; border: 1px solid silver; border-radius: 8px; }
"""
# Tells of the drawing ten times a second while a stroke goes on, and at its end.
DRAW = """
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let drawing = false, told = 0;
const clear = () => {
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
};
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
Object.assign(pen, {lineWidth: 22, lineCap: "round", lineJoin: "round", strokeStyle: "black"});
clear();
canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drawing = true;
    pen.beginPath();
    to(event);
});
canvas.addEventListener("pointermove", (event) => { if (drawing) to(event); });
for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => { if (drawing) { drawing = false; tell(); } });
element.querySelector("button").addEventListener("click", () => { clear(); tell(); });
"""


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
    known = pretrained.names()
    models = known if model in known else [model, *known]
    trained(model, trust)
    with gr.Blocks(title="mnist-lit", analytics_enabled=False) as page:
        gr.Markdown("# mnist-lit\nA network of a few kilobytes reads the digit that you draw.")
        with gr.Row():
            with gr.Column():
                paper = gr.HTML(
                    html_template=PAPER, css_template=STYLE, js_on_load=DRAW, elem_id="paper"
                )
                picture = gr.Image(
                    label="or a picture of a digit",
                    type="pil",
                    sources=["upload", "clipboard"],
                    elem_id="picture",
                )
            with gr.Column():
                choice = gr.Dropdown(
                    [(describe(name, trust), name) for name in models],
                    value=model,
                    label="Network",
                    elem_id="model",
                )
                words = gr.Markdown(HINT, elem_id="words")
                seen = gr.Image(
                    label="What the network sees (28×28)",
                    interactive=False,
                    buttons=[],
                    elem_id="seen",
                )
                probabilities = gr.Label(
                    label="Probabilities", num_top_classes=10, elem_id="probabilities"
                )
        latest = gr.State()  # the drawing or the picture, for another network to read
        outputs = [words, probabilities, seen]

        def on_drawing(drawing: str, name: str) -> tuple[Any, ...]:
            drawn = decode(drawing)
            return drawn, *read(drawn, name, trust)

        # Of the drawings that come while one is being read only the newest matters.
        live: Any = {"show_progress": "hidden", "trigger_mode": "always_last"}
        paper.input(on_drawing, [paper, choice], [latest, *outputs], **live)
        picture.change(
            lambda p, name: (p, *read(p, name, trust)), [picture, choice], [latest, *outputs]
        )
        choice.change(lambda p, name: read(p, name, trust), [latest, choice], outputs, **live)
    return page


def read(
    picture: Image.Image | None, model: str, trust: tuple[str, ...] = ()
) -> tuple[str, dict[str, float] | None, ndarray | None]:
    """Return what the page shows of a picture: words, probabilities, and what was seen."""
    if picture is None or picture.convert("L").getextrema() == (255, 255):
        return HINT, None, None
    try:
        prepared = prepare_for(trained(model, trust).facts, picture)
    except PictureError as error:
        return f"{HINT} ({error})", None, None
    (found,) = run(trained(model, trust), [prepared], torch.device("cpu"))
    shown = np.kron(prepared, np.ones((SEEN, SEEN), dtype=np.uint8))
    labels = dict(zip(found.classes, found.probabilities, strict=True))
    return f"# {found.name}", labels, shown


def decode(drawing: str) -> Image.Image:
    """Read a PNG that a browser gave as a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(drawing.partition(",")[2])))


@cache
def trained(model: str, trust: tuple[str, ...] = ()) -> Trained:
    """Load a network once."""
    return pretrained.load(model, trust=trust)


def describe(model: str, trust: tuple[str, ...] = ()) -> str:
    """Name a model with its size, and its accuracy if that is on record."""
    if model not in pretrained.names():
        return f"{Path(model).name}: {count_parameters(trained(model, trust).network):,} parameters"
    known = pretrained.record(model)
    accuracy = known["test_correct"] / known["test_total"]
    return f"{model}: {known['parameters']:,} parameters, {accuracy:.2%}"


def serve(
    model: str,
    host: str,
    port: int | None,
    wait: bool = True,
    trust: tuple[str, ...] = (),
    browser: bool = False,
) -> str:
    """Serve the page and, with ``wait``, keep it open until Ctrl-C; returns its address.

    Args:
        model: The one that is picked at first: of the package, or a checkpoint.
        host: The address to listen at.
        port: None for the first free one from 7860.
        wait: Return only after Ctrl-C.
        trust: Classes that a checkpoint may name, beside those of this project.
        browser: Open the page in a browser.

    Raises:
        MissingPackageError: Gradio is not installed.
        DemoError: The address is not to be had.
    """
    gr = need("gradio", "demo")
    page = build(model, trust)
    # Only fonts of the machine: the page needs no network.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            quiet=True,
            share=False,
            prevent_thread_lock=True,
            footer_links=[],
            ssr_mode=False,
        )
    except OSError as error:
        raise DemoError(f"{host}, port {port or 'any'}: cannot be opened: {error}") from None
    print(f"{address} (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(str(address))
    if wait:
        page.block_thread()
    return str(address)
