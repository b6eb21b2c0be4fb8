"""A trial of a search, as a Lightning callback."""

from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl

from mnist_lit.config.schema import Search
from mnist_lit.training.study import opened_study


class ReportTrial(pl.Callback):
    """Report every epoch's validation accuracy to a search, and stop when it says so.

    Of a trial that trains several times the value reported is the mean of those that have ended
    and of this one so far.

    Args:
        search: The keys of the search; ``trial`` and ``earlier`` say which training this is.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.trial: Any = None
        self.opened = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the trial; one process does."""
        if trainer.is_global_zero:
            import optuna

            epochs = trainer.max_epochs or 1
            study = self.opened.enter_context(
                opened_study(self.search, self.search.repeats * epochs)
            )
            found = study.get_trials(deepcopy=False)[self.search.trial]
            self.trial = optuna.Trial(study, found._trial_id)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and stop all processes of a training that is not worth going on with."""
        stop = False
        if self.trial is not None:
            earlier, epochs = self.search.earlier, trainer.max_epochs or 1
            epoch = trainer.current_epoch + 1
            value = float(trainer.callback_metrics["val/accuracy"])
            mean = (sum(earlier) + value) / (len(earlier) + 1)
            self.trial.report(mean, step=len(earlier) * epochs + epoch)
            # The last epoch costs nothing any more.
            stop = epoch < epochs and self.trial.should_prune()
            if stop:
                self.trial.set_user_attr("pruned", f"epoch {epoch} of {epochs}")
        trainer.should_stop = trainer.strategy.broadcast(stop) or trainer.should_stop

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the database."""
        self.trial = None
        self.opened.close()
