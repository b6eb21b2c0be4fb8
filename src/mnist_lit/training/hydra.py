"""``python train.py`` and ``mnist-lit train``: Hydra around ``mnist_lit.training.train.train``.

``main`` starts Hydra, which composes the config and calls ``BuildFirst``. That builds the run and
claims its folder. Hydra then writes ``.hydra/`` there and calls ``task``, which trains the run. The
launcher of a sweep composes its jobs; ``train`` builds them.

Modules that need torch are imported where they are used: ``--help`` and the message about a
misspelt key need no torch.
"""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from traceback import format_tb
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import hydra
import yaml
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override

from mnist_lit import folders
from mnist_lit.config.check import parse, refuse_unbuilt
from mnist_lit.config.lines import errors_as_lines
from mnist_lit.config.mistakes import refuse_options
from mnist_lit.config.schema import Config
from mnist_lit.errors import ConfigError, RunError, StoppedError, line, reason
from mnist_lit.evaluation.provenance import SECRET, override
from mnist_lit.text import LONGEST_LINE, for_terminal, masked, show
from mnist_lit.training import rundir
from mnist_lit.validation import validated

if TYPE_CHECKING:
    from mnist_lit.training.build import Run

# These groups accept any argument of their targets, without a `+` on the command line; other keys
# stay closed.
OPEN = (
    *("model", "module", "optimizer", "scheduler", "loss", "metrics", "data"),
    *("augmentation", "trainer", "callbacks", "logger", "recipe"),
)
MNIST = "mnist_lit.data.mnist.MNISTDataModule"
AUTO = "auto"  # as ckpt_path: resume from the last epoch in the run's folder, if there is one
BUILT: list["Run"] = []  # by BuildFirst, for `task`; empty for a sweep's job
# Last on every command line, so that no file or override removes the callback that builds a run.
BUILD_FIRST = f"++hydra.callbacks={{build: {{_target_: {__name__}.BuildFirst}}}}"
LOADING = "loading the config and PyTorch …"
# Options in a run's folder, which a stranger may have written, that could name code, a config file,
# a variable of the environment or a place to write to. A backslash or a package could hide them.
UNSAFE = re.compile(
    r"\W*(-|hydra|hparams_search|search|logger(?!=[\w,[\]]*$))|.*(_target_|[$\\])"
    r"|[^=]*@|[^.=]*=.*/",
    re.DOTALL,
)


def main(conf: Path, arguments: Sequence[str] | None = None, beside: Sequence[str] = ()) -> None:
    """Train by the command line; exits with 1 after a mistake or a missed requirement.

    Args:
        conf: The folder of the YAML files.
        arguments: The arguments; None for those of the process.
        beside: More arguments, which the user did not type.
    """
    given = list(sys.argv)
    own = given[1:] if arguments is None else list(arguments)
    BUILT.clear()  # of a run that this process has checked but not started

    def task(cfg: DictConfig) -> float:
        in_a_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        with _for_itself(Path(cfg.run_dir)) if in_a_sweep else errors_as_lines():
            from mnist_lit.training.train import train

            # Lightning starts further processes with the command line of this one.
            sys.argv = given
            result = train(cfg, _command(given[0], own, cfg), BUILT.pop() if BUILT else None)
            if cfg.requirements.enforce and not (in_a_sweep or result.passed):
                place, missed = folders.shown(result.run_dir), rundir.missed(vars(result.report))
                raise SystemExit(f"error: requirements not met in {place}: {missed}")
        return result.objective

    with errors_as_lines():
        # While it trains, Lightning adds its own handler.
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, _hang_up)
        if "${" in str(Path.cwd()):
            raise ConfigError(f"{Path.cwd()}: Hydra reads `${{` in a folder's name; go to another")
        refuse_options(own)
        options = [word for word in own if word.startswith("-")]
        if not {*options} - {"-m", "--multirun"} and rundir.is_first():
            print(LOADING, flush=True)  # the checks and torch's import take seconds
        typed = _with_the_options_of_the_run(own)
        own = [_hidden(word) for word in typed]
        # Hydra accepts -m only before the overrides.
        many = [word for word in own if word in ("-m", "--multirun")]
        others = [word for word in own if word not in many]
        # argparse needs all overrides in a row, without options between them.
        rows = [n for n, word in enumerate(others, 1) if word[:1] != "-" and {*"=~"} & {*word}]
        others.insert(max(rows, default=0), BUILD_FIRST)
        sys.argv = [given[0], *many, *beside, *others]
        launch = hydra.main(str(conf.resolve()), "config", "1.3")  # the version of behaviour
        try:
            launch(task)()
        except (TypeError, ValueError) as error:  # for example a key in a list
            if "config_loader" not in "".join(format_tb(error.__traceback__)):
                raise  # only these functions of Hydra read the command line
            words = f"cannot be composed ({reason(error)}); --help lists the choices"
            raise ConfigError(f"{shlex.join(own)}: {words}") from None


