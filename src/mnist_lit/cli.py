"""``mnist-lit``: the commands for trained networks.

Each function below adds one command: its options, and the function that it calls.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from mnist_lit import folders
from mnist_lit.config.lines import errors_as_lines
from mnist_lit.export.formats import FORMATS
from mnist_lit.text import LONGEST_LINE, for_terminal

Add = Callable[..., argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``mnist-lit --help`` describes it."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["train"]:  # Hydra parses the rest
        _train(given[1:])
        return
    options = read(given)
    if sys.stderr.isatty():
        print("loading PyTorch …", file=sys.stderr)
    with errors_as_lines():
        # Imported here, because torch takes seconds.
        resolve_name(f"mnist_lit.{options.run}")(options)


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; exits with 2 and one line if it is wrong."""
    parser = Parser(prog="mnist-lit", description="Train compact image classifiers, and use them.")
    parser.add_argument("--version", action="version", version=f"mnist-lit {version('mnist-lit')}")
    for word in arguments:
        if word.startswith("-") and os.path.lexists(word):  # from a pattern as *
            parser.error(f"{word}: a file has this name; write ./{word}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train a network, as `python train.py` in a checkout does")
    for add_command in (_list, _evaluate, _predict, _export, _demo, _pages):
        add_command(commands.add_parser)
    return parser.parse_args(arguments)


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit with 2."""
        line = for_terminal(f"{message}; see --help", LONGEST_LINE)
        self.exit(2, f"error: {line}\n")


def _type(make: Callable[[str], Any], accepted: Callable[[Any], bool], words: str) -> Any:
    """Return an option's type: a conversion, a check of the value, and words for both."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if accepted(value := make(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r}: {words} is expected")

    return read


COUNT = _type(int, range(1, 2**31).__contains__, "a whole number from 1 to 2^31 - 1")
SHARE = _type(float, lambda share: 0 <= share <= 1, "a number from 0 to 1")
PNG = _type(Path, lambda path: path.suffix.lower() == ".png", "a name that ends in .png")

# Options of several commands.
TRUST, MODEL, DEVICE = (argparse.ArgumentParser(add_help=False) for _ in range(3))
words = "a class named by the checkpoint that may be imported, which runs its code; repeatable"
TRUST.add_argument("--trust", action="append", default=[], metavar="package.Class", help=words)
words = "a network of the package (final, …), a run's folder (its best epoch) or a checkpoint"
MODEL.add_argument("model", help=words)
DEVICE.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
words = "folder of the images that the network was trained on, or the one above it"
DATA_ROOT: dict[str, Any] = {"type": Path, "metavar": "FOLDER", "help": words}


def _train(arguments: Sequence[str]) -> None:
    from mnist_lit.training.hydra import main

    own = Path("conf")  # the user's own config files
    beside = ["--config-dir", str(own.resolve())] if own.is_dir() else []
    main(folders.config(), arguments, beside)


def _list(add: Add) -> None:
    words = "list the trained networks of the package: size, accuracy, purpose"
    add("list", help=words).set_defaults(run="checkpoints.pretrained:show_table")


def _evaluate(add: Add) -> None:
    words = "count the images that a network reads right"
    parser = add("evaluate", parents=[MODEL, TRUST, DEVICE], help=words)
    parser.set_defaults(run="evaluation.commands:count")
    words = "train, test (default) or holdout images (also trained on, except with data=…_holdout)"
    splits = "train", "holdout", "test"
    parser.add_argument("--split", choices=splits, default="test", help=words)
    parser.add_argument("--batch-size", type=COUNT, default=1000, metavar="N", help="default: 1000")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--data-root", **DATA_ROOT)
    words = "folder of other images in MNIST's layout: four files, or the two of the split"
    place.add_argument("--images", type=Path, metavar="FOLDER", help=words)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _predict(add: Add) -> None:
    parser = add(
        "predict",
        parents=[MODEL, TRUST, DEVICE],
        help="read pictures",
        description="Read the digits on each picture: dark on light or the reverse, anywhere on "
        "it, in lines from top to bottom. For a network of other data a picture is resized and "
        "read as it is. Of a TIFF or PDF every page is read; HEIC and PDF need the extra "
        "`pictures`.",
        epilog="Exits with 1 if a picture cannot be decoded, shows no digit or is read with less "
        "than --min-confidence; the others are read all the same.",
    )
    parser.set_defaults(run="inference.lines:read_files")
    words = "PNG, JPEG, …; - is standard input"
    parser.add_argument("pictures", nargs="+", metavar="FILE|FOLDER|GLOB", help=words)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON list")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    words = "the N most probable classes"
    parser.add_argument("--top", type=COUNT, default=1, metavar="N", help=words)
    words = "one digit on each picture, whatever else is on it"
    parser.add_argument("--single", action="store_true", help=words)
    words = "least probability of all digits, from 0 to 1; exits with 1 below it (default: 0)"
    parser.add_argument("--min-confidence", type=SHARE, default=0.0, metavar="P", help=words)
    words = "draw the pictures, the prepared digits and the predictions into a file"
    parser.add_argument("--show", type=PNG, metavar="FILE.png", help=words)


def _export(add: Add) -> None:
    formats = "\n".join(f"  {name:<13}{form.words}" for name, form in FORMATS.items())
    parser = add(
        "export",
        parents=[MODEL, TRUST],
        help="write a network for other programs and machines",
        description="Write a network in another format, and check the file on the test images.",
        epilog=f"formats:\n{formats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run="export.run:command")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format; see below")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: MODEL and an ending")
    words = "prefix of the C functions (default: the file's name without its ending)"
    parser.add_argument("--name", help=words)
    parser.add_argument("--data-root", **DATA_ROOT)


def _demo(add: Add) -> None:
    words = "draw digits on a local page and watch them being read"
    parser = add("demo", parents=[TRUST], help=words)
    parser.set_defaults(run="cli:_serve")
    words = "as in predict (default: final-world)"
    parser.add_argument("model", nargs="?", default="final-world", help=words)
    words = "default: 127.0.0.1, this machine only; 0.0.0.0: all machines"
    parser.add_argument("--host", default="127.0.0.1", help=words)
    parser.add_argument("--port", type=COUNT, help="default: the first free one from 7860")
    words = "do not open the page"
    parser.add_argument("--no-browser", action="store_false", dest="browser", help=words)


def _serve(options: argparse.Namespace) -> None:
    print("starting the demo …", file=sys.stderr, flush=True)
    # Gradio would send usage statistics and look for a new version at each start.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from mnist_lit.inference.demo import serve

    place = options.model, options.host, options.port
    serve(*place, trust=tuple(options.trust), browser=options.browser)


def _pages(add: Add) -> None:
    one = "make a page of a run or a checkpoint: requirements, curves, mistakes …"
    several = "make a page of several runs or checkpoints, a row for each"
    pages: Any = ("report", 1, "report.html", one), ("compare", "+", "comparison.html", several)
    for name, count, default, words in pages:
        parser = add(name, parents=[TRUST], help=words)
        parser.set_defaults(run="evaluation.commands:write_page")
        which = "or a model of the package by name"
        parser.add_argument("runs", nargs=count, metavar="RUN|CHECKPOINT", help=which)
        parser.add_argument("--output", type=Path, default=default, help=f"default: {default}")
        parser.add_argument("--data-root", **DATA_ROOT)
