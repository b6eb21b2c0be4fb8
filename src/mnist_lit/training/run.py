"""A run: trained, reloaded at its best epoch, tested and reported."""

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger

from mnist_lit import devices
from mnist_lit.checkpoints.read import read
from mnist_lit.config.check import parse
from mnist_lit.config.schema import Config
from mnist_lit.data.idx import IdxDataModule
from mnist_lit.data.memory import Images
from mnist_lit.data.reopen import split
from mnist_lit.errors import ConfigError, StoppedError, reason
from mnist_lit.evaluation import figures, origin, page, report
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.evaluation.requirements import check_accuracy
from mnist_lit.network import summary
from mnist_lit.network.compact import count_parameters
from mnist_lit.training.build import (
    Parts,
    build_loggers,
    build_metrics,
    prepare,
    quiet_lightning,
)
from mnist_lit.training.console import kept, say


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        report: The content of ``report.json``.
        run_dir: Where everything lies.
        objective: What ``optimized_metric`` names.
    """

    report: report.Report
    run_dir: Path
    objective: float

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return self.report.passed


def train(cfg: DictConfig, command: str | None = None) -> TrainingResult:
    """Train, reload the best epoch, test it, and leave checkpoints, report and figures.

    Args:
        cfg: A config composed from ``conf/``.
        command: What was typed to start it, for the report.

    Raises:
        ConfigError: The config cannot be run.
        RequirementsError: The network or the training is over budget, and
            ``requirements.enforce`` is true.
        CheckpointError: ``ckpt_path`` or ``init_from`` is not a checkpoint that fits.
        DataError: The images cannot be read.
        StoppedError: Ctrl-C was pressed, or the process was asked to end.
        RunError: Something else went wrong; ``run.log`` in the run's folder has the traceback.
    """
    config = parse(cfg)
    run_dir = Path(config.run_dir).resolve()
    parts = prepare(config)
    file = run_dir / "run.log"
    with kept(file) if parts.trainer.is_global_zero else nullcontext():
        return _train(cfg, config, parts, run_dir, origin.origin(command))


def _train(
    cfg: DictConfig, config: Config, parts: Parts, run_dir: Path, came_from: origin.Origin
) -> TrainingResult:
    trainer, data = parts.trainer, parts.data
    trainer.loggers = build_loggers(config)
    if trainer.is_global_zero:
        origin.write(run_dir)
    with quiet_lightning(), closed(trainer.loggers):
        network = parts.classifier.network
        say(
            summary.table(
                *(network, config.model["name"], parts.facts.side),
                config.requirements.max_parameters,
            )
        )
        for note in parts.notes:
            say(note)
        say(
            f"training on {describe_device(trainer)} in {trainer.precision} precision "
            f"(trainer.precision={config.trainer.precision})\n{shown(run_dir)}"
        )
        for logger in trainer.loggers:
            logger.log_hyperparams(flat(cfg))
        wall_seconds = _fit(config, parts)
        test = split(data, "test", parts.facts)
        best = read(Path(parts.best.best_model_path), trust=[config.model["_target_"]])
        evaluation = evaluate(
            *(best.network, test, parts.facts, config.data.get("eval_batch_size", 1000)),
            device=trainer.strategy.root_device,
        )
        outcome = _report(config, parts, evaluation, wall_seconds, came_from)
        tested = {"test/accuracy": outcome.test_accuracy, "test/loss": outcome.test_loss}
        tested |= {f"test/{name}": value for name, value in outcome.test_metrics.items()}
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # whose rows are epochs
                logger.log_metrics(tested, trainer.global_step)
            logger.save()
    if trainer.is_global_zero:
        report.write(outcome, run_dir)
        best.network.cpu()
        subject = page.Subject(
            *(str(run_dir), best, asdict(outcome), parts.record.history),
            config=OmegaConf.to_yaml(cfg),
            augmentation=figures.png(
                figures.augmented_samples(
                    *(_shown(data), parts.classifier.augmentations, parts.facts)
                )
            ),
        )
        _leave(subject, evaluation, test, run_dir)
        say(f"{report.text(outcome)}\n\n{_next(run_dir)}")
    return TrainingResult(outcome, run_dir, outcome.objective(config.optimized_metric))


def _leave(subject: page.Subject, evaluation: Evaluation, test: Images, run_dir: Path) -> None:
    """Write figures and page into the folder of a run."""
    pictures = page.draw(subject, evaluation, test.images)
    folder = run_dir / "figures"
    folder.mkdir(exist_ok=True)
    for name, content in pictures.items():
        (folder / f"{name}.png").write_bytes(content)
    html = page.render([subject], [evaluation], [pictures])
    (run_dir / "report.html").write_text(html, encoding="utf-8")


def _next(run_dir: Path) -> str:
    place = shlex.quote(shown(run_dir))
    return (
        "What next:\n"
        f"  open {place}/report.html in a browser\n"
        f"  mnist-lit evaluate {place}\n"
        f"  mnist-lit predict {place} PICTURE.png"
    )


def shown(path: Path) -> str:
    """Return a path as short as it can be given here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _fit(config: Config, parts: Parts) -> float:
    """Train; returns how many seconds that took, validation and checkpoints included."""
    started = time.perf_counter()
    try:
        parts.trainer.fit(
            parts.classifier, parts.data, ckpt_path=config.ckpt_path, weights_only=True
        )
    except SystemExit:  # Lightning's way out after Ctrl-C or SIGTERM, without a word
        last = Path(str(parts.best.dirpath)) / "last.ckpt"
        raise StoppedError(_stopped(parts.trainer, last)) from None
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ConfigError(
            f"compile={config.compile}: does not work here: {reason(error)}"
        ) from None
    return time.perf_counter() - started


