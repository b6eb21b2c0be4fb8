"""Build and check all objects of a run from a config."""

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.model_helpers import is_overridden
from torchmetrics import Metric

from mnist_lit import devices
from mnist_lit.checkpoints.read import build_network
from mnist_lit.checkpoints.write import WholeFiles
from mnist_lit.config.schema import Config
from mnist_lit.data.idx import ImagesDataModule
from mnist_lit.errors import ConfigError, missing, reason, unknown
from mnist_lit.evaluation.history import MOST_STEPS
from mnist_lit.evaluation.requirements import Check, check_before, refuse
from mnist_lit.facts import MNIST, Facts
from mnist_lit.files import run_around
from mnist_lit.targets import build, check, find, parameters
from mnist_lit.training.callbacks.history import RecordHistory
from mnist_lit.training.callbacks.keep import BestCheckpoint, LastCheckpoint
from mnist_lit.training.callbacks.stop import StopAtOnce
from mnist_lit.training.classifier import LitClassifier
from mnist_lit.training.console import quiet_lightning
from mnist_lit.training.resume import options_of, resumed, start_from
from mnist_lit.training.rundir import goes_on, refuse_journal

OF_A_RUN = ("accuracy", "loss", "errors", "rank")  # numbers that validation logs as `val/NAME`
SOME = 1000  # assumed steps of an epoch, if their number is unknown before the images are read


@dataclass(frozen=True)
class Run:
    """The objects of a run.

    Attributes:
        config: The config.
        data: The data module.
        facts: The facts of the images.
        module: The LightningModule.
        record: The callback that keeps the epoch table.
        best: The callback that keeps the best epoch.
        trainer: The trainer, with all callbacks but no loggers yet.
        checks: The requirements that are known before training.
        notes: Lines to print when the run starts.
    """

    config: Config
    data: pl.LightningDataModule
    facts: Facts
    module: LitClassifier
    record: RecordHistory
    best: BestCheckpoint
    trainer: pl.Trainer
    checks: list[Check]
    notes: list[str]


@contextmanager
def no_exit() -> Iterator[None]:
    """Turn ``sys.exit(0)`` of a class into an error: the run would seem to have succeeded."""
    try:
        yield
    except SystemExit as stop:
        if stop.code or type(stop) is not SystemExit:  # an error already, or Lightning's SIGTERM
            raise
        at = traceback.extract_tb(stop.__traceback__)[-1]
        raise ConfigError(f"{at.filename}, line {at.lineno}: {at.line} ended the run") from None


