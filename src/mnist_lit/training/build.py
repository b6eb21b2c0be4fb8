"""From a config to the objects of a run: the one place where they are made, and checked."""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn
from torchmetrics import Metric

from mnist_lit import devices
from mnist_lit.checkpoints.pretrained import checkpoint_of
from mnist_lit.checkpoints.read import read_file, weights
from mnist_lit.checkpoints.write import WholeFiles
from mnist_lit.config.schema import Config
from mnist_lit.data.idx import IdxDataModule
from mnist_lit.errors import CheckpointError, ConfigError, missing, reason, unknown
from mnist_lit.evaluation.history import MOST_STEPS
from mnist_lit.evaluation.origin import flat
from mnist_lit.evaluation.requirements import Check, check_before, refuse
from mnist_lit.facts import MNIST, Facts
from mnist_lit.targets import build, check, find, parameters
from mnist_lit.training.callbacks.history import RecordHistory
from mnist_lit.training.callbacks.keep import BestCheckpoint, LastCheckpoint
from mnist_lit.training.callbacks.stop import StopAtOnce
from mnist_lit.training.callbacks.trial import ReportTrial
from mnist_lit.training.classifier import LitClassifier
from mnist_lit.training.job import goes_on

STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
SOME = 1000  # steps of an epoch, where their number is not known before the images are read


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        data: Gives the batches.
        facts: Of the images.
        classifier: The network with all that trains it.
        record: Keeps the epoch table.
        best: Keeps the best epoch.
        trainer: Has all callbacks, and no loggers yet.
        checks: The requirements that are known before training.
        notes: What is to be said when the run starts.
    """

    data: pl.LightningDataModule
    facts: Facts
    classifier: LitClassifier
    record: RecordHistory
    best: BestCheckpoint
    trainer: pl.Trainer
    checks: list[Check]
    notes: list[str]


@contextmanager
def no_exit() -> Iterator[None]:
    """Make an error of a class's ``sys.exit(0)``, by which a run would end as if all were well."""
    try:
        yield
    except SystemExit as stop:
        if stop.code or type(stop) is not SystemExit:  # an error already, or Lightning's SIGTERM
            raise
        at = traceback.extract_tb(stop.__traceback__)[-1]
        raise ConfigError(f"{at.filename}, line {at.lineno}: {at.line} ended the run") from None


