"""Escape texts of files and users: one function for each place where they are written.

HTML needs none: the templates escape values, and ``tojson`` writes data into scripts.
"""

import re
import sys
from urllib.parse import quote

LONGEST = 200  # characters of a name
LONGEST_LINE = 4_000
JOINERS = "\u200c\u200d"  # not printable, but some scripts need them within words


def for_terminal(text: object, longest: int = LONGEST) -> str:
    """Return one printable line; control characters and those that reorder text are escaped.

    A line above ``longest`` characters loses its middle: the end of an error is its remedy.
    """
    line = str(text)
    if len(line) > longest:
        line = f"{line[: longest // 2]}…{line[1 - longest // 2 :]}"
    return "".join(c if c.isprintable() or c in JOINERS else ascii(c)[1:-1] for c in line)


def lines_for_terminal(text: object) -> str:
    """Return a text of several lines, each as ``for_terminal`` returns it."""
    return "\n".join(for_terminal(line, LONGEST_LINE) for line in str(text).split("\n"))


def show(text: object, error: bool = False) -> None:
    """Print lines on standard output, or on standard error."""
    print(lines_for_terminal(text), file=sys.stderr if error else None, flush=True)


def for_c(text: object) -> str:
    """Return one line of ASCII for a comment of C, or for a manifest of its archive.

    It cannot begin or end a comment, continue on the next line, or contain a trigraph.
    """
    line = "".join(c if " " <= c <= "~" and c != "\\" else "_" for c in str(text)[:LONGEST])
    return re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", line)


def for_csv(value: object) -> object:
    """Return a value; a text that a spreadsheet would read as a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = for_terminal(value, len(value))
    return f"'{text}" if text.startswith(tuple("=+-@＝＋－＠")) else text


def masked(text: str) -> str:
    """Return a text with the passwords of its URLs masked.

    A password may have any characters, so everything up to the last @ of the line is masked.
    """
    text = re.sub(r"(?<=://)[^/\s:]*:.*@", "***@", text)
    # PostgreSQL's `passfile` names a file.
    names = "pass|pwd|token|secret|api_?key"
    return re.sub(rf"(?i)([?&](?!passfile=)[^=&\s]*(?:{names})[^=&\s]*=)[^&\s]*", r"\1***", text)


def for_link(address: object) -> str:
    """Return a link's address: http and https unchanged, anything else as a relative path."""
    words = str(address)
    return words if re.match(r"https?://", words) else quote(words, errors="replace")
