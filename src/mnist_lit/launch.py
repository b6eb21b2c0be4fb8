"""Between the command line and :func:`mnist_lit.training.train`: Hydra, checked, in plain words.

Imports nothing heavy: ``--help`` and a mistake in the config are answered before torch is loaded.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mnist_lit.config import ConfigError, parse, unknown_key


class CheckConfig(Callback):
    """Checks a config before Hydra makes a folder for the run, and all of a sweep before its first.

    It exits instead of raising because Hydra turns a callback's exceptions into warnings.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of a single run."""
        with errors_as_lines():
            _check(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of every job, if they are known in advance."""
        if config.hydra.sweeper._target_ != f"{BasicSweeper.__module__}.{BasicSweeper.__name__}":
            return
        with errors_as_lines():
            loader = GlobalHydra.instance().config_loader()
            overrides = OverridesParser.create(loader).parse_overrides(
                list(config.hydra.overrides.task)
            )
            for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
                for job in batch:
                    job_config = loader.load_sweep_config(config, list(job))
                    _check(job_config)
                    _check_processes(job_config.trainer.strategy)


def _check(config: DictConfig) -> None:
    run = config.copy()
    OmegaConf.set_readonly(run, False)
    with open_dict(run):
        del run["hydra"]
        run.run_dir = "not made yet"
    checkpoint = parse(run).ckpt_path
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise ConfigError(f"ckpt_path={checkpoint} is not there; give the path of a last.ckpt")


def _check_processes(strategy: str) -> None:
    # Lightning starts the other processes with this one's arguments: each would run the sweep.
    if strategy.startswith("ddp"):
        raise ConfigError(
            f"trainer.strategy={strategy}: a sweep (-m) trains in one process; "
            "start runs of several processes one by one"
        )


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """Turn a user's mistake into one line on standard error and exit code 1.

    Any other exception is a defect and keeps its traceback.
    """
    # Hydra prints and exits on its own otherwise, in several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise SystemExit(f"error: {_explain(error)}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "mnist_lit":
            raise
        raise SystemExit(f"error: {error}") from None


def _explain(error: Exception) -> str:
    """Say in one line what Hydra or OmegaConf found wrong."""
    text = str(error)
    cause = error.__cause__ or error
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.full_key:
        parent = cause.parent_node
        known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
        return unknown_key(
            cause.full_key, [key for key in known if not key.startswith(("_", "hydra"))]
        )
    missing = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if missing:
        group, choice = missing.groups()
        options = [line.strip() for line in text.partition("Available options")[2].splitlines()[1:]]
        known = [option for option in options if option and " " not in option]
        return unknown_key(f"{group}={choice}", known).replace("no such key", "no such choice")
    no_group = re.search(r"Could not override '([^']+)'.\nNo match in the defaults list", text)
    if no_group:
        return f"{no_group[1]}: no such group or key; python train.py --help lists the groups"
    return " ".join(text.partition("See https")[0].split())
