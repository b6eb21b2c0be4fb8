"""``python train.py`` and ``mnist-lit train``: Hydra around :func:`mnist_lit.training.run.train`.

What needs torch is imported when it is called: ``--help`` and a mistake in a key of ours are
answered before torch is loaded.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mnist_lit import folders
from mnist_lit.config.mistakes import errors_as_lines, refuse_options
from mnist_lit.errors import ConfigError

# What is built takes any argument of its signature, without a `+` on the command line; keys of
# ours stay closed.
OPEN = (
    *("model", "optimizer", "scheduler.build", "loss", "metrics", "data", "augmentation"),
    *("trainer", "callbacks", "logger"),
)


def main(conf: Path, arguments: Sequence[str] | None = None, beside: Sequence[str] = ()) -> None:
    """Train what the command line says; exits with 1 after a mistake or a missed requirement.

    Args:
        conf: The folder of the YAML files.
        arguments: Instead of those that the process was started with.
        beside: More of them, which nobody typed.
    """
    given = list(sys.argv)
    own = given[1:] if arguments is None else list(arguments)
    # Classes of the user's are importable from the folder in which training is started.
    sys.path.append(str(Path.cwd()))
    missed: list[str] = []

    def job(cfg: DictConfig) -> float:
        from mnist_lit.training.run import train

        # Lightning starts further processes with the command line of this one.
        sys.argv = given
        with errors_as_lines():
            result = train(cfg, _command(given[0], own))
        if cfg.requirements.enforce and not result.passed:
            missed.append(str(result.run_dir))
        return result.objective

    with errors_as_lines():
        refuse_options(own)
        sys.argv = [given[0], *own, *beside]
        hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name="config")(job)()
    if missed:
        raise SystemExit(f"error: requirements not met (see report.html) in {', '.join(missed)}")


def _command(program: str, arguments: Sequence[str]) -> str:
    """Return what was typed and, in a sweep, what it says of this job."""
    name = "python train.py" if Path(program).name == "train.py" else "mnist-lit train"
    words = f"{name} {shlex.join(arguments)}".rstrip()
    hydra_says = HydraConfig.get()
    if hydra_says.mode is RunMode.MULTIRUN:
        words += f"  # job {hydra_says.job.num}: {shlex.join(hydra_says.overrides.task)}"
    return words


def compose(*overrides: str) -> DictConfig:
    """Compose a config from the shipped files, as the command line does.

    Args:
        overrides: As on the command line; a run also needs ``run_dir=FOLDER``.
    """
    with hydra.initialize_config_dir(str(folders.config()), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


class CheckConfig(Callback):
    """Builds a run before Hydra makes a folder for it, and all of a sweep before its first.

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
                    _check_processes(job_config.trainer.strategy)
                    _check(job_config)


def _check(config: DictConfig) -> None:
    run = config.copy()
    OmegaConf.set_readonly(run, False)
    with open_dict(run):
        del run["hydra"]
        run.run_dir = "not made yet"
    from mnist_lit.config.check import parse

    parsed = parse(run)
    if parsed.ckpt_path is not None and not Path(parsed.ckpt_path).is_file():
        raise ConfigError(
            f"ckpt_path={parsed.ckpt_path} is not there; give the path of a last.ckpt"
        )
    if "torch" not in sys.modules and "LOCAL_RANK" not in os.environ:
        print("loading PyTorch …", flush=True)
    from mnist_lit.training.build import prepare

    prepare(parsed)


def _check_processes(strategy: str) -> None:
    # Lightning starts the other processes with this one's arguments: each would run the sweep.
    if strategy.startswith("ddp"):
        raise ConfigError(
            f"trainer.strategy={strategy}: a sweep (-m) trains in one process; "
            "start runs of several processes one by one"
        )


def _on_mnist(value: Any, *, _root_: DictConfig) -> Any:
    """Return a value for MNIST and None for other data."""
    from mnist_lit.config.schema import MNIST

    return value if OmegaConf.select(_root_, "data._target_") == MNIST else None


def _shared_dir(form: str = "path", *, _root_: DictConfig) -> str:
    """Return the folder of the sweep or, of a single run, its own; quoted where form is `url`."""
    folder = str(_root_.run_dir)
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        folder = str(Path(HydraConfig.get().sweep.dir).resolve())
    return quote(folder) if form == "url" else folder


def _register() -> None:
    """Tell Hydra what ``conf/config.yaml`` takes from here: the open nodes and two resolvers."""
    opened = OmegaConf.create()
    for key in OPEN:
        OmegaConf.update(opened, key, OmegaConf.create({}, flags={"struct": False}))
    ConfigStore.instance().store("open", opened)
    OmegaConf.register_new_resolver("on_mnist", _on_mnist, replace=True)
    OmegaConf.register_new_resolver("shared_dir", _shared_dir, replace=True)


_register()
