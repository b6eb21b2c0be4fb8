"""The command ``predict``: it prints lines, JSON or CSV."""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mnist_lit import files
from mnist_lit.checkpoints import pretrained
from mnist_lit.devices import pick_device
from mnist_lit.errors import PictureError
from mnist_lit.evaluation import figures
from mnist_lit.inference import predict
from mnist_lit.inference.files import find_pictures
from mnist_lit.inference.reading import Reading, read_all
from mnist_lit.text import for_csv, for_terminal, show

SHOWN = 200  # pictures on a sheet, at most


def read_files(options: Namespace) -> None:
    """Read pictures and print the readings; exits with 1 if some cannot be read."""
    device = pick_device(options.device)
    trained = pretrained.load(options.model, trust=options.trust)
    meant: dict[Path | bytes, None] = {}  # each path once
    errors = []
    for argument in options.pictures:
        try:
            meant.update(dict.fromkeys(find_pictures(argument)))
        except PictureError as error:
            errors.append(str(error))
    sources = list(meant)
    if options.show:
        paths = [source for source in sources if isinstance(source, Path)]
        drawn = files.named(options.show, pretrained.checkpoint_of(options.model), *paths)
    readings: list[tuple[predict.Page, Reading]] = []
    with tqdm(total=len(sources), unit="picture", disable=None, leave=False) as bar:
        for batch in predict.prepare_files(trained.facts, sources, options.single):
            errors += [str(found) for _, found in batch if isinstance(found, PictureError)]
            kept = {page: found for page, found in batch if not isinstance(found, PictureError)}
            again = partial(predict.prepare_again, trained.facts, options.single, [*kept])
            found = read_all(trained, [*kept.values()], device, again)
            readings += zip(kept, found, strict=True)
            bar.update(len({page.source for page, _ in batch}))
    what = "digit" if trained.facts.noun == "digits" else "class"
    rows = [_row(page.name, reading, what, options.top) for page, reading in readings]
    if options.json:
        print(json.dumps(rows, indent=1))
    elif options.csv:
        _print_table(rows, what, min(options.top, len(trained.facts.classes)))
    for row, (page, reading) in zip(rows, readings, strict=True):
        line = f"{for_terminal(page.name)}: {reading}"
        if reading.status == "none":
            errors.append(line)
            continue
        if reading.probability < options.min_confidence:
            errors.append(f"{line}, less than --min-confidence {options.min_confidence:g}")
        if not (options.json or options.csv):
            others = [f"{one[what]} ({one['probability']:.1%})" for one in row["top"][1:]]
            show("  ".join([for_terminal(page.name), str(reading), *others]))
    for message in errors:
        show(f"error: {message}", error=True)
    if options.show and readings:
        sheet = figures.defaults(predict.sheet)(readings[:SHOWN])
        files.write_bytes(options.show, figures.png(sheet, dpi=100))
        show(drawn, error=True)
    if errors:
        raise SystemExit(1)


def _row(name: str, reading: Reading, what: str, top: int) -> dict[str, Any]:
    """Return a picture's entry in the JSON; digits are numbers, other classes are names."""
    known: Any = int if what == "digit" else str
    likely = reading.top(top) if len(reading.digits) == 1 else []
    classes = reading.digits[0].classes if likely else ()
    return {
        "file": name,
        what: known(reading.name) if likely else None,
        "top": [{what: known(classes[n]), "probability": p} for n, p in likely],
        "text": reading.text,
        "probability": reading.probability,
        "status": reading.status,
        "why": reading.why,
        "digits": [
            {what: known(one.name), "probability": one.probability, "box": one.box}
            for one in reading.digits
        ],
    }


def _print_table(rows: Sequence[dict[str, Any]], what: str, top: int) -> None:
    names = [f"{name}_{n}" for n in range(1, top + 1) for name in (what, "probability")]
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["file", *names, "text", "probability", "status"])
    for row in rows:
        best = [value for one in row["top"] for value in one.values()] or [""] * len(names)
        whole = [row["text"], row["probability"], row["status"]]
        table.writerow([for_csv(value) for value in (row["file"], *best, *whole)])