@contextmanager
def _for_itself(folder: Path) -> Iterator[None]:
    """Let a job of a sweep fail without the others; a stop of one job stops all.

    The console gets a line at the start and at the end of the job.
    """
    from mnist_lit.training.console import quiet

    with rundir.announced(folder), quiet():
        try:
            yield
            return
        except StoppedError as error:
            raise SystemExit(f"error: {for_terminal(error, LONGEST_LINE)}") from None
        except Exception as error:
            failed = line(error)
        raise RunError(failed)  # new: the old one would keep the network in memory


def _stop(*_: Any) -> None:
    # SystemExit, because `except Exception` around an optional import would catch other errors.
    raise SystemExit("error: stopped" if rundir.is_first() else 1)


def _hang_up(*_: Any) -> None:
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:  # the terminal has gone; output must not raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    signal.raise_signal(signal.SIGTERM)


def _with_the_options_of_the_run(arguments: Sequence[str]) -> list[str]:
    """Let ``ckpt_path=FOLDER``, or ``latest``, resume in that folder, with the run's options.

    Raises:
        ConfigError: There is nothing to resume, or an option of the folder is ``UNSAFE`` and the
            user has not given it too.
    """
    given = [word for word in arguments if word.startswith("ckpt_path=")]
    text = str(OverridesParser.create().parse_override(given[-1]).value()) if given else ""
    folder = Path(text).expanduser()
    if text == "latest":
        last = Path("outputs").glob("*/*/checkpoints/last.ckpt")
        unfinished = [file for file in last if not (file.parents[1] / "report.json").is_file()]
        if not unfinished:
            raise ConfigError("ckpt_path=latest: there is no unfinished run below outputs/")
        folder = max(unfinished, key=lambda file: file.stat().st_mtime).parents[1]
    if text in ("", AUTO) or not folder.is_dir():
        return list(arguments)
    overrides = folder / rundir.HYDRAS / "overrides.yaml"
    if not overrides.is_file():
        raise ConfigError(f"ckpt_path={text}: no run's folder: it has no .hydra/overrides.yaml")
    with overrides.open("rb") as file:  # by whose name YAML names a mistake
        begun: list[str] = validated(list[str], yaml.safe_load(file), str(overrides))
    begun = [word for word in begun if word not in map(_hidden, arguments)]
    if unsafe := [word for word in begun if UNSAFE.match(word)]:
        words = "may run code or use other files; if you trust it, add to the command line"
        raise ConfigError(f"{overrides}: {words}: {shlex.join(unsafe)}")
    run = folder.resolve()  # of a key that is given twice the last counts
    return [*begun, *arguments, override("ckpt_path", run), override("hydra.run.dir", run)]