@no_exit()
def prepare(config: Config) -> Parts:
    """Make everything that a run is made of, but the loggers, and check that it can be run.

    Neither GPU nor a folder is touched, nor images, but those whose facts have to be read off them.
    The weights are drawn from the config's seed.

    Raises:
        ConfigError: Something cannot be built.
        RequirementsError: It is over budget, and ``requirements.enforce`` is true.
        CheckpointError: ``ckpt_path`` or ``init_from`` is not a checkpoint that fits.
        DataError: The images whose facts are needed cannot be read.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    check_loggers(config)
    data = build_data(config)
    facts = facts_of(config, data)
    classifier = build_classifier(config, facts)
    classifier.check_schedule(_length(config, data))
    options = options_of(config)
    run_dir, record = Path(config.run_dir).resolve(), RecordHistory([*config.logger])
    if config.ckpt_path is not None:
        config.ckpt_path = str(last_of(config.ckpt_path))
        runs = check_resumable(Path(config.ckpt_path), options)
        record.runs = runs if goes_on(run_dir, config.ckpt_path) else {}
    notes = []
    if config.init_from is not None:
        notes.append(start_from(config.init_from, classifier.network))
    folder, resumed = run_dir / "checkpoints", config.ckpt_path
    best = BestCheckpoint(folder, resumed)
    kept: list[Callback] = [record, best, LastCheckpoint(folder, options, resumed), StopAtOnce()]
    if config.search is not None and config.search.trial is not None:
        kept.append(ReportTrial(config.search))
    with quiet_lightning():
        trainer = build_trainer(config, run_dir, [*kept, *build_callbacks(config)], data)
    _check_processes(trainer, data)
    checks = check_before(classifier.network, config.trainer.max_epochs, config.requirements)
    if config.requirements.enforce:
        refuse(checks)
    return Parts(data, facts, classifier, record, best, trainer, checks, notes)


def build_data(config: Config) -> pl.LightningDataModule:
    """Make the data module; no file is read yet.

    Raises:
        ConfigError: It is no LightningDataModule, or lacks a loader.
    """
    data = build(config.data, "data", also={"seed": config.seed})
    _expect(data, pl.LightningDataModule, "data", config.data)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if not is_overridden(name, data, pl.LightningDataModule):
            target = config.data["_target_"]
            raise ConfigError(f"data={target}: it has no {name}; a run trains, validates and tests")
    return cast(pl.LightningDataModule, data)


def facts_of(config: Config, data: pl.LightningDataModule) -> Facts:
    """Return the facts of a data module, with what its images come from.

    Raises:
        ConfigError: It has none, or too few images for what is asked.
    """
    if isinstance(data, IdxDataModule):
        data.check()
    facts = getattr(data, "facts", None)
    if not isinstance(facts, Facts):
        raise ConfigError(
            f"data={config.data['_target_']}: it needs an attribute `facts`, a mnist_lit.Facts "
            "that says name, classes, side, mean and std"
        )
    source = facts.source or {key: v for key, v in config.data.items() if key != "root"}
    return replace(facts, source=source)


def _length(config: Config, data: pl.LightningDataModule) -> int:
    """Return how long the training is in the scheduler's units, in one process."""
    options, epochs = config.trainer.model_dump(), config.trainer.max_epochs
    batches = data.steps if isinstance(data, IdxDataModule) else SOME
    limit = options.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if batches < 1:
        raise ConfigError(
            f"trainer.limit_train_batches={limit}: leaves no batch; an epoch has {data.steps}"
            if isinstance(data, IdxDataModule)
            else f"trainer.limit_train_batches={limit}: leaves no batch"
        )
    steps = -(-batches // (options.get("accumulate_grad_batches") or 1)) * epochs
    if steps > MOST_STEPS:
        raise ConfigError(
            f"trainer.max_epochs={epochs}: these are {steps:,} steps, at most {MOST_STEPS:,} are "
            "possible"
        )
    return epochs if config.scheduler.interval == "epoch" else steps


def build_classifier(config: Config, facts: Facts = MNIST) -> LitClassifier:
    """Make the network with its optimizer and scheduler, weights drawn from the global seed."""
    model = {key: value for key, value in config.model.items() if key != "name"}
    named, _ = parameters(find(model["_target_"], "model"))
    known = {"classes": len(facts.classes), "side": facts.side, "paper": facts.paper}
    schedule = ("optimizer", "total_steps", "T_max", "max_lr")
    loss = build(config.loss, "loss")
    if not callable(loss):
        raise ConfigError(f"loss={config.loss['_target_']}: it cannot be called")
    classifier = LitClassifier(
        {**{key: value for key, value in known.items() if key in named}, **model},
        facts,
        optimizer=build(config.optimizer, "optimizer", given=("params",)),
        scheduler=build(config.scheduler.build, "scheduler.build", given=schedule),
        interval=config.scheduler.interval,
        loss=loss,
        metrics=build_metrics(config, facts),
        augmentations=[build(node, "augmentation") for node in config.augmentation],
        seed=config.seed,
        compile_mode=config.compile,
    )
    skip_empty_hooks(classifier, pl.LightningModule)
    return classifier


def build_metrics(config: Config, facts: Facts) -> dict[str, Metric]:
    """Make the configured metrics, and see that each gives one number.

    Raises:
        ConfigError: One is no metric of this kind.
    """
    metrics = {}
    for name, node in config.metrics.items():
        path, classes = f"metrics.{name}", len(facts.classes)
        metric = build(node, path, also={"num_classes": classes})
        _expect(metric, Metric, path, node)
        try:
            metric.update(torch.eye(classes), torch.arange(classes))
            float(metric.compute())
        except Exception as error:  # torchmetrics raises many kinds
            raise ConfigError(
                f"{path}={node['_target_']}: it does not give one number for probabilities and "
                f"labels: {reason(error)}"
            ) from None
        metric.reset()
        metrics[name] = metric
    return metrics


def build_callbacks(config: Config) -> list[Callback]:
    """Make the configured callbacks.

    Raises:
        ConfigError: One cannot be built, or waits for what is never logged.
    """
    logged = [f"val/{name}" for name in ("accuracy", "loss", "errors", "rank", *config.metrics)]
    logged += ["train/loss", "train/accuracy_on_distorted", "lr"]
    callbacks = []
    for name, node in config.callbacks.items():
        path = f"callbacks.{name}"
        callbacks.append(build(node, path))
        _expect(callbacks[-1], Callback, path, node)
        monitor = getattr(callbacks[-1], "monitor", None)
        if monitor is not None and monitor not in logged:
            raise ConfigError(unknown(f"{path}.monitor={monitor}", logged, "number"))
        if isinstance(callbacks[-1], LearningRateMonitor) and not config.logger:
            raise ConfigError(f"{path}={node['_target_']}: it needs a logger; logger=csv is one")
    return callbacks


def check_loggers(config: Config) -> None:
    """Hold the loggers against their signatures and look for their packages.

    They are not built yet: several open files or connections then.

    Raises:
        ConfigError: One does not take its arguments, or lacks its package.
    """
    for name, node in config.logger.items():
        target = check(node, f"logger.{name}")
        if not (isinstance(target, type) and issubclass(target, Logger)):
            raise ConfigError(f"logger.{name}={node['_target_']}: a Lightning logger is expected")
        # Lightning's own modules say so what they need.
        for requirement in vars(sys.modules[target.__module__]).values():
            if isinstance(requirement, RequirementCache) and not requirement:
                package = re.split("[<>=!~ ]", str(requirement.requirement))[0]
                raise ConfigError(f"logger.{name}: {missing(package, name)}")


def build_loggers(config: Config, runs: Mapping[str, str] | None = None) -> list[Logger]:
    """Make the configured loggers, which may open files and connections; some go on in a run."""
    # W&B's takes the first of these, MLflow's the second.
    known = {name: {"id": run, "run_id": run} for name, run in (runs or {}).items()}
    nodes = config.logger.items()
    return [build(node, f"logger.{name}", also=known.get(name)) for name, node in nodes]


def build_trainer(
    config: Config,
    run_dir: Path,
    callbacks: Sequence[Callback],
    data: pl.LightningDataModule | None = None,
) -> pl.Trainer:
    """Make Lightning's trainer, without loggers.

    Raises:
        ConfigError: Lightning does not take its arguments.
    """
    options = config.trainer.model_dump()
    check({"_target_": "pytorch_lightning.Trainer", **options}, "trainer")
    options["precision"] = devices.pick_precision(config.trainer.precision, options["accelerator"])
    try:
        trainer = pl.Trainer(
            **{**options, "profiler": options.get("profiler") or Unprofiled()},
            callbacks=list(callbacks),
            plugins=[WholeFiles()],
            logger=False,
            default_root_dir=run_dir,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=0,  # what is logged is logged once an epoch
            # Ours share the images out themselves.
            use_distributed_sampler=not isinstance(data, IdxDataModule | None),
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(f"trainer: Lightning refuses it: {words}") from None
    for callback in vars(trainer)["callbacks"]:
        skip_empty_hooks(callback, Callback)
    return trainer


class Unprofiled(PassThroughProfiler):
    """Measures nothing, as Lightning's own, which starts and stops itself forty times a step."""

    nothing: ClassVar = nullcontext()

    def profile(self, action_name: str) -> Any:
        """Return a context in which nothing is measured."""
        return self.nothing


def skip_empty_hooks(owner: Any, base: type) -> None:
    """Have Lightning pass over the hooks of a step that its owner does not override.

    It enters a profiler's context for each otherwise, some fifty times a step, and calls none that
    cannot be called.
    """
    for name in STEP_HOOKS:
        if not is_overridden(name, owner, base):
            setattr(owner, name, None)


def _check_processes(trainer: pl.Trainer, data: pl.LightningDataModule) -> None:
    number, cores = trainer.num_devices, os.cpu_count() or 1
    cluster = getattr(trainer.strategy, "cluster_environment", None)
    alone = isinstance(cluster, LightningEnvironment) and "MASTER_ADDR" not in os.environ
    # The launcher of a sweep may start its jobs in a cluster.
    swept = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if trainer.num_nodes > 1 and alone and not swept:  # it would wait for ever
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}: this is no cluster; start the same command on "
            "every node with srun or torchrun"
        )
    if trainer.strategy.root_device.type == "cpu" and number > cores:
        raise ConfigError(
            f"trainer.devices={number}: at most {cores}, the number of processor cores"
        )
    if isinstance(data, IdxDataModule) and data.steps < trainer.world_size:
        raise ConfigError(
            f"data.batch_size={data.batch_size}: the training images make {data.steps} batches, "
            f"fewer than one for each of {trainer.world_size} processes"
        )


