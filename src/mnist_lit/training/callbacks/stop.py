"""Ending several processes together, as a Lightning callback."""

import os
import signal
import threading
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException


class StopAtOnce(pl.Callback):
    """End a training of several processes on SIGTERM, without a message between them.

    If each process gets the signal, Lightning's own handler broadcasts while the processes are
    communicating: they hang, or end in an error of the transport.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's handler; at the end Lightning restores the original one."""
        if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
            return

        def stop(*_: Any) -> None:
            if not trainer.is_global_zero:
                os._exit(1)  # rank 0 prints the message
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGTERM)
            raise SIGTERMException

        signal.signal(signal.SIGTERM, stop)
