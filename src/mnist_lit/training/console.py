"""The output of a run: on the console, and in ``run.log`` in its folder."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from mnist_lit.errors import RunError, StoppedError, UserError, line
from mnist_lit.folders import shown
from mnist_lit.text import lines_for_terminal


class _AboveTheBar(logging.Handler):
    """Prints above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        # A closed pipe, as of `| head -1`, or terminal must not end the training.
        with suppress(OSError):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


_log = logging.getLogger("mnist_lit")
_log.addHandler(_AboveTheBar())
_log.setLevel(logging.INFO)
_log.propagate = False


@rank_zero_only
def say(text: str) -> None:
    """Print a text and log it; of several processes, only rank 0 does."""
    _log.info("%s", lines_for_terminal(text))


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing to the console; ``kept`` still logs to its file."""
    shown, _log.handlers = _log.handlers, []
    try:
        yield
    finally:
        _log.handlers = shown


@contextmanager
def kept(file: Path) -> Iterator[None]:
    """Log the output, warnings of Lightning and Python, and the traceback of a failure.

    Raises:
        OSError: The file cannot be written.
        RunError: Replaces any exception that is no ``UserError``.
    """
    handler = logging.FileHandler(file, encoding="utf-8")
    # A full disk must not print a traceback for each record.
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # of one instance
    whole = handler.format
    # A traceback may contain any text. mypy accepts no method of one instance.
    handler.format = lambda record: lines_for_terminal(whole(record))  # type: ignore[method-assign]
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
        raise RunError(f"{line(error)}; the whole traceback is in {shown(file)}") from error
    finally:
        for source in (_log, lightning, warned):
            source.removeHandler(handler)
        logging.captureWarnings(False)
        warned.removeHandler(console)
        handler.close()


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide output of Lightning that a normal run does not need."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)  # no hardware, processes and tips
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # the user wants these
    with warnings.catch_warnings():
        # Batches are slices of tensors in memory: worker processes would only copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers")
        # The module augments and normalises the batches of any data module.
        warnings.filterwarnings("ignore", ".*overridden `on_after_batch_transfer` in `LightningM")
        # Hydra writes to the run's folder before the CSV logger does.
        warnings.filterwarnings("ignore", ".*Experiment logs directory .* exists")
        # The folder of a resumed run holds the best checkpoint so far.
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty")
        # With one input channel, both orders of a weight's strides mean the same memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # With trainer=cpu the user wants no GPU.
        warnings.filterwarnings("ignore", "GPU available but not used")
        # With SLURM, a sweep starts outside of srun, which starts its jobs.
        warnings.filterwarnings("ignore", "The `srun` command is available on your system")
        # Lightning 2.6 on torch 2.15; nothing here uses it.
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