def start_from(model: str, network: nn.Module) -> str:
    """Copy into a network what a trained one has of the same name and shape; returns a line on it.

    Args:
        model: A name of the package, or the path of a checkpoint.
        network: Gets the weights.

    Raises:
        CheckpointError: There is no such checkpoint, or nothing of it fits.
    """
    try:
        theirs = weights(read_file(checkpoint_of(model)))
    except KeyError:
        raise CheckpointError(f"init_from={model}: not a checkpoint of this project") from None
    ours = network.state_dict()
    fitting = {
        k: v
        for k, v in theirs.items()
        if k in ours
        and v.shape == ours[k].shape
        and v.is_floating_point() == ours[k].is_floating_point()
    }
    if not fitting:
        raise CheckpointError(f"init_from={model}: nothing of it fits this network")
    network.load_state_dict(fitting, strict=False)
    left = [
        f"{name} ({'×'.join(map(str, theirs[name].shape))}, here {'×'.join(map(str, v.shape))})"
        if name in theirs
        else f"{name} (not there)"
        for name, v in ours.items()
        if name not in fitting
    ]
    line = f"init_from={model}: {len(fitting)} of {len(ours)} tensors taken"
    return f"{line}; left as drawn: {', '.join(left)}" if left else line


def options_of(config: Config) -> dict[str, Any]:
    """Return what decides the course of a training, by keys as ``optimizer.lr``.

    Loggers, the progress bar, the budget, where the images lie, how many are validated at a time
    and what it is computed on may differ when a run is resumed; they are left out.
    """
    plain = config.model_dump()
    for key in ("logger", "requirements", "ckpt_path", "run_dir", "optimized_metric", "recipe"):
        del plain[key]
    del plain["test"], plain["search"]
    free = {
        "data": ("root", "eval_batch_size"),
        "callbacks": ("progress",),
        "trainer": ("accelerator", "profiler", "detect_anomaly", "deterministic"),
    }
    for group, keys in free.items():
        plain[group] = {key: value for key, value in plain[group].items() if key not in keys}
    return flat(plain)


def differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Say in which options two trainings differ, the first three of them; nothing if in none."""
    differ = [
        f"{key} is {here.get(key)} here and {there.get(key)} there"
        for key in sorted({*there, *here})
        if here.get(key) != there.get(key)
    ]
    more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
    return f"{'; '.join(differ[:3])}{more}"


def last_of(ckpt_path: str) -> Path:
    """Return the checkpoint to resume from: a file, or that of a run's folder.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(ckpt_path).expanduser()
    last = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not last.is_file():
        raise CheckpointError(
            f"ckpt_path={ckpt_path} is not there; give the folder of a run, or its last.ckpt"
        )
    return last


def check_resumable(checkpoint: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """See that a training goes on as it began; returns the runs of its loggers.

    Args:
        checkpoint: The ``last.ckpt`` to resume from.
        options: Of the run that resumes it.

    Raises:
        CheckpointError: It was trained with other options, or is no ``last.ckpt`` of a run.
    """
    content = read_file(checkpoint)
    before = content.get("options")
    if not isinstance(before, dict):
        raise CheckpointError(
            f"ckpt_path={checkpoint}: it holds no training to resume; give the folder of a run of "
            "this version, or its last.ckpt (init_from= takes the weights alone)"
        )
    if words := differing(options, before):
        raise CheckpointError(
            f"ckpt_path={checkpoint}: {words}; a run is resumed with the "
            "options that it was started with"
        )
    rows = content["callbacks"]["History"]["epochs"]
    best = checkpoint.with_name("best.ckpt")
    if any(row["val_loss"] is not None for row in rows) and not best.is_file():
        raise CheckpointError(
            f"{best} is not there; a run is resumed from its last.ckpt with the best.ckpt beside it"
        )
    return dict(content.get("loggers", {}))


def _expect(built: Any, kind: type, path: str, node: Mapping[str, Any]) -> None:
    if not isinstance(built, kind):
        raise ConfigError(f"{path}={node['_target_']}: a {kind.__name__} is expected")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep from the console what a normal run need not say."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)  # hardware found and not found, processes, tips
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # asked for, so shown
    with warnings.catch_warnings():
        # Batches are slices of tensors in memory: worker processes would only copy them about.
        warnings.filterwarnings("ignore", ".*does not have many workers")
        # Batches are augmented and normalised by the module, for any data module.
        warnings.filterwarnings("ignore", ".*overridden `on_after_batch_transfer` in `LightningM")
        # The run's folder holds Hydra's files before the CSV logger comes.
        warnings.filterwarnings("ignore", ".*Experiment logs directory .* exists")
        # The folder of a resumed run holds the best checkpoint so far.
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty")
        # A resumed run writes to a folder of its own; its best epoch so far is carried over.
        warnings.filterwarnings("ignore", ".*The dirpath has changed from")
        # Of one input channel, both orders of a weight's strides mean the same places in memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # trainer=cpu means it.
        warnings.filterwarnings("ignore", "GPU available but not used")
        # Where SLURM is, a sweep is started outside of srun, which starts its jobs.
        warnings.filterwarnings("ignore", "The `srun` command is available on your system")
        # Lightning 2.6 on torch 2.15; nothing here uses it.
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
