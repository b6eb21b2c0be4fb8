"""From a config to a trained, checked and reported network: where all objects are made."""

import inspect
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from mnist_lit import devices, figures, reporting, summary
from mnist_lit.checkpoints import BestCheckpoint, LastCheckpoint
from mnist_lit.classifier import CheckpointError, LitClassifier, decay_weights_only
from mnist_lit.config import Config, ConfigError, parse, unknown_key
from mnist_lit.data import MNISTDataModule
from mnist_lit.evaluation import evaluate
from mnist_lit.progress import History
from mnist_lit.requirements import check_accuracy, check_before, refuse


class StoppedError(RuntimeError):
    """A training that was stopped from outside; the message says how to go on with it."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        report: The content of ``report.json``.
        run_dir: Where everything lies.
        objective: The entry of the report that ``optimized_metric`` names.
    """

    report: reporting.Report
    run_dir: Path
    objective: float

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return self.report.passed


def train(cfg: DictConfig) -> TrainingResult:
    """Train, reload the best epoch, test it, and leave checkpoints, report and figures.

    Args:
        cfg: A config composed from ``conf/``.

    Raises:
        ConfigError: The config cannot be run.
        RequirementsError: The network or the training is over budget, and
            ``requirements.enforce`` is true.
        CheckpointError: ``ckpt_path`` is not a checkpoint of this network.
        DataError: MNIST cannot be read.
        StoppedError: Ctrl-C was pressed, or the process was asked to end.
    """
    config = parse(cfg)
    run_dir = Path(config.run_dir).resolve()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    classifier = build_classifier(config)
    checks = check_before(classifier.network, config.trainer.max_epochs, config.requirements)
    if config.requirements.enforce:
        refuse(checks)
    if config.ckpt_path is not None:
        _check_resumable(Path(config.ckpt_path), classifier)
    data = build_data(config)
    history = History()
    folder = run_dir / "checkpoints"
    best = BestCheckpoint(folder, resumed_from=config.ckpt_path)
    with quiet_lightning():
        trainer = build_trainer(config, run_dir, [history, best, LastCheckpoint(folder)])
        rank_zero_only(print)(
            summary.table(
                classifier.network, config.model.name, config.requirements.max_parameters
            ),
            f"training on {describe_device(trainer)} in {trainer.precision} precision "
            f"(trainer.precision={config.trainer.precision}), {run_dir}",
            sep="\n",
            flush=True,
        )
        started = time.perf_counter()
        try:
            trainer.fit(classifier, data, ckpt_path=config.ckpt_path, weights_only=True)
        except SystemExit:  # Lightning's way out after Ctrl-C or SIGTERM, without a word
            raise StoppedError(_stopped(trainer, folder / "last.ckpt")) from None
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = next(line for line in str(error).splitlines() if line.strip())
            raise ConfigError(f"compile={config.compile}: does not work here: {reason}") from None
        wall_seconds = time.perf_counter() - started

    device = trainer.strategy.root_device
    kept = LitClassifier.load_from_checkpoint(best.best_model_path)
    evaluation = evaluate(kept.network, data.test, data.eval_batch_size, device)
    checks.insert(0, check_accuracy(history.best.val_accuracy, config.requirements))
    report = reporting.make_report(
        model=config.model.name,
        protocol=data.protocol,
        checks=checks,
        history=history,
        evaluation=evaluation,
        wall_seconds=wall_seconds,
        seed=config.seed,
        device=describe_device(trainer),
        precision=str(trainer.precision),
    )
    if trainer.is_global_zero:
        reporting.write(report, run_dir)
        figures.write(run_dir / "figures", history, evaluation, data)
        print(reporting.text(report), f"{run_dir}: checkpoints, report, figures", sep="\n")
    objective = getattr(report, config.optimized_metric)
    return TrainingResult(report, run_dir, objective)


def _stopped(trainer: pl.Trainer, last: Path) -> str:
    done = f"stopped in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
    if not last.is_file():
        return f"{done}, before there was anything to resume"
    return f"{done}; add ckpt_path={last} to the same command to go on"


