"""Which epochs of a run are kept on disk."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from mnist_lit.checkpoints.write import packed
from mnist_lit.files import write_bytes


class _Carried(ModelCheckpoint):
    """Keeps a file, which a run that is resumed in another folder takes over.

    Args:
        folder: Where the file goes.
        name: Of the file, without its ending.
        resumed_from: The ``last.ckpt`` of the run that this one continues; the file lies beside it.
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
        """Carry the file into this run's folder: it may be the last that is kept."""
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
    """Keeps ``last.ckpt``, the last epoch; stands after :class:`BestCheckpoint`.

    Lightning's ``save_last`` would not do: it saves only when the best checkpoint changes.
    """

    def __init__(self, folder: Path, resumed_from: str | None = None) -> None:
        super().__init__(folder, "last", resumed_from)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See, before an epoch is trained, that what the callbacks keep can be read back."""
        super().on_train_start(trainer, pl_module)
        states = {}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # in no type of Lightning
            with suppress(Exception):  # some have no state before the first epoch
                states[callback.state_key] = callback.state_dict()
        packed({"callbacks": states})


class BestCheckpoint(_Carried):
    """Keeps ``best.ckpt``, the epoch with the fewest validation errors.

    Among epochs with equally many errors the one with the lowest validation loss is best.

    Args:
        folder: Where the file goes.
        resumed_from: The ``last.ckpt`` of the run that this one continues; its best epoch is taken
            over from the ``best.ckpt`` beside it.
    """

    def __init__(self, folder: Path, resumed_from: str | None = None) -> None:
        super().__init__(folder, "best", resumed_from, "val/rank")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the last epoch in any case."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch if it is the best; one that is not validated has the rank of the last."""
        if "val/rank" in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
