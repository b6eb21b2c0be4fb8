"""Words of a file or a user, made harmless for the place where they go: a function for each.

HTML needs none: templates escape by themselves, and ``tojson`` writes data into a script.
"""

import re
import sys
from urllib.parse import quote

LONGEST = 200  # characters of a name
LONGEST_LINE = 4_000
JOINERS = "\u200c\u200d"  # not printable by themselves; some scripts need them within words


def for_terminal(text: object, longest: int = LONGEST) -> str:
    """Return one printable line; what a terminal would obey, or show out of order, is escaped.

    Of a longer one the middle is left out, for an error's remedy stands at its end.
    """
    line = str(text)
    if len(line) > longest:
        line = f"{line[: longest // 2]}…{line[1 - longest // 2 :]}"
    return "".join(c if c.isprintable() or c in JOINERS else ascii(c)[1:-1] for c in line)


def lines_for_terminal(text: object) -> str:
    """Return the same of a text of several lines."""
    return "\n".join(for_terminal(line, LONGEST_LINE) for line in str(text).split("\n"))


def show(text: object, error: bool = False) -> None:
    """Print lines, on standard output or as an error."""
    print(lines_for_terminal(text), file=sys.stderr if error else None, flush=True)


def for_c(text: object) -> str:
    """Return one line of ASCII for a comment of C, or for Arduino's ``library.properties``.

    It neither begins nor ends a comment, goes on in the next line, nor has a trigraph.
    """
    line = "".join(c if " " <= c <= "~" and c != "\\" else "_" for c in str(text)[:LONGEST])
    return re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", line)


def for_csv(value: object) -> object:
    """Return a value so that a spreadsheet takes no text for a formula."""
    if not isinstance(value, str):
        return value
    text = for_terminal(value, len(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def masked(text: str) -> str:
    """Return a text without the passwords of the addresses in it.

    A password may have any characters: what goes is all to the last @ of its line.
    """
    text = re.sub(r"(?<=://)[^/\s:]*:.*@", "***@", text)
    # `passfile` names a file, as PostgreSQL has it.
    return re.sub(r"(?i)([?&](?!passfile=)[^=&\s]*(?:pass|token)[^=&\s]*=)[^&\s]*", r"\1***", text)


def for_link(address: object) -> str:
    """Return the address of a link: of http or https as it is, anything else as a relative path."""
    words = str(address)
    return words if re.match(r"https?://", words) else quote(words, errors="replace")