def _report(
    config: Config,
    parts: Parts,
    evaluation: Evaluation,
    wall_seconds: float,
    came_from: origin.Origin,
) -> report.Report:
    history = parts.record.history
    accuracy = check_accuracy(history.best.val_accuracy, config.requirements)
    metrics = build_metrics(config, parts.facts)
    return report.make_report(
        model=config.model["name"],
        facts=parts.facts,
        parameters=count_parameters(parts.classifier.network),
        checks=[*accuracy, *parts.checks],
        history=history,
        evaluation=evaluation,
        test_metrics={
            name: float(metric(evaluation.probabilities, evaluation.labels))
            for name, metric in metrics.items()
        },
        wall_seconds=wall_seconds,
        seed=config.seed,
        device=describe_device(parts.trainer),
        precision=str(parts.trainer.precision),
        origin=came_from,
    )


def _shown(data: pl.LightningDataModule) -> Images:
    """Return training images for the figure of the augmentation."""
    if isinstance(data, IdxDataModule):
        return data.train
    return Images(*next(iter(data.train_dataloader())))


def _stopped(trainer: pl.Trainer, last: Path) -> str:
    done = f"stopped in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
    if not last.is_file():
        return f"{done}, before there was anything to resume"
    return f"{done}; add ckpt_path={last} to the same command to go on"


@contextmanager
def closed(loggers: Sequence[Logger]) -> Iterator[None]:
    """End what would go on after a run otherwise, as a run of Weights & Biases does."""
    try:
        yield
    finally:
        for logger in loggers:
            run = vars(logger).get("_experiment")
            if callable(finish := getattr(run, "finish", None)):
                finish()


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Return the whole config by keys as ``model.blocks.0.channels``; no password is in it."""
    found: dict[str, Any] = {}

    def add(key: str, node: Any) -> None:
        if isinstance(node, (Mapping, list)) and node:
            for name, value in enumerate(node) if isinstance(node, list) else node.items():
                add(f"{key}.{name}" if key else str(name), value)
        else:
            words = origin.masked(str(node))
            found[key] = words if isinstance(node, str) or node in ({}, []) else node

    add("", OmegaConf.to_container(cfg, resolve=True))
    return found


def describe_device(trainer: pl.Trainer) -> str:
    """Name what a trainer computes on."""
    name = devices.describe(trainer.strategy.root_device)
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"
