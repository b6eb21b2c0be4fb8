"""``mnist-lit``: what is done with a trained network."""

import argparse
import csv
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnist_lit import folders
from mnist_lit.config.lines import errors_as_lines
from mnist_lit.errors import unknown
from mnist_lit.export.formats import FORMATS
from mnist_lit.files import write_bytes, write_text
from mnist_lit.text import LONGEST_LINE, for_terminal, show

if TYPE_CHECKING:
    from mnist_lit.inference.predict import Page
    from mnist_lit.inference.reading import Reading

SHOWN = 200  # pictures on a sheet, at most
# Of the folder of a run: all but its page; of a folder of images: the files in MNIST's layout.
KEPT = (
    *("checkpoints/*", "report.json", ".hydra/*", "figures/*", ".mnist-lit/*", "tensorboard/*"),
    *("run.log", "packages.txt", "changes.diff", "metrics.csv", "hparams.yaml", "job.json"),
    *("*-ubyte*", "raw/*-ubyte*", "MNIST/raw/*-ubyte*"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``mnist-lit --help`` describes it."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["train"]:  # the rest is Hydra's
        _train(given[1:])
        return
    options = read(given)
    # Classes that are trusted are importable from the folder in which the command is started.
    sys.path.append("")
    if sys.stderr.isatty():
        print("loading PyTorch …", file=sys.stderr)
    with errors_as_lines():
        options.run(options)


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the words of a command line; exits with 2 and a line if they cannot be meant."""
    parser = Parser(prog="mnist-lit", description="Train compact image classifiers, and use them.")
    parser.add_argument("--version", action="version", version=f"mnist-lit {version('mnist-lit')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train a network, as `python train.py` in a checkout does")
    _add_list(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_demo(commands)
    _add_report(commands)
    _add_compare(commands)
    options, rest = parser.parse_known_args(arguments)
    if rest:
        command = commands.choices[arguments[0]]
        known = [word for action in command._actions for word in action.option_strings]
        wrong = next((word for word in rest if word.startswith("-")), rest[0])
        parser.error(unknown(wrong, known, "option"))
    return options


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        choice = re.fullmatch(
            r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message
        )
        if choice:
            option = "command" if choice[1] == "COMMAND" else choice[1]
            message = unknown(choice[2], re.findall(r"[\w-]+", choice[3]), option)
        line = for_terminal(f"{message}; {self.prog} --help lists all", LONGEST_LINE)
        self.exit(2, f"error: {line}\n")


def _train(arguments: Sequence[str]) -> None:
    from mnist_lit.training.hydra import main

    own = Path("conf")  # beside which there may be files of the user's own
    beside = ["--config-dir", str(own.resolve())] if own.is_dir() else []
    main(folders.config(), arguments, beside)


def _add_list(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "list",
        help="list the trained networks of the package",
        description="List the trained networks of the package: size, accuracy, what each is for.",
    )
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    from mnist_lit.checkpoints.pretrained import table

    print(table())


def _add_evaluate(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="count the images that a network reads right",
        description="Count the images that a network reads right.",
    )
    _add_model(parser)
    parser.add_argument(
        "--split",
        choices=("train", "holdout", "test"),
        default="test",
        help="training, held-out (of data=…_holdout; else it was trained on them) or test images; "
        "of MNIST 60,000, 5,000 and 10,000 (default: test)",
    )
    parser.add_argument(
        "--batch-size", type=_count, default=1000, metavar="N", help="default: 1000"
    )
    _add_device(parser)
    place = parser.add_mutually_exclusive_group()
    _add_data_root(place)
    words = "of other images in MNIST's layout: four files, or the two of the split"
    place.add_argument("--images", type=Path, metavar="FOLDER", help=words)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_evaluate)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="one of the package (final, …), a run's folder (for its best epoch) or a checkpoint",
    )
    _add_trust(parser)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="package.Class",
        help="a network or data module that the checkpoint names and that may be imported, and so "
        "run; may be given several times",
    )


def _add_data_root(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="FOLDER",
        help="of the images that the network was trained on, or the one above it",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 to 2^31 - 1 is expected")
    return int(text)


def _evaluate(options: argparse.Namespace) -> None:
    # Heavy imports wait until there is something to compute.
    from mnist_lit.checkpoints import pretrained
    from mnist_lit.data.datasets import IdxSet
    from mnist_lit.data.reopen import reopen, split
    from mnist_lit.devices import pick_device
    from mnist_lit.evaluation.evaluate import evaluate

    device = pick_device(options.device)
    trained = pretrained.load(options.model, trust=options.trust)
    other = options.images
    data = IdxSet(other) if other else reopen(trained.facts, options.data_root, options.trust)
    images = split(data, options.split, trained.facts)
    result = evaluate(
        *(trained.network, images, trained.facts, options.batch_size, device), name=options.model
    )
    if options.json:
        print(
            json.dumps(
                {
                    "model": options.model,
                    "data": str(other or trained.facts.name),
                    "split": options.split,
                    "correct": result.correct,
                    "total": result.total,
                    "accuracy": result.accuracy,
                    "loss": result.loss,
                    "accuracy_per_class": result.per_class,
                    "device": str(device),
                }
            )
        )
        return
    where = f"{for_terminal(other or trained.facts.name)}, {options.split} images, {device}"
    show(f"{options.model} on {where}")
    print(f"Average loss: {result.loss:.4f}")
    print(f"Accuracy: {result.correct}/{result.total} ({result.accuracy:.2%})")


def _add_predict(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "predict",
        help="read pictures",
        description="Read the digits on each picture: dark on light or the reverse, anywhere on "
        "it, in lines from top to bottom. For a network of other data a picture is resized and "
        "read as it is. Of a TIFF or PDF every page is read; HEIC and PDF need the extra "
        "`pictures`.",
        epilog="Exits with 1 if a picture cannot be decoded, shows no digit or is read with less "
        "than --min-confidence; the others are read all the same.",
    )
    _add_model(parser)
    parser.add_argument(
        "pictures", nargs="+", metavar="FILE|FOLDER|GLOB", help="PNG, JPEG, …; - is standard input"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON list")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument(
        "--top", type=_count, default=1, metavar="N", help="the N most probable classes"
    )
    parser.add_argument(
        "--single", action="store_true", help="one digit on each picture, whatever else is on it"
    )
    parser.add_argument(
        "--min-confidence",
        type=_share,
        default=0.0,
        metavar="P",
        help="the least probability of the whole, from 0 to 1; exits with 1 below it (default: 0)",
    )
    parser.add_argument(
        "--show",
        type=_png,
        metavar="FILE.png",
        help="draw the pictures, the prepared digits and the predictions into a file",
    )
    _add_device(parser)
    parser.set_defaults(run=_predict)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 0 to 1 is expected")
    return share


def _png(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text!r}: a name that ends in .png is expected")
    return Path(text)


def _predict(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from mnist_lit.checkpoints import pretrained
    from mnist_lit.devices import pick_device
    from mnist_lit.errors import ConfigError, PictureError
    from mnist_lit.evaluation import figures
    from mnist_lit.inference import predict
    from mnist_lit.inference.files import find_pictures, read_content, refusing
    from mnist_lit.inference.reading import read_all

    device = pick_device(options.device)
    trained = pretrained.load(options.model, trust=options.trust)
    classes = len(trained.facts.classes)
    if options.top > classes:
        raise ConfigError(f"--top {options.top}: there are {classes} classes")
    sources: list[Path | bytes] = []
    errors = []
    for argument in options.pictures:
        try:
            if argument == "-":
                with refusing("standard input"):
                    sources.append(read_content(sys.stdin.buffer))
            else:
                sources += find_pictures([argument])
        except PictureError as error:
            errors.append(str(error))
    sources = list(dict.fromkeys(sources))
    if options.show:
        shown = _output(options.show, options.model, *(s for s in sources if isinstance(s, Path)))
    readings: list[tuple[Page, Reading]] = []
    with tqdm(total=len(sources), unit="picture", disable=None, leave=False) as bar:
        for batch in predict.prepare_files(trained.facts, sources, options.single):
            errors += [item.error for item in batch if item.error]
            decoded = [item for item in batch if not item.error]
            found = read_all(trained, [item.found for item in decoded], device)
            readings += zip((item.page for item in decoded), found, strict=True)
            bar.update(len({item.page.source for item in batch}))
    _print_readings(readings, trained.facts.noun == "digits", options)
    for page, reading in readings:
        if reading.status == "none":
            errors.append(f"{for_terminal(page.name)}: {reading.why}")
        elif reading.probability < options.min_confidence:
            errors.append(
                f"{for_terminal(page.name)}: {reading.probability:.1%} sure, less than "
                f"--min-confidence {options.min_confidence:g}"
            )
    for message in errors:
        show(f"error: {message}", error=True)
    if options.show and readings:
        write_bytes(options.show, figures.png(predict.sheet(readings[:SHOWN]), dpi=100))
        show(shown, error=True)
    if errors:
        raise SystemExit(1)


def _print_readings(
    readings: "list[tuple[Page, Reading]]", digits: bool, options: argparse.Namespace
) -> None:
    """Print what was read; a digit is its own number, other classes go by their names."""
    what = "digit" if digits else "class"

    def cell(value: object) -> object:
        # A spreadsheet takes what begins so for a formula, and what follows an apostrophe for text.
        text = for_terminal(value, len(value)) if isinstance(value, str) else ""
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text or value

    def top(reading: "Reading") -> list[tuple[int | str, float]]:
        """Of a picture of one digit; of another there is no such list."""
        if len(reading.digits) != 1:
            return []
        found = reading.digits[0]
        return [(n if digits else found.classes[n], p) for n, p in found.top(options.top)]

    if options.json:
        rows = [
            {
                "file": page.name,
                what: top(reading)[0][0] if top(reading) else None,
                "top": [{what: name, "probability": p} for name, p in top(reading)],
                "text": reading.text,
                "probability": reading.probability,
                "status": reading.status,
                "digits": [
                    {what: one.digit if digits else one.name, "probability": one.probability}
                    | {"box": list(one.box)}
                    for one in reading.digits
                ],
            }
            for page, reading in readings
        ]
        print(json.dumps(rows, indent=1))
    elif options.csv:
        names = [f"{name}_{n}" for n in range(1, options.top + 1) for name in (what, "probability")]
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", *names, "text", "probability", "status"])
        for page, reading in readings:
            best = [value for pair in top(reading) for value in pair] or [""] * len(names)
            row = [page.name, *best, reading.text, reading.probability, reading.status]
            writer.writerow(map(cell, row))
    else:
        for page, reading in readings:
            if len(reading.digits) == 1:
                said = [f"{name} ({p:.1%})" for name, p in top(reading)]
            elif reading.digits:
                said = [f"{reading.text} ({reading.probability:.1%})".replace("\n", " / ")]
            else:
                continue  # which is said as an error
            said += ["unsure"] if reading.status == "unsure" else []
            show("  ".join([for_terminal(page.name), *said]))


def _add_export(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "export",
        help="write a network for other programs and machines",
        description="Write a network in another format, after checking there that it reads the "
        "test images as it should.",
        epilog="formats:\n"
        + "\n".join(f"  {name:<13}{form.words}" for name, form in FORMATS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(parser)
    parser.add_argument(
        "--to", required=True, choices=FORMATS, dest="form", help="the format; see below"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: MODEL and an ending")
    parser.add_argument(
        "--name", help="of the functions in C (default: that of the file, without its ending)"
    )
    _add_data_root(parser)
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from mnist_lit.checkpoints import pretrained
    from mnist_lit.export.run import export

    trained = pretrained.load(options.model, trust=options.trust)
    model = Path(options.model).resolve()
    name = model.name if model.is_dir() else model.stem  # lr0.1 is the whole name of a folder
    path = options.output or Path(name + FORMATS[options.form].ending)
    named = _output(path, options.model, options.data_root)
    done = export(trained, options.form, path, options.data_root, options.trust, options.name)
    show(
        f"{named}: {done.size:,} bytes; {done.correct:,} of {done.total:,} test "
        f"{trained.facts.noun} "
        f"(the network: {done.reference:,}), logits differ by {done.largest_difference:.1g} "
        f"at most; {done.milliseconds:.3f} ms an image"
    )
    for note in done.notes:
        show(f"  {note}")


def _add_demo(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="draw digits on a local page and watch them being read",
        description="Open a page on which to draw a digit and watch a network read it.",
    )
    parser.add_argument(
        "model", nargs="?", default="final-world", help="as in predict (default: final-world)"
    )
    _add_trust(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone; 0.0.0.0: all"
    )
    parser.add_argument("--port", type=_count, help="default: the first free one from 7860")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    print("starting the demo …", file=sys.stderr, flush=True)
    # Gradio would ask its makers for news, and send them word of each start.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from mnist_lit.inference.demo import serve

    serve(
        *(options.model, options.host, options.port),
        trust=tuple(options.trust),
        browser=not options.no_browser,
    )


def _add_report(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "report",
        help="make a page of what a run came to",
        description="Make one HTML file of a run or a checkpoint: requirements, curves, mistakes …",
    )
    parser.add_argument("runs", nargs=1, metavar="RUN|CHECKPOINT", help="or a model by its name")
    _add_page(parser, "report.html")


def _add_compare(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="make a page of several runs side by side",
        description="Make one HTML file of several runs or checkpoints, side by side.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN|CHECKPOINT", help="or models by name")
    _add_page(parser, "comparison.html")


def _add_page(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--output", type=Path, default=Path(default), help=f"default: {default}")
    _add_trust(parser)
    _add_data_root(parser)
    parser.set_defaults(run=_page)


def _page(options: argparse.Namespace) -> None:
    from mnist_lit.evaluation.page import open_subject, page

    subjects = [open_subject(run, options.trust) for run in options.runs]
    named = _output(options.output, *options.runs, options.data_root)
    write_text(options.output, page(subjects, options.data_root, options.trust))
    show(named)


def _output(path: Path, *read: str | Path | None) -> str:
    """Return how a line names a file that will be written; one that is read as well is refused."""
    from mnist_lit.checkpoints.pretrained import WEIGHTS
    from mnist_lit.errors import WriteError

    if not os.path.isfile(there := os.path.expanduser(path)):  # noqa: PTH111, PTH113  # never raise
        return str(path)
    for one in (Path(os.path.expanduser(name)) for name in read if name is not None):  # noqa: PTH111
        parts = (part for pattern in KEPT for part in one.glob(pattern))
        if any(f.exists() and f.samefile(there) for f in (one, WEIGHTS / f"{one}.ckpt", *parts)):
            raise WriteError(f"{path}: cannot be written: it is read as well; give another name")
    return f"{path} (replaced)"