def _hidden(word: str) -> str:
    """Move a password or key to a variable of the environment, which no file or `ps` shows."""
    key, _, address = word.partition("=")
    one = re.fullmatch(r"""'[^']*'|"[^"]*"|[^'"[{(,]*""", address)  # no list of URLs
    if not one or not (SECRET.match(key.lstrip("+")) or masked(address) != address):
        return word
    variable = "MNIST_LIT_" + re.sub(r"\W", "_", key).upper()
    os.environ[variable] = address.strip("'\"")
    return f"{key}=${{oc.env:{variable}}}"


@contextmanager
def _reserved(config: DictConfig) -> Iterator[Path]:
    """Yield the folder of a run; an unnamed one is made, and removed if the run is refused.

    All processes of a training have the folder of the first.
    """
    store = None
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's processes do not know each other yet
        from torch.distributed.rendezvous import rendezvous

        store = next(rendezvous("env://"))[0]
    folder = Path(config.hydra.run.dir).expanduser().resolve()
    goes_on = rundir.goes_on(folder, config.ckpt_path)
    made: list[Path] = []
    if not rundir.is_first():
        folder = folder if store is None else Path(store.get("run_dir").decode())
    elif not (is_named(config) or goes_on):
        there = [path for path in folder.parents if path.exists()]
        folder = free(folder)
        made = [folder, *(path for path in folder.parents if path not in there)]
    with flag_override(config.hydra, "readonly", False):
        config.hydra.run.dir = str(folder)
        begun = (folder / rundir.HYDRAS / "overrides.yaml").is_file()
        if not rundir.is_first() or (begun and goes_on):
            config.hydra.output_subdir = None  # keeps the options of the first start
    try:
        yield folder
    except BaseException:
        for path in made:
            with suppress(OSError):  # the folder is not empty
                path.rmdir()
        raise
    if rundir.is_first() and store is not None:
        store.set("run_dir", str(folder))


def is_named(config: DictConfig, key: str = "hydra.run.dir") -> bool:
    """Return whether the command line has this key of Hydra."""
    return any(word.startswith(f"{key}=") for word in config.hydra.overrides.hydra)


def free(wanted: Path) -> Path:
    """Make a folder and return it; a taken name is followed by a number."""
    folder, numbers = wanted, count(1)
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder = wanted.with_name(f"{wanted.name}-{next(numbers)}")


def _command(program: str, arguments: Sequence[str], cfg: DictConfig) -> str:
    """Return a command that trains the same again, in a new folder."""
    name = "python train.py" if Path(program).name == "train.py" else "mnist-lit train"
    hydra_says, note = HydraConfig.get(), "  # resumed" if cfg.ckpt_path else ""
    if rundir.in_a_sweep():
        arguments = hydra_says.overrides.task
        note = f"  # job {hydra_says.job.num} of {hydra_says.sweep.dir}"
    kept = [word for word in arguments if not word.startswith(("ckpt_path=", "hydra.run.dir="))]
    return f"{name} {shlex.join(kept)}".rstrip() + note


def compose(*overrides: str) -> DictConfig:
    """Compose a config from the shipped files, as the command line does.

    Args:
        overrides: Words of the command line, such as ``experiment=tiny``. ``train`` also needs
            ``run_dir=FOLDER``.

    Raises:
        HydraException: A word cannot be parsed, or names a group, choice or key that does not
            exist.
        ConfigError: An override changes a part that is not chosen.
    """
    own = Path("conf").resolve()  # besides the shipped files, as with `mnist-lit train`
    beside = [f"hydra.searchpath=[file://{own}]"] if own.is_dir() else []
    # A Hydra program that calls this keeps its own state, which is restored below.
    theirs, base = GlobalHydra.instance().hydra, version.getbase()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folders.config()), version_base="1.3"):
            config = hydra.compose("config", overrides=[*beside, *overrides])
    finally:
        GlobalHydra.instance().hydra = theirs
        version.VersionBase.instance().version_base = base
    refuse_unbuilt(config, overrides)
    return config


