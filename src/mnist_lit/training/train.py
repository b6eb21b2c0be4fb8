"""A run: trained, reloaded at its best epoch, tested and reported."""

import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from mnist_lit import devices
from mnist_lit.checkpoints.read import Trained, read
from mnist_lit.config.check import parse
from mnist_lit.data.batches import Images
from mnist_lit.data.idx import ImagesDataModule
from mnist_lit.data.reopen import split
from mnist_lit.errors import StoppedError, line
from mnist_lit.evaluation import figures, page, provenance, report
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.files import clear, write_bytes, write_text
from mnist_lit.network import fused, summary
from mnist_lit.network.compact import CompactCNN, count_parameters
from mnist_lit.training import rundir
from mnist_lit.training.build import (
    Run,
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

    report: SimpleNamespace
    run_dir: Path
    objective: float

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return bool(self.report.passed)


def train(cfg: DictConfig, command: str | None = None, run: Run | None = None) -> TrainingResult:
    """Train, reload the best epoch, test it, and leave checkpoints, report and figures.

    Args:
        cfg: A config composed from ``conf/``.
        command: What was typed to start it, for the report.
        run: What was built from the config, if it has been.

    Raises:
        ConfigError: The config cannot be run.
        UserError: The network or the training is over budget, and
            ``requirements.enforce`` is true.
        CheckpointError: ``ckpt_path`` or ``init_from`` is not a checkpoint that fits.
        DataError: The images cannot be read.
        StoppedError: Ctrl-C was pressed, or the process was asked to end.
        RunError: Something else went wrong; ``run.log`` in the run's folder has the traceback.
    """
    run = run or prepare(parse(cfg))
    with _folder(run) as run_dir, _stoppable(run, command), no_exit(), quiet_lightning():
        config = provenance.flat(OmegaConf.to_container(cfg, resolve=True))
        about = {**provenance.provenance(command), **_computed_on(run), "config": config}
        with _loggers(run, config):
            _introduce(run, run_dir, about)
            seconds = _fit(run)
            best = read(Path(run.best.best_model_path), trust=[run.config.model["_target_"]])
            test, evaluation = _test(run, best) if run.config.test else (None, None)
            outcome = _report(run, evaluation, {"wall_seconds": seconds, **about})
            _log_test(run, outcome)
        if run.trainer.is_global_zero:
            if test is not None and evaluation is not None:
                with optional("figures and report.html"):
                    _draw(run, best, outcome, test, evaluation)
            report.write(outcome, run_dir)  # last, for by it a finished run is known
            say(f"{report.text(outcome)}\n\n{_next(run, run_dir)}")
    stage, _, metric = run.config.optimized_metric.partition("/")
    found = outcome["val_metrics"][metric] if stage == "val" else outcome[stage]
    return TrainingResult(SimpleNamespace(**outcome), run_dir, found)


@contextmanager
def _folder(run: Run) -> Iterator[Path]:
    """Have the folder of a run to oneself, and keep in it what is said."""
    run_dir = Path(run.config.run_dir).resolve()
    first = run.trainer.is_global_zero
    with (
        rundir.recorded(run_dir, run.config.ckpt_path),
        kept(run_dir / "run.log") if first else nullcontext(),
    ):
        if first:
            for folder in (run_dir, run_dir / "checkpoints", run_dir / "figures"):
                clear(folder)
            provenance.write(run_dir)
        yield run_dir


@contextmanager
def _stoppable(run: Run, command: str | None) -> Iterator[None]:
    """Say of a run that is stopped how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # the second is Lightning's way out after either
        if not run.trainer.is_global_zero:
            raise SystemExit(1) from None
        epochs, folder = run.trainer.max_epochs or 0, Path(str(run.best.dirpath))
        epoch = min(run.trainer.current_epoch + 1, epochs)  # after the last one it is counted on
        program = "mnist-lit train" if str(command).startswith("mnist-lit") else "python train.py"
        resume = shlex.quote(provenance.override("ckpt_path", folder.parent))
        further = f"; to go on: {program} {resume}"
        if not (folder / "last.ckpt").is_file():
            further = ", before there was anything to resume"
        raise StoppedError(f"stopped in epoch {epoch} of {epochs}{further}") from None


@contextmanager
def _loggers(run: Run, config: dict[str, Any]) -> Iterator[None]:
    """Open the loggers, and end what would go on after a run, as one of Weights & Biases does."""
    run.trainer.loggers = loggers = build_loggers(run.config, run.record.runs)
    try:
        for logger in run.record.begun_anew(loggers):
            logger.log_hyperparams(config)
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()


def _computed_on(run: Run) -> dict[str, Any]:
    """Return what is trained on what, and with which operations: those in C, or torch's."""
    network, device = run.module.network, run.trainer.strategy.root_device
    in_c = isinstance(network, CompactCNN) and device.type == "cpu"
    described, many = devices.describe(device), run.trainer.world_size
    return {
        "parameters": count_parameters(network),
        "device": f"{many} × {described}" if many > 1 else described,
        "operations": fused.describe() if in_c else "torch's operations",
        "precision": str(run.trainer.precision),
    }


def _introduce(run: Run, run_dir: Path, about: Mapping[str, Any]) -> None:
    """Say what is trained, on what and where."""
    config, network = run.config, run.module.network
    say(summary.table(network, config.name, run.facts.side, config.requirements.max_parameters))
    for note in run.notes:
        say(note)
    say(
        f"training on {about['device']}, {about['precision']} "
        f"(trainer.precision={config.trainer['precision']})\n"
        f"{about['operations']}\n{shown(run_dir)}"
    )


def _fit(run: Run) -> float:
    """Train; returns how many seconds that took, validation and checkpoints included.

    Of a resumed run the epochs before count too.
    """
    started = time.perf_counter()
    run.trainer.fit(run.module, run.data, ckpt_path=run.config.ckpt_path, weights_only=True)
    now = time.perf_counter() - started
    return now + sum(row.seconds for row in run.record.history.epochs[: run.record.resumed])


def _test(run: Run, best: Trained) -> tuple[Images, Evaluation]:
    test = split(run.data, "test", run.facts)
    batch_size = run.config.data.get("eval_batch_size", 1000)
    device = run.trainer.strategy.root_device
    return test, evaluate(best.network, test, run.facts, batch_size, device)


def _report(run: Run, evaluation: Evaluation | None, known: dict[str, Any]) -> dict[str, Any]:
    metrics, history = build_metrics(run.config, run.facts), run.record.history
    return report.content(run.config, run.facts, history, evaluation, metrics, run.checks, known)


def _log_test(run: Run, outcome: dict[str, Any]) -> None:
    tested = {"accuracy": outcome["test_accuracy"], "loss": outcome["test_loss"]}
    tested |= outcome["test_metrics"]
    with optional("the test's numbers in the loggers"):
        for logger in run.trainer.loggers:
            if run.config.test and not isinstance(logger, CSVLogger):  # whose rows are epochs
                numbers = {f"test/{name}": value for name, value in tested.items()}
                logger.log_metrics(numbers, run.trainer.global_step)
            logger.save()


def _draw(
    run: Run, best: Trained, outcome: dict[str, Any], test: Images, evaluation: Evaluation
) -> None:
    """Write figures and page into the folder of a run."""
    best.network.cpu()
    data, run_dir = run.data, run.config.run_dir
    if isinstance(data, ImagesDataModule):
        images = data.train
    else:
        images = Images(*next(iter(data.train_dataloader())))
    augmented = {"augmentation": figures.augmented_samples(images, run.module.augmentations)}
    subject = page.Subject(run_dir, best, outcome, run.record.history, augmented)
    pictures = page.draw(subject, evaluation, test.images)
    for name, content in pictures.items():
        write_bytes(Path(run_dir, "figures", f"{name}.png"), content)
    write_text(Path(run_dir, "report.html"), page.render([subject], [evaluation], [pictures]))


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Say in a line that something of a trained network could not be made; the result stays."""
    try:
        yield
    except Exception as error:  # of matplotlib, a template, a logger or its server
        say(f"warning: {what} could not be made: {line(error)}")


def _next(run: Run, run_dir: Path) -> str:
    """Return commands that can be pasted."""
    place, data, page_of_it = shown(run_dir), run.config.data, ""
    # No name of a shipped network, and no option.
    place = shlex.quote(place if re.match(r"[^-].*/", place) else f"./{place}")
    if (run_dir / "report.html").is_file():
        page_of_it = f"  open {place}/report.html in a browser\n"
    targets = (run.config.model["_target_"], data["_target_"])
    foreign = [target for target in targets if not target.startswith("mnist_lit.")]
    trust = "".join(f" --trust {target}" for target in foreign)
    root = "" if data.get("root") is None else f" --data-root {shlex.quote(str(data['root']))}"
    return (
        f"What next:\n{page_of_it}  mnist-lit evaluate {place}{trust}{root}\n"
        f"  mnist-lit predict {place} PICTURE.png{trust}"
    )


def shown(path: Path) -> str:
    """Return a path as short as it can be given here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
