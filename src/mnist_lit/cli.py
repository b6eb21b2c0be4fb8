"""``mnist-lit``: what is done with a trained network."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_lit.launch import errors_as_lines

if TYPE_CHECKING:
    from mnist_lit import prediction

SHOWN = 200  # pictures on a sheet, at most
# What can be exported, and the ending of its file.
FORMS = {
    "onnx": ".onnx",
    "onnx-int8": "-int8.onnx",
    "torch": ".pt2",
    "c": ".h",
    "c-int8": "-int8.h",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``mnist-lit --help`` describes it."""
    parser = argparse.ArgumentParser(
        prog="mnist-lit",
        description="Work with a trained compact MNIST classifier.",
        epilog="Training is `python train.py` in a checkout; see its --help.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_demo(commands)
    _add_report(commands)
    _add_compare(commands)
    options = parser.parse_args(arguments)
    with errors_as_lines():
        options.run(options)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="count the digits that a checkpoint reads right",
        description="Count the digits that a checkpoint reads right.",
    )
    _add_model(parser)
    parser.add_argument(
        "--split",
        choices=("train", "holdout", "test"),
        default="test",
        help="60,000 training, 5,000 held-out (of data=mnist_holdout; else it was trained on them) "
        "or 10,000 test images (default: test)",
    )
    parser.add_argument(
        "--batch-size", type=_count, default=1000, metavar="N", help="default: 1000"
    )
    _add_device(parser)
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="the one above MNIST/raw")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_evaluate)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="one of the package (final, …) or a checkpoint, as outputs/…/checkpoints/best.ckpt",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, 1 or above, is expected")
    return int(text)


def _evaluate(options: argparse.Namespace) -> None:
    # Heavy imports wait until there is something to compute.
    from mnist_lit.classifier import LitClassifier
    from mnist_lit.data import load_digits
    from mnist_lit.devices import pick_device
    from mnist_lit.evaluation import evaluate
    from mnist_lit.pretrained import find

    device = pick_device(options.device)
    classifier = LitClassifier.load_from_checkpoint(find(options.model))
    digits = load_digits(options.data_root, options.split)
    result = evaluate(classifier.network, digits, options.batch_size, device)
    if options.json:
        print(
            json.dumps(
                {
                    "model": options.model,
                    "split": options.split,
                    "correct": result.correct,
                    "total": result.total,
                    "accuracy": result.accuracy,
                    "loss": result.loss,
                    "accuracy_per_digit": result.per_digit,
                    "device": str(device),
                }
            )
        )
        return
    print(f"{options.model} on {options.split}, {device}")
    print(f"Average loss: {result.loss:.4f}")
    print(f"Accuracy: {result.correct}/{result.total} ({result.accuracy:.2%})")


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "predict",
        help="read the digits on pictures",
        description="Read the digit on each picture: dark on light or the reverse, anywhere on it.",
        epilog="Exits with 1 if a picture cannot be read; the others are read all the same.",
    )
    _add_model(parser)
    parser.add_argument("pictures", nargs="+", metavar="FILE|FOLDER|GLOB", help="PNG, JPEG, …")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON list")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument(
        "--top", type=_digits, default=1, metavar="N", help="the N most probable digits (1 to 10)"
    )
    parser.add_argument(
        "--show",
        type=_png,
        metavar="FILE.png",
        help="draw the pictures, the prepared digits and the predictions into a file",
    )
    _add_device(parser)
    parser.set_defaults(run=_predict)


def _png(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text!r}: a name that ends in .png is expected")
    return Path(text)


def _digits(text: str) -> int:
    if _count(text) > 10:
        raise argparse.ArgumentTypeError(f"{text!r}: there are 10 digits")
    return int(text)