@no_exit()
def prepare(config: Config) -> Run:
    """Build all objects of a run except the loggers, and check that it can be run.

    This uses no GPU, writes nothing, and reads images only if their facts depend on them. The seed
    of the config initialises the weights.

    Raises:
        ConfigError: An object cannot be built.
        UserError: The run is over budget, and ``requirements.enforce`` is true.
        CheckpointError: ``ckpt_path`` or ``init_from`` is not a checkpoint that fits.
        DataError: The images whose facts are needed cannot be read.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    check(config.trainer, "trainer")
    check_loggers(config)
    data, facts = build_data(config)
    module = build_module(config, facts)
    module.build_optimizer(_length(config, data))  # a check that they can be built
    options, run_dir = options_of(config), Path(config.run_dir).resolve()
    record = RecordHistory([*config.logger], options)
    notes = list(data.notes) if isinstance(data, ImagesDataModule) else []
    if config.ckpt_path is not None:
        last, logged, done = resumed(config.ckpt_path, options)
        notes.append(f"resumes after epoch {done} of {config.trainer['max_epochs']}")
        config.ckpt_path = str(last)
        record.runs = logged if goes_on(run_dir, config.ckpt_path) else {}
    if config.init_from is not None:
        notes.append(start_from(config.init_from, module.network))
    folder, before = run_dir / "checkpoints", config.ckpt_path
    best = BestCheckpoint(folder, before)
    callbacks = [record, best, LastCheckpoint(folder, before), StopAtOnce()]
    trainer = build_trainer(config, [*callbacks, *build_callbacks(config)], data)
    checks = check_before(module.network, config.trainer["max_epochs"], config.requirements)
    if config.requirements.enforce:
        refuse(checks)
    return Run(config, data, facts, module, record, best, trainer, checks, notes)


def build_data(config: Config) -> tuple[pl.LightningDataModule, Facts]:
    """Build the data module; return it with its facts, completed by the source of the images.

    A file is read only if the facts depend on it.

    Raises:
        ConfigError: It is no LightningDataModule, has no facts or lacks a dataloader, or has too
            few images.
    """
    data = build(config.data, "data", kind=pl.LightningDataModule, seed=config.seed)
    place = f"data={config.data['_target_']}"
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if not is_overridden(name, data, pl.LightningDataModule):
            raise ConfigError(f"{place}: it has no {name}; a run trains, validates and tests")
    if isinstance(data, ImagesDataModule):
        data.check()
    facts = getattr(data, "facts", None)
    if not isinstance(facts, Facts):
        raise ConfigError(f"{place}: it needs an attribute `facts` of the class mnist_lit.Facts")
    source = facts.source or {key: v for key, v in config.data.items() if key != "root"}
    return data, replace(facts, source=source)


def build_module(config: Config, facts: Facts = MNIST) -> LitClassifier:
    """Build the LightningModule, with weights from the global random generator.

    Raises:
        ConfigError: An object cannot be built, or has the wrong class.
    """
    target = config.model["_target_"]
    named, _ = parameters(find(target, "model"))
    known = {"classes": len(facts.classes), "side": facts.side, "paper": facts.paper}
    described = {key: value for key, value in known.items() if key in named} | config.model
    if "name" not in named:
        described.pop("name", None)
    loss: Any = build(config.loss, "loss")
    if not callable(loss):
        raise ConfigError(f"loss={config.loss['_target_']}: it cannot be called")
    nodes, later = config.augmentation.items(), ["optimizer", "total_steps", "T_max", "max_lr"]
    return build(
        config.module,
        "module",
        kind=LitClassifier,
        network=build_network(described, trust=[target]),
        facts=facts,
        optimizer=build(config.optimizer, "optimizer", later=["params"]),
        scheduler=build(config.scheduler, "scheduler", later),
        loss=loss,
        metrics=build_metrics(config, facts),
        augmentations=[build(node, f"augmentation.{name}") for name, node in nodes],
        seed=config.seed,
        compile_mode=config.compile,
    )


def build_metrics(config: Config, facts: Facts) -> dict[str, Metric]:
    """Build the configured metrics, and check that each returns one number.

    Raises:
        ConfigError: A metric cannot be built, or does not return one number.
    """
    metrics = {}
    for name, node in config.metrics.items():
        if name in OF_A_RUN:
            raise ConfigError(f"metrics.{name}: a run counts this itself; give another name")
        path, classes = f"metrics.{name}", len(facts.classes)
        metric = build(node, path, kind=Metric, num_classes=classes)
        try:
            metric.update(torch.eye(classes), torch.arange(classes))
            float(metric.compute())
        except Exception as error:  # torchmetrics raises many kinds
            words = f"it does not give one number: {reason(error)}"
            raise ConfigError(f"{path}={node['_target_']}: {words}") from None
        metric.reset()
        metrics[name] = metric
    return metrics


def build_callbacks(config: Config) -> list[Callback]:
    """Build the configured callbacks.

    Raises:
        ConfigError: One cannot be built, or monitors a number that is never logged.
    """
    logged = [f"val/{name}" for name in (*OF_A_RUN, *config.metrics)]
    logged += ["train/loss", "train/accuracy_on_distorted", "lr"]
    callbacks = []
    for name, node in config.callbacks.items():
        path = f"callbacks.{name}"
        callbacks.append(build(node, path, kind=Callback))
        monitor = getattr(callbacks[-1], "monitor", None)
        if monitor is not None and monitor not in logged:
            raise ConfigError(unknown(f"{path}.monitor={monitor}", logged, "number"))
        if isinstance(callbacks[-1], LearningRateMonitor) and not config.logger:
            raise ConfigError(f"{path}={node['_target_']}: it needs a logger; logger=csv is one")
    return callbacks


def check_loggers(config: Config) -> None:
    """Check the arguments of the loggers, and that their packages are installed.

    They are not built yet, because some would open files or connections.

    Raises:
        ConfigError: A logger does not take its arguments, its package is missing, or SQLite would
            remove a file for it.
    """
    for name, node in config.logger.items():
        target = check(node, f"logger.{name}")
        if not (isinstance(target, type) and issubclass(target, Logger)):
            raise ConfigError(f"logger.{name}={node['_target_']}: a Lightning logger is expected")
        for text in map(str, node.values()):
            if text.startswith("sqlite"):
                refuse_journal(Path(unquote(text.partition("///")[2].partition("?")[0])))
        for kind, package in ((WandbLogger, "wandb"), (MLFlowLogger, "mlflow")):
            if issubclass(target, kind) and find_spec(package) is None:
                raise ConfigError(f"logger.{name}: {missing(package, package)}")


def build_loggers(config: Config, runs: Mapping[str, str]) -> list[Logger]:
    """Build the configured loggers, which may open files and connections.

    Args:
        config: The config of the run.
        runs: Resumed runs of Weights & Biases and MLflow, by names of loggers.

    Raises:
        ConfigError: One cannot be built, or would replace a file of another run.
    """
    loggers = []
    for name, node in config.logger.items():
        # The loggers of Weights & Biases and MLflow have one of these parameters.
        known = dict.fromkeys(("id", "run_id"), runs[name]) if name in runs else {}
        logger = build(node, f"logger.{name}", kind=Logger, **known)
        loggers.append(logger)
        if not isinstance(logger, CSVLogger):
            continue
        folder, run = Path(logger.log_dir).resolve(), Path(config.run_dir).resolve()
        options = folder / "hparams.yaml"
        kept = options.read_text(errors="replace").splitlines() if options.is_file() else []
        own = run_around(options) == run or f"run_dir: {config.run_dir}" in kept
        for file in (folder / "metrics.csv", options):
            if file.exists() and folder != run and not (own and goes_on(run, config.ckpt_path)):
                raise ConfigError(f"logger.{name}: {file} would be replaced; give another save_dir")
    return loggers


def build_trainer(
    config: Config, callbacks: list[Callback], data: pl.LightningDataModule
) -> pl.Trainer:
    """Build Lightning's trainer, without loggers.

    Raises:
        ConfigError: Lightning does not take its arguments, or there are too few batches for its
            processes.
    """
    node = dict(config.trainer)
    precision = devices.pick_precision(node["precision"], node["accelerator"])
    with quiet_lightning():
        trainer = build(
            {**node, "precision": precision},
            "trainer",
            kind=pl.Trainer,
            callbacks=callbacks,
            plugins=[WholeFiles(Path(config.run_dir).resolve())],
            logger=False,
            default_root_dir=Path(config.run_dir).resolve(),
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=0,  # everything is logged once per epoch
            # These distribute the images themselves.
            use_distributed_sampler=not isinstance(data, ImagesDataModule),
        )
    cluster = getattr(trainer.strategy, "cluster_environment", None)
    alone = isinstance(cluster, LightningEnvironment) and "MASTER_ADDR" not in os.environ
    # SLURM starts the jobs of a sweep on a cluster.
    swept = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    slurm = swept and str(HydraConfig.get().launcher._target_).endswith("SlurmLauncher")
    if trainer.num_nodes > 1 and alone and not slurm:  # it would wait forever
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}: this is no cluster; start the same command on "
            "every node with srun or torchrun, or a sweep with hydra/launcher=submitit_slurm"
        )
    number, world, cores = trainer.num_devices, trainer.world_size, os.cpu_count() or 1
    if trainer.strategy.root_device.type == "cpu" and number > cores:
        words = f"at most {cores}, the number of processor cores"
        raise ConfigError(f"trainer.devices={number}: {words}")
    if isinstance(data, ImagesDataModule) and data.steps < world:
        many = f"make {data.steps} batches, fewer than one for each of {world} processes"
        raise ConfigError(f"data.batch_size={data.batch_size}: the training images {many}")
    return trainer


def _length(config: Config, data: pl.LightningDataModule) -> int:
    """Return the length of the training in units of ``module.interval``, for one process."""
    options, epochs = config.trainer, config.trainer["max_epochs"]
    limit = options.get("limit_train_batches") or 1.0
    there = data.steps if isinstance(data, ImagesDataModule) else SOME
    batches = min(there, limit) if isinstance(limit, int) else int(there * limit)
    if batches < 1 and isinstance(data, ImagesDataModule):
        words = f"leaves no batch; an epoch has {there}"
        raise ConfigError(f"trainer.limit_train_batches={limit}: {words}")
    steps = -(-batches // (options.get("accumulate_grad_batches") or 1)) * epochs
    if steps > MOST_STEPS:
        words = f"these are {steps:,} steps, at most {MOST_STEPS:,} are possible"
        raise ConfigError(f"trainer.max_epochs={epochs}: {words}")
    return epochs if config.module.get("interval") == "epoch" else steps
