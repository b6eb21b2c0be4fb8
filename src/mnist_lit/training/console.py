"""What a run says: on the console, and in ``run.log`` in its folder."""

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
    """Prints above the progress bar, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        # A reader that has gone, as of `| head -1`, or a terminal ends no training.
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
    """Print a text and keep it; several processes say it once."""
    _log.info("%s", lines_for_terminal(text))


@contextmanager
def kept(file: Path) -> Iterator[None]:
    """Keep what is said, Lightning's and Python's warnings, and the traceback of a failure.

    Raises:
        OSError: The file cannot be written.
        RunError: Instead of an exception that is no mistake of a user's.
    """
    handler = _Log(file, encoding="utf-8")
    whole = handler.format  # a traceback may have anybody's words
    handler.format = lambda record: lines_for_terminal(whole(record))  # type: ignore[method-assign]
    lightning, warned = logging.getLogger("pytorch_lightning"), logging.getLogger("py.warnings")
    console = logging.StreamHandler()  # captured warnings would not be seen otherwise
    warned.addHandler(console)
    warned.propagate = False  # Hydra prints what comes to the root
    logging.captureWarnings(True)
    for source in (_log, lightning, warned):
        source.addHandler(handler)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, StoppedError)  # which is no failure
        failure = logging.Logger("mnist_lit.failure")  # for the file alone
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
