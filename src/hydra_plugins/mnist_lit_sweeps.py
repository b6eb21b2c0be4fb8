"""Sweeps of mnist-lit, where Hydra looks for plugins; it imports this at every start."""

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mnist_lit.errors import need
from mnist_lit.sweeps import processes


class Processes(processes.Processes):
    """``hydra/launcher=processes``."""


class Sweep(Sweeper):
    """``python train.py -m``: a grid or, with ``hparams_search=NAME``, a search.

    Args:
        params: More overrides for a grid, as ``{optimizer: "sgd,adam"}``.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = [f"{key}={value}" for key, value in (params or {}).items()]

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher."""
        launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )
        self.given = config, hydra_context.config_loader, launcher

    def sweep(self, arguments: list[str]) -> None:
        """Run that which is meant."""
        every = [*self.params, *arguments]
        if self.given[0].search is None:
            from mnist_lit.sweeps.grid import Grid

            Grid(*self.given).run(every)
        else:
            need("optuna", "search")
            from mnist_lit.sweeps.search import Search

            Search(*self.given).run(every)