def _predict(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from mnist_lit import prediction
    from mnist_lit.classifier import LitClassifier
    from mnist_lit.devices import pick_device
    from mnist_lit.pictures import PictureError
    from mnist_lit.pretrained import find

    device = pick_device(options.device)
    network = LitClassifier.load_from_checkpoint(find(options.model)).network
    paths, errors = [], []
    for argument in options.pictures:
        try:
            paths += prediction.find_pictures([argument])
        except PictureError as error:
            errors.append(str(error))
    paths = list(dict.fromkeys(paths))
    read: list[tuple[Path, prediction.Prediction]] = []
    with tqdm(total=len(paths), unit="picture", disable=None, leave=False) as bar:
        for batch in prediction.prepare_files(paths):
            errors += [item.error for item in batch if item.digit is None]
            digits = {item.path: item.digit for item in batch if item.digit is not None}
            found = prediction.run(network, list(digits.values()), device)
            read += zip(digits, found, strict=True)
            bar.update(len(batch))
    _print_predictions(read, options)
    if options.show and read:
        sheet = prediction.sheet(read[:SHOWN])
        _write(options.show, lambda path: sheet.savefig(path, dpi=100))
    for message in errors:
        print(f"error: {message}", file=sys.stderr)
    if errors:
        raise SystemExit(1)


def _print_predictions(
    read: "list[tuple[Path, prediction.Prediction]]", options: argparse.Namespace
) -> None:
    if options.json:
        rows = [
            {
                "file": str(path),
                "digit": found.digit,
                "top": [{"digit": d, "probability": p} for d, p in found.top(options.top)],
            }
            for path, found in read
        ]
        print(json.dumps(rows, indent=1))
    elif options.csv:
        names = [
            f"{name}_{n}" for n in range(1, options.top + 1) for name in ("digit", "probability")
        ]
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", *names])
        for path, found in read:
            writer.writerow([path, *(value for pair in found.top(options.top) for value in pair)])
    else:
        for path, found in read:
            print(path, *(f"{d} ({p:.1%})" for d, p in found.top(options.top)), sep="  ")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "export",
        help="write a network for other programs and machines",
        description="Write a network in another format, after checking there that it reads the "
        "10,000 test digits as it should.",
    )
    _add_model(parser)
    parser.add_argument("--to", required=True, choices=FORMS, dest="form", help="the format")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: MODEL and an ending")
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="the one above MNIST/raw")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from mnist_lit.classifier import LitClassifier
    from mnist_lit.export import export
    from mnist_lit.pretrained import find

    network = LitClassifier.load_from_checkpoint(find(options.model)).network
    path = options.output or Path(Path(options.model).stem + FORMS[options.form])
    done = export(network, options.form, path, options.data_root)
    print(
        f"{done.path}: {done.size:,} bytes; {done.correct:,} of 10,000 test digits "
        f"(the network: {done.reference:,}), logits differ by {done.largest_difference:.1g} "
        f"at most; {done.milliseconds:.2f} ms an image"
    )


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="draw digits on a local page and watch them being read",
        description="Open a page on which to draw a digit and watch a network read it.",
    )
    parser.add_argument("model", nargs="?", default="final", help="as in predict (default: final)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone; 0.0.0.0: all"
    )
    parser.add_argument("--port", type=_count, help="default: the first free one from 7860")
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    # Gradio would ask its makers for news, and send them word of each start.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from mnist_lit.demo import launch

    launch(options.model, options.host, options.port)


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "report",
        help="make a page of what a run came to",
        description="Make one HTML file of a run or a checkpoint: requirements, curves, mistakes …",
    )
    parser.add_argument("runs", nargs=1, metavar="RUN|CHECKPOINT", help="or a model by its name")
    _add_page(parser, "report.html")


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="make a page of several runs side by side",
        description="Make one HTML file of several runs or checkpoints, side by side.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN|CHECKPOINT", help="or models by name")
    _add_page(parser, "comparison.html")


def _add_page(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--output", type=Path, default=Path(default), help=f"default: {default}")
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="the one above MNIST/raw")
    parser.set_defaults(run=_page)


def _page(options: argparse.Namespace) -> None:
    from mnist_lit.inspection import find, page

    text = page([find(run) for run in options.runs], options.data_root)
    _write(options.output, lambda path: path.write_text(text, encoding="utf-8"))
    print(options.output)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SystemExit(f"error: {path}: cannot be written: {reason}") from None