def _check_resumable(checkpoint: Path, classifier: LitClassifier) -> None:
    same_network = LitClassifier.load_from_checkpoint(checkpoint).hparams == classifier.hparams
    assert classifier.optimizer is not None
    optimizer = classifier.optimizer(decay_weights_only(classifier.network))
    states = torch.load(checkpoint, weights_only=True).get("optimizer_states", [])
    same_optimizer = bool(states) and all(
        set(group) <= set(saved)
        for group, saved in zip(optimizer.param_groups, states[0]["param_groups"], strict=True)
    )
    for same, what in ((same_network, "network"), (same_optimizer, "optimizer")):
        if not same:
            raise CheckpointError(
                f"ckpt_path={checkpoint} is of another {what} than this config's; "
                "resume it with the options that it was trained with"
            )


def build_classifier(config: Config) -> LitClassifier:
    """Make the network with its optimizer and scheduler, weights drawn from the global seed."""
    return LitClassifier(
        network={"blocks": config.model.blocks, "dropout": config.model.dropout},
        optimizer=_build(config.optimizer, "optimizer"),
        scheduler=_build(config.scheduler.build, "scheduler.build"),
        interval=config.scheduler.interval,
        seed=config.seed,
        compile_mode=config.compile,
    )


def build_data(config: Config) -> MNISTDataModule:
    """Make the data module; no file is read yet."""
    augmentation = _build(config.augmentation, "augmentation") if config.augmentation else None
    return MNISTDataModule(**vars(config.data), augmentation=augmentation, seed=config.seed)


def build_trainer(config: Config, run_dir: Path, callbacks: list[Callback]) -> pl.Trainer:
    """Make Lightning's trainer, with the configured callbacks after the given ones."""
    callbacks = callbacks + [
        _build(node, f"callbacks.{name}") for name, node in config.callbacks.items()
    ]
    loggers: list[Logger] = [_build(node, f"logger.{name}") for name, node in config.logger.items()]
    options = {k: v for k, v in vars(config.trainer).items() if v is not None}
    options["precision"] = devices.pick_precision(
        config.trainer.precision, config.trainer.accelerator
    )
    try:
        return pl.Trainer(
            **options,
            callbacks=callbacks,
            logger=loggers or False,
            default_root_dir=run_dir,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=0,  # what is logged is logged once an epoch
            use_distributed_sampler=False,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"trainer={vars(config.trainer)}: Lightning refuses it: {reason}"
        ) from None


def describe_device(trainer: pl.Trainer) -> str:
    """Name what a trainer computes on."""
    name = devices.describe(trainer.strategy.root_device)
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"


def _build(node: Mapping[str, Any], path: str) -> Any:
    """Instantiate a node that has a ``_target_``, with a mistake in it told as a config error."""
    try:
        built = instantiate(dict(node), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        group, _, name = path.partition(".")
        if isinstance(cause, ModuleNotFoundError) and group == "logger":
            raise ConfigError(
                f"{path}: its package is not installed; pip install -e '.[{name}]'"
            ) from None
        reason = str(cause or error).splitlines()[0]
        raise ConfigError(f"{path}={node['_target_']}: cannot be built: {reason}") from None
    if node.get("_partial_"):
        parameters = inspect.signature(built.func).parameters
        for key in built.keywords:
            if key not in parameters:
                raise ConfigError(unknown_key(f"{path}.{key}", list(parameters)))
    return built


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep from the console what a normal run need not say."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)  # hardware found and not found, tips
    with warnings.catch_warnings():
        # Batches are slices of tensors in memory: worker processes would only copy them about.
        warnings.filterwarnings("ignore", ".*does not have many workers")
        # The run's folder holds Hydra's files before the CSV logger comes.
        warnings.filterwarnings("ignore", ".*Experiment logs directory .* exists")
        # The folder of a resumed run holds the best checkpoint so far.
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty")
        # A resumed run writes to a folder of its own; its best epoch so far is carried over.
        warnings.filterwarnings("ignore", ".*The dirpath has changed from")
        # Lightning 2.6 on torch 2.15; nothing here uses it.
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
        try:
            yield
        finally:
            logger.setLevel(level)
