"""Report a user's mistake as one line on standard error, whether Hydra or this project found it.

Does not import Hydra, which takes half a second.
"""

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_lit.errors import UserError, line
from mnist_lit.text import LONGEST_LINE, for_terminal

HYDRAS = {"hydra", "omegaconf", "yaml"}  # packages whose exceptions are explained


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """Turn any exception that ends a command into one line and exit code 1.

    With ``MNIST_LIT_TRACEBACK=1`` in the environment, an exception that is no ``UserError`` also
    prints its traceback.
    """
    # Without the first, Hydra prints several lines and exits itself. Without the second, a
    # matplotlibrc in the working folder may name a stranger's module as the backend.
    os.environ |= {"HYDRA_FULL_ERROR": "1", "MPLBACKEND": "agg"}
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without ✓ prints a question mark
    try:
        Path.cwd()  # fails if the working folder has been removed, as torch would
        yield
    except KeyboardInterrupt:
        raise SystemExit("error: stopped") from None
    except BrokenPipeError:  # the reader has closed the pipe, as `| head -1` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if HYDRAS & {kind.__module__.partition(".")[0] for kind in type(error).__mro__}:
            from mnist_lit.config.mistakes import explain

            raise SystemExit(_line(explain(error))) from None
        if os.environ.get("MNIST_LIT_TRACEBACK") and not isinstance(error, UserError):
            traceback.print_exc()  # Hydra turns exceptions in its callbacks into warnings
        raise SystemExit(_line(line(error))) from None


def _line(words: str) -> str:
    return f"error: {for_terminal(words, LONGEST_LINE)}"
