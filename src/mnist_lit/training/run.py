"""A run: trained, reloaded at its best epoch, tested and reported."""

import shlex
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger

from mnist_lit import devices
from mnist_lit.checkpoints.read import read
from mnist_lit.config.check import parse
from mnist_lit.config.schema import OURS, Config
from mnist_lit.data.idx import IdxDataModule
from mnist_lit.data.memory import Images
from mnist_lit.data.reopen import split
from mnist_lit.errors import ConfigError, StoppedError, reason
from mnist_lit.evaluation import figures, origin, page, report
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.evaluation.requirements import check_accuracy
from mnist_lit.files import clear, write_bytes, write_text
from mnist_lit.network import fused, summary
from mnist_lit.network.compact import CompactCNN, count_parameters
from mnist_lit.training import job
from mnist_lit.training.build import (
    Parts,
    build_loggers,
    build_metrics,
    no_exit,
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
    log = kept(run_dir / "run.log") if parts.trainer.is_global_zero else nullcontext()
    with job.claim(run_dir, config.ckpt_path), log:
        try:
            return _train(cfg, config, parts, run_dir, origin.origin(command))
        except (KeyboardInterrupt, SystemExit):  # the second is Lightning's way out after either
            if not parts.trainer.is_global_zero:
                raise SystemExit(1) from None
            raise StoppedError(_stopped(parts, command)) from None


@no_exit()
def _train(
    cfg: DictConfig, config: Config, parts: Parts, run_dir: Path, came_from: origin.Origin
) -> TrainingResult:
    trainer, data = parts.trainer, parts.data
    trainer.loggers = build_loggers(config, parts.record.runs)
    if trainer.is_global_zero:
        for folder in (run_dir, run_dir / "checkpoints", run_dir / "figures"):
            clear(folder)
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
            f"training on {describe_device(trainer)}, {trainer.precision} "
            f"(trainer.precision={config.trainer.precision})\n"
            f"{describe_operations(parts)}\n{shown(run_dir)}"
        )
        for logger in parts.record.begun_anew(trainer.loggers):
            logger.log_hyperparams(origin.flat(OmegaConf.to_container(cfg, resolve=True)))
        wall_seconds = _fit(config, parts)
        best = read(Path(parts.best.best_model_path), trust=[config.model["_target_"]])
        evaluation = test = None
        if config.test:
            test = split(data, "test", parts.facts)
            evaluation = evaluate(
                *(best.network, test, parts.facts, config.data.get("eval_batch_size", 1000)),
                device=trainer.strategy.root_device,
            )
        outcome = _report(config, parts, evaluation, wall_seconds, came_from)
        with optional("the test's numbers in the loggers"):
            for logger in trainer.loggers:
                if not isinstance(logger, CSVLogger):  # whose rows are epochs
                    logger.log_metrics(outcome.tested, trainer.global_step)
                logger.save()
    if trainer.is_global_zero:
        if evaluation is not None and test is not None:
            best.network.cpu()
            with optional("figures and report.html"):
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
        report.write(outcome, run_dir)  # last, for by it a finished run is known
        say(f"{report.text(outcome)}\n\n{_next(run_dir, config)}")
    return TrainingResult(outcome, run_dir, outcome.objective(config.optimized_metric))


def _leave(subject: page.Subject, evaluation: Evaluation, test: Images, run_dir: Path) -> None:
    """Write figures and page into the folder of a run."""
    pictures = page.draw(subject, evaluation, test.images)
    for name, content in pictures.items():
        write_bytes(run_dir / "figures" / f"{name}.png", content)
    write_text(run_dir / "report.html", page.render([subject], [evaluation], [pictures]))


def _next(run_dir: Path, config: Config) -> str:
    """Return commands that can be pasted."""
    place, data = shlex.quote(shown(run_dir)), config.data
    there = (run_dir / "report.html").is_file()
    page_of_it = f"  open {place}/report.html in a browser\n" if there else ""
    network, images = (
        "" if target in OURS else f" --trust {target}"
        for target in (config.model["_target_"], data["_target_"])
    )
    if data.get("root") is not None:
        images += f" --data-root {shlex.quote(str(data['root']))}"
    return (
        f"What next:\n{page_of_it}"
        f"  mnist-lit evaluate {place}{network}{images}\n"
        f"  mnist-lit predict {place} PICTURE.png{network}"
    )


def shown(path: Path) -> str:
    """Return a path as short as it can be given here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _fit(config: Config, parts: Parts) -> float:
    """Train; returns how many seconds that took, validation and checkpoints included.

    Of a resumed run the epochs before count too.
    """
    started = time.perf_counter()
    try:
        with lightnings_signals():
            parts.trainer.fit(
                parts.classifier, parts.data, ckpt_path=config.ckpt_path, weights_only=True
            )
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ConfigError(
            f"compile={config.compile}: does not work here: {reason(error)}"
        ) from None
    now = time.perf_counter() - started
    return now + sum(row.seconds for row in parts.record.history.epochs[: parts.record.resumed])


def _report(
    config: Config,
    parts: Parts,
    evaluation: Evaluation | None,
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
            if evaluation is not None
        },
        wall_seconds=wall_seconds,
        seed=config.seed,
        device=describe_device(parts.trainer),
        operations=describe_operations(parts),
        precision=str(parts.trainer.precision),
        optimizer=config.optimizer["_target_"],
        batch_size=config.data.get("batch_size"),
        augmentation=config.augmentation,
        origin=came_from,
    )


def _shown(data: pl.LightningDataModule) -> Images:
    """Return training images for the figure of the augmentation."""
    if isinstance(data, IdxDataModule):
        return data.train
    return Images(*next(iter(data.train_dataloader())))


def _stopped(parts: Parts, command: str | None) -> str:
    epochs, folder = parts.trainer.max_epochs or 0, Path(str(parts.best.dirpath))
    epoch = min(parts.trainer.current_epoch + 1, epochs)  # after the last one it is counted on
    done = f"stopped in epoch {epoch} of {epochs}"
    if not (folder / "last.ckpt").is_file():
        return f"{done}, before there was anything to resume"
    program = "mnist-lit train" if (command or "").startswith("mnist-lit") else "python train.py"
    resume = shlex.quote(origin.override("ckpt_path", folder.parent))
    return f"{done}; to go on: {program} {resume}"


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Say in a line that something of a trained network could not be made; the result stays."""
    try:
        yield
    except Exception as error:  # of matplotlib, a template, a logger or its server
        say(f"warning: {what} could not be made: {type(error).__name__}: {reason(error)}")


@contextmanager
def lightnings_signals() -> Iterator[None]:
    """Leave SIGTERM to Lightning, which has no say where there is a handler already."""
    ours = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(ours):
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, ours)


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


def describe_operations(parts: Parts) -> str:
    """Say which operations train the network: those in C, or torch's."""
    on_cpu = parts.trainer.strategy.root_device.type == "cpu"
    ours = isinstance(parts.classifier.network, CompactCNN)
    return fused.describe() if on_cpu and ours else "torch's operations"


def describe_device(trainer: pl.Trainer) -> str:
    """Name what a trainer computes on."""
    name = devices.describe(trainer.strategy.root_device)
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"
