"""The output of a run: on the console, and in ``run.log`` in its folder."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from mnist_lit.errors import RunError, StoppedError, UserError, line
from mnist_lit.text import lines_for_terminal


class _AboveTheBar(logging.Handler):
    """Prints above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        # A closed pipe, as of `| head -1`, or terminal must not end the training.
        with suppress(OSError):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


class _Log(logging.FileHandler):
    """A file that may be on a full disk, which does not matter more than what is said of it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        pass


_log = logging.getLogger("mnist_lit")
_log.addHandler(_AboveTheBar())
_log.setLevel(logging.INFO)
_log.propagate = False


@rank_zero_only
def say(text: str) -> None:
    """Print a text and log it; of several processes, only rank 0 does."""
    _log.info("%s", lines_for_terminal(text))


@contextmanager
def kept(file: Path) -> Iterator[None]:
    """Log the output, warnings of Lightning and Python, and the traceback of a failure.

    Raises:
        OSError: The file cannot be written.
        RunError: Replaces any exception that is no ``UserError``.
    """
    handler = _Log(file, encoding="utf-8")
    lightning, warned = logging.getLogger("pytorch_lightning"), logging.getLogger("py.warnings")
    console = logging.StreamHandler()  # otherwise captured warnings would not be printed
    warned.addHandler(console)
    warned.propagate = False  # Hydra prints records of the root logger
    logging.captureWarnings(True)
    for source in (_log, lightning, warned):
        source.addHandler(handler)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, StoppedError)  # no failure
        failure = logging.Logger("mnist_lit.failure")  # only for the file
        failure.addHandler(handler)
        failure.error(str(error) if stopped else "The run failed:", exc_info=not stopped)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise RunError(f"{line(error)}; the whole traceback is in {file}") from error
    finally:
        for source in (_log, lightning, warned):
            source.removeHandler(handler)
        logging.captureWarnings(False)
        warned.removeHandler(console)
        handler.close()
