"""What the command ``predict`` does, and the lines, JSON and CSV that it prints."""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mnist_lit import files
from mnist_lit.checkpoints import pretrained
from mnist_lit.devices import pick_device
from mnist_lit.errors import PictureError
from mnist_lit.evaluation import figures
from mnist_lit.inference import predict
from mnist_lit.inference.files import find_pictures, read_content, refusing
from mnist_lit.inference.reading import Reading, read_all
from mnist_lit.text import for_terminal, show

SHOWN = 200  # pictures on a sheet, at most


def read_files(options: Namespace) -> None:
    """Read pictures and print what is on them; exits with 1 if some cannot be read."""
    device, least = pick_device(options.device), options.min_confidence
    trained = pretrained.load(options.model, trust=options.trust)
    sources, errors = _sources(options.pictures)
    if options.show:
        paths = [source for source in sources if isinstance(source, Path)]
        drawn = files.named(options.show, pretrained.checkpoint_of(options.model), *paths)
    readings: list[tuple[predict.Page, Reading]] = []
    with tqdm(total=len(sources), unit="picture", disable=None, leave=False) as bar:
        for batch in predict.prepare_files(trained.facts, sources, options.single):
            errors += [item.error for item in batch if item.error]
            decoded = [item for item in batch if not item.error]
            found = read_all(trained, [item.found for item in decoded], device)
            readings += zip((item.page for item in decoded), found, strict=True)
            bar.update(len({item.page.source for item in batch}))
    what = "digit" if trained.facts.noun == "digits" else "class"
    rows = [_row(page.name, reading, what, options.top) for page, reading in readings]
    if options.json:
        print(json.dumps(rows, indent=1))
    elif options.csv:
        _print_table(rows, what, min(options.top, len(trained.facts.classes)))
    else:
        _print_lines(rows, what)
    for page, reading in readings:
        name, sure = for_terminal(page.name), reading.probability
        if reading.status == "none":
            errors.append(f"{name}: {reading.why}")
        elif sure < least:
            errors.append(f"{name}: {sure:.1%} sure, less than --min-confidence {least:g}")
    for message in errors:
        show(f"error: {message}", error=True)
    if options.show and readings:
        files.write_bytes(options.show, figures.png(predict.sheet(readings[:SHOWN]), dpi=100))
        show(drawn, error=True)
    if errors:
        raise SystemExit(1)


def _sources(pictures: Sequence[str]) -> tuple[list[Path | bytes], list[str]]:
    """Return the files and contents that are meant, each once, and what is wrong with others."""
    sources: list[Path | bytes] = []
    errors = []
    for argument in pictures:
        try:
            if argument == "-":
                with refusing("standard input"):
                    sources.append(read_content(sys.stdin.buffer))
            else:
                sources += find_pictures([argument])
        except PictureError as error:
            errors.append(str(error))
    return list(dict.fromkeys(sources)), errors


def _row(name: str, reading: Reading, what: str, top: int) -> dict[str, Any]:
    """Return what JSON says of a picture; a digit goes by its number, other classes by names."""
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
        "digits": [
            {what: known(one.name), "probability": one.probability, "box": list(one.box)}
            for one in reading.digits
        ],
    }


def _print_lines(rows: Sequence[dict[str, Any]], what: str) -> None:
    for row in rows:
        said = [f"{one[what]} ({one['probability']:.1%})" for one in row["top"]]
        if not said:
            said = [f"{row['text']} ({row['probability']:.1%})".replace("\n", " / ")]
        if row["status"] == "unsure":
            said.append("unsure")
        if row["status"] != "none":  # which is said as an error
            show("  ".join([for_terminal(row["file"]), *said]))


def _print_table(rows: Sequence[dict[str, Any]], what: str, top: int) -> None:
    names = [f"{name}_{n}" for n in range(1, top + 1) for name in (what, "probability")]
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["file", *names, "text", "probability", "status"])
    for row in rows:
        best = [value for one in row["top"] for value in one.values()] or [""] * len(names)
        whole = [row["text"], row["probability"], row["status"]]
        table.writerow([_cell(value) for value in (row["file"], *best, *whole)])


def _cell(value: object) -> object:
    """Return a value so that a spreadsheet takes no text for a formula."""
    if not isinstance(value, str):
        return value
    text = for_terminal(value, len(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