class BuildFirst(Callback):
    """Builds a run, and claims its folder, before Hydra writes to it.

    A folder that nobody has named is made first, because the trainer needs its name; it is removed
    if the run is refused. The callback exits instead of raising because Hydra turns a callback's
    exceptions into warnings.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse other sweepers: they and Hydra write before a job claims its folder."""
        with errors_as_lines():
            sweeper = OmegaConf.select(config, "hydra.sweeper._target_")
            if sweeper != rundir.SWEEPER:
                words = "it would replace files of other runs; hydra/sweeper=mnist_lit does not"
                raise ConfigError(f"hydra/sweeper: {sweeper}: {words}")

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Build a single run and claim its folder."""
        with errors_as_lines():
            auto = config.ckpt_path == AUTO
            if auto:
                if not is_named(config):
                    raise ConfigError("ckpt_path=auto: name the folder: hydra.run.dir=FOLDER")
                last = Path(config.hydra.run.dir).expanduser() / "checkpoints" / "last.ckpt"
                with flag_override(config, "readonly", False):
                    config.ckpt_path = str(last) if last.is_file() else None
            if not config.hydra.run.dir:
                raise ConfigError("hydra.run.dir=: the name of a folder is expected")
            with _reserved(config) as folder:
                run = build_run(config)
                if auto and run.config.ckpt_path and (folder / "report.json").is_file():
                    show(f"{folders.shown(folder)}: this run is finished")
                    raise SystemExit
                # The lock is held as long as this object is.
                self.claimed = rundir.claim(folder, run.config.ckpt_path, "hydra.run.dir", auto)
                BUILT.append(run)


def parsed(config: DictConfig) -> Config:
    """Check a config that Hydra composed, with its ``hydra`` node, without torch.

    Raises:
        ConfigError: It cannot be run.
    """
    for word in config.hydra.overrides.task:
        if word.lstrip("+").startswith("run_dir="):
            raise ConfigError(f"{word}: hydra.run.dir is meant")
    if config.hydra.job.chdir:
        raise ConfigError("hydra.job.chdir=true: a run stays where it is started")
    if config.hydra.output_subdir not in (rundir.HYDRAS, None):
        words = f"the config of a run goes to {rundir.HYDRAS} in its folder, or with null nowhere"
        raise ConfigError(f"hydra.output_subdir={config.hydra.output_subdir}: {words}")
    HydraConfig.instance().set_config(config)
    run = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    run.run_dir = str(Path(config.hydra.run.dir).resolve())
    refuse_unbuilt(run, config.hydra.overrides.task)
    return parse(run)


def build_run(config: DictConfig) -> "Run":
    """Build all objects of a run; nothing is written.

    Args:
        config: The config that Hydra composed, with its ``hydra`` node.

    Raises:
        UserError: The config cannot be run.
    """
    from mnist_lit.training.build import prepare

    return prepare(parsed(config))


def _on_mnist(value: Any, *, _root_: DictConfig) -> Any:
    """Return a value for MNIST and None for other data."""
    return value if OmegaConf.select(_root_, "data._target_") == MNIST else None


def _unclipped(*, _root_: DictConfig) -> bool:
    """Return whether gradients are not clipped."""
    return OmegaConf.select(_root_, "trainer.gradient_clip_val") is None


def _shared_dir(form: str = "path", *, _root_: DictConfig) -> str:
    """Return the folder of the sweep or of the single run, quoted if ``form`` is ``url``."""
    folder = HydraConfig.get().sweep.dir if rundir.in_a_sweep() else _root_.run_dir
    folder = str(Path(folder).expanduser().resolve())
    return quote(folder) if form == "url" else folder


# The open nodes and the resolvers that ``conf/config.yaml`` uses.
_nodes = {key: OmegaConf.create({}, flags={"struct": False}) for key in OPEN}
ConfigStore.instance().store("open", OmegaConf.create(_nodes))
OmegaConf.register_new_resolver("on_mnist", _on_mnist, replace=True)
OmegaConf.register_new_resolver("unclipped", _unclipped, replace=True)
OmegaConf.register_new_resolver("shared_dir", _shared_dir, replace=True)
