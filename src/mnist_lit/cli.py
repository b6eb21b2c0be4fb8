"""``mnist-lit``: what is done with a trained network."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mnist_lit.launch import errors_as_lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``mnist-lit --help`` describes it."""
    parser = argparse.ArgumentParser(
        prog="mnist-lit",
        description="Work with a trained compact MNIST classifier.",
        epilog="Training is `python train.py` in a checkout; see its --help.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_evaluate(commands)
    options = parser.parse_args(arguments)
    with errors_as_lines():
        options.run(options)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="count the digits that a checkpoint reads right",
        description="Count the digits that a checkpoint reads right.",
    )
    parser.add_argument(
        "model",
        help="one of the package (final, …) or a checkpoint, as outputs/…/checkpoints/best.ckpt",
    )
    parser.add_argument(
        "--split",
        choices=("train", "holdout", "test"),
        default="test",
        help="60,000 training, 5,000 held-out or 10,000 test images (default: test)",
    )
    parser.add_argument(
        "--batch-size", type=_count, default=1000, metavar="N", help="default: 1000"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="the one above MNIST/raw")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_evaluate)


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
