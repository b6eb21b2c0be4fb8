"""A run: training, reload of the best epoch, test and report."""

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from mnist_lit import devices
from mnist_lit.busy import crowded
from mnist_lit.checkpoints.read import Trained, read
from mnist_lit.config.check import parse
from mnist_lit.data.batches import Images
from mnist_lit.data.idx import ImagesDataModule
from mnist_lit.data.reopen import split
from mnist_lit.errors import CheckpointError, StoppedError, UserError, line
from mnist_lit.evaluation import figures, page, provenance, report
from mnist_lit.evaluation.evaluate import Evaluation, evaluate
from mnist_lit.files import clear, write_bytes, write_text
from mnist_lit.folders import shown
from mnist_lit.network import fused, summary
from mnist_lit.network.compact import CompactCNN, count_parameters
from mnist_lit.training import rundir
from mnist_lit.training.build import Run, build_loggers, build_metrics, no_exit, prepare
from mnist_lit.training.console import kept, quiet_lightning, say
from mnist_lit.training.resume import altered


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        report: The content of ``report.json``, its keys as attributes.
        run_dir: The folder of the run.
        objective: The value of ``optimized_metric``.
    """

    report: SimpleNamespace
    run_dir: Path
    objective: float

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return bool(self.report.passed)


def train(cfg: DictConfig, command: str | None = None, run: Run | None = None) -> TrainingResult:
    """Train, reload the best epoch, test it, and write checkpoints, report and figures.

    Args:
        cfg: A config of ``compose``, or another that Hydra composed from ``conf/``.
        command: The command line that started the run, for the report.
        run: The objects built from the config, if they exist already.

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
            report.write(outcome, run_dir)  # last, because it marks a run as finished
            say(f"{report.text(outcome)}\n\n{_next(run, run_dir)}")
    found = provenance.flat(outcome)[run.config.optimized_metric.replace("/", "_metrics.")]
    return TrainingResult(SimpleNamespace(**outcome), run_dir, found)


@contextmanager
def _folder(run: Run) -> Iterator[Path]:
    """Lock the folder of a run, and keep its output there."""
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
    """Turn a stop into an error that says how to resume the run."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Lightning raises SystemExit after both
        if not run.trainer.is_global_zero:
            raise SystemExit(1) from None
        epochs, folder = run.trainer.max_epochs or 0, Path(str(run.best.dirpath))
        epoch = min(run.trainer.current_epoch + 1, epochs)  # after the last epoch it is one more
        program = "mnist-lit train" if str(command).startswith("mnist-lit") else "python train.py"
        resume = shlex.quote(provenance.override("ckpt_path", shown(folder.parent)))
        further = f"; to resume: {program} {resume}"
        if not (folder / "last.ckpt").is_file():
            further = ", before there was anything to resume"
        raise StoppedError(f"stopped in epoch {epoch} of {epochs}{further}") from None


@contextmanager
def _loggers(run: Run, config: dict[str, Any]) -> Iterator[None]:
    """Open the loggers, and finish those of W&B, which would stay open after the run."""
    table = Path(run.config.run_dir) / "metrics.csv"
    before = table.read_bytes() if table.is_file() else b""  # Lightning removes it
    run.record.read_table(before)
    run.trainer.loggers = loggers = build_loggers(run.config, run.record.runs)
    try:
        for logger in run.record.begun_anew(loggers):
            logger.log_hyperparams(config)
        yield
    except BaseException as error:
        if before and (isinstance(error, CheckpointError) or not table.is_file()):
            write_bytes(table, before)
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()


def _computed_on(run: Run) -> dict[str, Any]:
    """Return parameters, device, operations (in C, or torch's) and precision of a training."""
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
    """Print the network, the device and the folder of a training."""
    config, network = run.config, run.module.network
    say(summary.table(network, config.name, run.facts.side, config.requirements.max_parameters))
    for note in run.notes:
        say(note)
    precision = f"{about['precision']} (trainer.precision={config.trainer['precision']})"
    say(f"training on {about['device']}, {precision}\n{about['operations']}\n{shown(run_dir)}")
    on_cpu = run.trainer.strategy.root_device.type == "cpu"
    if on_cpu and torch.get_num_threads() > 1 and crowded():
        say("other programs use the cores: OMP_NUM_THREADS=1 may train faster")


def _fit(run: Run) -> float:
    """Train; returns the seconds, with validation and checkpoints.

    For a resumed run, the earlier epochs count too.
    """
    started, before = time.perf_counter(), run.config.ckpt_path
    try:
        run.trainer.fit(run.module, run.data, ckpt_path=before, weights_only=True)
    except Exception as error:  # after a first step a checkpoint has held what it should
        if before is None or run.record.steps > 1 or isinstance(error, UserError):
            raise
        raise altered(before, error) from error
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
            if run.config.test and not isinstance(logger, CSVLogger):  # its rows are epochs
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
    """Turn an exception in optional output into a warning; the training stays valid."""
    try:
        yield
    except Exception as error:  # from matplotlib, a template, a logger or its server
        say(f"warning: {what} could not be made: {line(error)}")


def _next(run: Run, run_dir: Path) -> str:
    """Return the next commands, ready to paste."""
    place, data, page_of_it = shlex.quote(shown(run_dir)), run.config.data, ""
    if (run_dir / "report.html").is_file():
        page_of_it = f"  open {place}/report.html in a browser\n"
    targets = (run.config.model["_target_"], data["_target_"])
    foreign = [target for target in targets if not target.startswith("mnist_lit.")]
    trust = "".join(f" --trust {target}" for target in foreign)
    root = "" if data.get("root") is None else f" --data-root {shlex.quote(str(data['root']))}"
    predict = f"  mnist-lit predict {place} PICTURE.png{trust}"
    return f"What next:\n{page_of_it}  mnist-lit evaluate {place}{trust}{root}\n{predict}"
