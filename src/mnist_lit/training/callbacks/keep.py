"""The checkpoints of a run: the last epoch and the best one."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from mnist_lit.checkpoints.write import packed
from mnist_lit.files import write_bytes


class _Carried(ModelCheckpoint):
    """Keeps a file; a run that is resumed in another folder gets a copy of it.

    Args:
        folder: Folder of the file.
        name: Name of the file, without its ending.
        resumed_from: The ``last.ckpt`` of the run that this one continues; the file is beside it.
        monitor: The number whose lowest value is best; None keeps the latest.
    """

    def __init__(
        self, folder: Path, name: str, resumed_from: str | None, monitor: str | None = None
    ) -> None:
        super().__init__(
            dirpath=folder,
            filename=name,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.file = folder / f"{name}.ckpt"
        self._resumed_from = resumed_from

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the file to this run's folder: no later epoch may replace it."""
        if self._resumed_from is None:
            return
        before = Path(self._resumed_from).with_name(self.file.name)
        if before.is_file() and before.resolve() != self.file.resolve():
            write_bytes(self.file, before.read_bytes())
        self.best_model_path, best = str(self.file), state_dict["best_model_score"]
        if best is not None:  # an epoch has been validated
            self.best_model_score = best.reshape(())
            self.kth_best_model_path = self.best_model_path
            self.best_k_models = {self.best_model_path: self.best_model_score}


class LastCheckpoint(_Carried):
    """Keeps ``last.ckpt``, the last epoch; must come after ``BestCheckpoint``.

    Lightning's ``save_last`` would not do: it saves only when the best checkpoint changes.
    """

    def __init__(self, folder: Path, resumed_from: str | None = None) -> None:
        super().__init__(folder, "last", resumed_from)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check before the first epoch that the states of the callbacks can be read back."""
        super().on_train_start(trainer, pl_module)
        states = {}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # not in Lightning's types
            with suppress(Exception):  # some have no state before the first epoch
                states[callback.state_key] = callback.state_dict()
        packed({"callbacks": states})


class BestCheckpoint(_Carried):
    """Keeps ``best.ckpt``, the epoch with the fewest validation errors.

    Among epochs with equally many errors the one with the lowest validation loss is best.

    Args:
        folder: Folder of the file.
        resumed_from: The ``last.ckpt`` of the run that this one continues; the ``best.ckpt`` beside
            it has that run's best epoch.
    """

    def __init__(self, folder: Path, resumed_from: str | None = None) -> None:
        super().__init__(folder, "best", resumed_from, "val/rank")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make Lightning validate the last epoch in any case."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch if it is the best; one without validation repeats the last rank."""
        if "val/rank" in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
