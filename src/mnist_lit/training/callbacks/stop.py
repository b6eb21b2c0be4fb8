"""How several processes end together, as a Lightning callback."""

import os
import signal
import threading
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException


class StopAtOnce(pl.Callback):
    """End a training of several processes on SIGTERM, without a message between them.

    Lightning's own handler broadcasts in the middle of whatever the processes exchange: they hang,
    or end in an error of the transport, if each gets the signal.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the place of Lightning's handler, until it restores what was there before it."""
        if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
            return

        def stop(*_: Any) -> None:
            if not trainer.is_global_zero:
                os._exit(1)  # the first process has the word
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGTERM)
            raise SIGTERMException

        signal.signal(signal.SIGTERM, stop)
