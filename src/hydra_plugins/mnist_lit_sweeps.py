"""Sweeper and launcher of mnist-lit. Hydra imports this folder of plugins at every start."""

from hydra.core.override_parser.overrides_parser import OverridesParser
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
        params: More overrides, as ``{optimizer: "sgd,adam"}``.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher."""
        launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )
        self.given = config, hydra_context.config_loader, launcher

    def sweep(self, arguments: list[str]) -> None:
        """Run a grid or, if ``hparams_search`` is given, a search."""
        config, loader, launcher = self.given
        params = dict(self.params)
        if config.search is not None:
            params |= config.search.params or {}
        words = [*(f"{key}={value}" for key, value in params.items()), *arguments]
        parser = OverridesParser.create(loader)
        # The last override of a key counts, whether it has one value or several.
        given = {one.get_key_element(): one for one in parser.parse_overrides(words)}
        if config.search is None:
            from mnist_lit.sweeps.grid import Grid

            Grid(config, loader, launcher).run(given)
        else:
            need("optuna", "search")
            from mnist_lit.sweeps.search import Search

            Search(config, loader, launcher).run(given)
