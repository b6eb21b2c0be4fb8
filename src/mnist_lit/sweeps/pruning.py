"""A trial of a search, as a Lightning callback."""

from contextlib import ExitStack
from typing import Any

import optuna
import pytorch_lightning as pl

from mnist_lit.config.schema import Search
from mnist_lit.sweeps.study import opened_study, trial_id


class ReportTrial(pl.Callback):
    """Report every epoch's validation accuracy to a search, and stop when it says so.

    Of a trial that trains several times the value reported is the mean of those that have ended
    and of this one so far.

    Args:
        search: The keys of the search.
        trial: The number of the trial.
        earlier: What its trainings before this one came to.
    """

    def __init__(self, search: dict[str, Any], trial: int, earlier: list[float]) -> None:
        self.search, self.number, self.earlier = Search(**search), trial, earlier
        self.trial: optuna.Trial | None = None
        self.opened = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the trial; one process does."""
        if trainer.is_global_zero:
            steps = self.search.repeats * (trainer.max_epochs or 1)
            opened = opened_study(self.search, steps, begun=True)
            study, storage = self.opened.enter_context(opened)
            self.trial = optuna.Trial(study, trial_id(study, storage, self.number))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and stop all processes of a training that is not worth going on with."""
        stop = False
        if self.trial is not None:
            epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
            value = float(trainer.callback_metrics["val/accuracy"])
            mean = (sum(self.earlier) + value) / (len(self.earlier) + 1)
            self.trial.report(mean, step=len(self.earlier) * epochs + epoch)
            # The last epoch costs nothing any more.
            stop = epoch < epochs and self.trial.should_prune()
            if stop:
                self.trial.set_user_attr("pruned", f"epoch {epoch} of {epochs}")
        trainer.should_stop = trainer.strategy.broadcast(stop) or trainer.should_stop

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the database."""
        self.trial = None
        self.opened.close()
