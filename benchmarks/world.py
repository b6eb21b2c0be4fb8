"""Accuracy on people's pictures: groups of them, made of MNIST's test digits.

``python benchmarks/world.py`` prints the share of each group that is read right, and writes
``results/world.json`` beside it. ``python benchmarks/world.py cells margin`` measures some groups.
``--keep FOLDER`` saves the misread pictures. The calibration error uses pictures of one digit, with
their probabilities in 15 bins.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from accuracy import ROOT
from numpy import ndarray
from PIL import Image
from torchmetrics.functional.classification import binary_calibration_error
from tqdm import tqdm

from mnist_lit import MNISTDataModule, load_pretrained, predict

sys.path.insert(0, str(ROOT))  # the tests make the pictures

from tests.inference.world import GROUPS, SEVERAL, Case

RESULTS = ROOT / "benchmarks" / "results" / "world.json"
OPTDIGITS = "scikit-learn's 8×8"
KNOWN = (OPTDIGITS, *GROUPS, *SEVERAL)
# Number of digits, by the group's first word.
NUMBER = {
    "page": 60,
    "equal": 100,
    "broken": 200,
    "numbers": 5_000,
    "touching": 2_500,
    "lines": 2_500,
    "filling": 1_000,
    "cut": 1_000,
    "desk": 500,
    "ledger": 1_000,
    "uphill": 1_000,
    "painted": 1_000,
    "frames": 400,
    "shadow": 400,
    "blurred": 400,
    "segments": 400,
    "dots": 400,
    "segment numbers": 1_000,
    "dot numbers": 1_000,
}
USUAL = 600


def digits(count: int) -> Iterator[tuple[ndarray, str]]:
    """Yield the first test digits, ``uint8 [28, 28]``, and their labels."""
    images = MNISTDataModule().images("test")
    for number in range(count):
        yield images.images[number, 0].numpy(), str(int(images.labels[number]))


def optdigits() -> Iterator[Case]:
    """Yield the first digits of scikit-learn's ``load_digits``, dark and light in turns."""
    from sklearn.datasets import load_digits  # of the extra `dev`, which tests do not need

    data = load_digits()
    for number in range(USUAL):
        gray = (data.images[number] * 255 / 16).astype(np.uint8)
        yield Case(Image.fromarray(255 - gray if number % 2 else gray), str(data.target[number]))


def group(name: str) -> list[Case]:
    """Make the pictures of a group."""
    if name == OPTDIGITS:
        return list(optdigits())
    count = NUMBER.get(name, NUMBER.get(name.split()[0], USUAL))
    return list({**GROUPS, **SEVERAL}[name](digits(count), np.random.default_rng(0)))


def measure(name: str, model: str, single: bool, keep: Path | None) -> dict[str, Any]:
    """Read a group."""
    right = refused = unsure = sure_and_wrong = 0
    confidence, correct = [], []
    cases = group(name)
    network = load_pretrained(model)
    started = time.perf_counter()
    for number, case in enumerate(tqdm(cases, unit="picture", disable=None, leave=False)):
        (found,) = predict(case.picture, network, single=single)
        said = found.text
        right += said == case.text
        refused += not said
        unsure += found.status == "unsure"
        sure_and_wrong += found.status == "read" and said != case.text
        if len(found.digits) == 1:
            confidence.append(found.probability)
            correct.append(int(said == case.text))
        if keep is not None and said != case.text:
            file = keep / f"{name.replace(' ', '-')}-{number}-{case.text}-{said or 'none'}.png"
            case.picture.save(file)
    seconds = time.perf_counter() - started
    counts = {"n": len(cases), "right": right, "refused": refused, "unsure": unsure}
    counts["sure and wrong"] = sure_and_wrong
    error = None
    if confidence:
        given = torch.tensor(confidence), torch.tensor(correct)
        error = round(float(binary_calibration_error(*given, n_bins=15)), 4)
    return {**counts, "calibration_error": error, "seconds": round(seconds, 2)}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", help=f"{', '.join(KNOWN)} (default: all)")
    parser.add_argument("--model", default="final-world", help="default: %(default)s")
    parser.add_argument("--single", action="store_true", help="look for one digit a picture")
    parser.add_argument("--keep", type=Path, help="save the misread pictures in this folder")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Measure the groups that the command line names."""
    parser = command_line()
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.is_file() else {"groups": {}}
    results |= {
        "command": "python benchmarks/world.py",
        "date": date.today().isoformat(),
        "scipy": scipy.__version__,
    }
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    for name in options.groups or KNOWN:
        if name not in KNOWN:
            parser.error(f"{name}: no such group; there are {', '.join(KNOWN)}")
        found = results["groups"][name] = measure(name, options.model, options.single, options.keep)
        words = "  ".join(
            f"{key} {found[key]!s:>5}"
            for key in ("n", "right", "refused", "unsure", "sure and wrong", "calibration_error")
        )
        share = f"{found['right'] / found['n']:6.1%}  {found['seconds']:6.2f} s"
        print(f"{name:<20}{words}  {share}", flush=True)
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
