import csv
import json
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_lit import MNISTDataModule, compose
from mnist_lit.checkpoints import pretrained
from mnist_lit.config.check import parse
from mnist_lit.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    StoppedError,
    UserError,
)
from mnist_lit.evaluation import page
from mnist_lit.training.build import build_loggers, build_module, prepare
from mnist_lit.training.callbacks.keep import BestCheckpoint
from mnist_lit.training.classifier import LitClassifier, decay_weights_only
from mnist_lit.training.console import quiet_lightning
from mnist_lit.training.resume import start_from
from mnist_lit.training.train import train
from tests.conftest import PROJECT, TINY

Make = Callable[..., DictConfig]


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (PROJECT / "conf" / group).glob("*.yaml"))


def weights(checkpoint: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_scheduled(rates: list[float], scheduler: str, lr: float) -> None:
    """Compare the learning rates of ten steps in two epochs with those expected for ``lr``."""
    if scheduler in ("onecycle", "cosine"):
        assert rates[-1] < 0.15 * max(rates)
        assert max(rates) == pytest.approx(lr, rel=0.05)
    else:
        assert rates == [lr] * 10


@pytest.mark.parametrize("scheduler", choices("scheduler"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_any_optimizer_takes_any_scheduler(tiny: Make, optimizer: str, scheduler: str) -> None:
    config = parse(tiny(f"optimizer={optimizer}", f"scheduler={scheduler}"))
    batches = 1 if config.module["interval"] == "step" else 5
    built, schedule = build_module(config).build_optimizer(10 // batches)
    learnt = [p for group in built.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in learnt]
    rates = []
    for step in range(1, 11):
        rates.append(built.param_groups[0]["lr"])
        for parameter in learnt:
            parameter.grad = torch.ones_like(parameter)
        built.step()
        if step % batches == 0:
            schedule.step(*[1.0] * (scheduler == "plateau"))
    assert all(not torch.equal(p, old) for p, old in zip(learnt, before, strict=True))
    assert_scheduled(rates, scheduler, config.optimizer["lr"])


def in_turns() -> Iterator[tuple[str, str, str]]:
    """Yield every model once, with the optimizers and the schedulers in turns."""
    optimizers, schedulers = cycle(choices("optimizer")), cycle(choices("scheduler"))
    return zip(choices("model"), optimizers, schedulers, strict=False)


@pytest.mark.parametrize(("model", "optimizer", "scheduler"), list(in_turns()))
def test_every_choice_trains(
    tiny: Make, tmp_path: Path, model: str, optimizer: str, scheduler: str
) -> None:
    config = parse(tiny(f"model={model}", f"optimizer={optimizer}", f"scheduler={scheduler}"))
    torch.manual_seed(0)
    run = prepare(config)
    classifier, trainer, record = run.module, run.trainer, run.record
    learnt = [p for p in classifier.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learnt]
    with quiet_lightning():
        trainer.fit(classifier, run.data)
    assert trainer.global_step == 10
    assert all(torch.isfinite(p).all() for p in classifier.parameters())
    assert all(not torch.equal(p, old) for p, old in zip(learnt, before, strict=True))
    assert_scheduled(record.history.learning_rates, scheduler, config.optimizer["lr"])


def test_step_divides_the_rate_by_epoch(tiny: Make) -> None:
    cfg = tiny(
        *("scheduler=step", "scheduler.step_size=1", "optimizer.lr=0.5"),
        "trainer.max_epochs=3",
    )
    report = train(cfg)
    state = torch.load(report.run_dir / "checkpoints/last.ckpt", weights_only=True)
    rates = [row["learning_rate"] for row in state["callbacks"]["History"]["epochs"]]
    assert rates == pytest.approx([0.5, 0.05, 0.005])


def test_plateau_divides_the_rate_when_the_loss_stops_falling(tiny: Make) -> None:
    cfg = tiny(
        "scheduler=plateau",
        "optimizer.lr=0.5",
        "scheduler.patience=0",
        "scheduler.threshold=1e6",
        "trainer.max_epochs=3",
    )
    state = torch.load(train(cfg).run_dir / "checkpoints/last.ckpt", weights_only=True)
    rates = [row["learning_rate"] for row in state["callbacks"]["History"]["epochs"]]
    assert rates == pytest.approx([0.5, 0.1, 0.02])


def test_a_training_too_short_for_its_scheduler_is_refused(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="training of 5 steps"):
        train(tiny("scheduler=onecycle", "trainer.max_epochs=1"))


@pytest.mark.slow
def test_it_learns(tiny: Make) -> None:
    """2,000 images for a few seconds; fails if learning is broken anywhere."""
    cfg = tiny(
        "model=final",
        "data.train_size=2000",
        "data.batch_size=50",
        "optimizer.lr=0.1",
        "trainer.max_epochs=4",
        "trainer.check_val_every_n_epoch=4",
        "trainer.limit_val_batches=null",
        "test=true",
    )
    result = train(cfg)
    assert result.report.last_val_accuracy > 0.9
    assert result.report.test_total == 10_000


def test_weights_decay_and_biases_and_norms_do_not(tiny: Make) -> None:
    network = build_module(parse(tiny("model=optimized"))).network
    decayed, spared = decay_weights_only(network)
    assert [p.ndim for p in decayed["params"]] == [4, 4, 4, 4, 4, 2]
    assert spared["weight_decay"] == 0
    assert sum(p.numel() for g in (decayed, spared) for p in g["params"]) == 7_034


@pytest.mark.parametrize("callbacks", [pytest.param("none", marks=pytest.mark.slow), "default"])
def test_a_seed_fixes_everything(tiny: Make, callbacks: str) -> None:
    one = train(tiny(f"callbacks={callbacks}", "seed=3", run_dir="one"))
    same = train(tiny(f"callbacks={callbacks}", "seed=3", run_dir="same"))
    other = train(tiny(f"callbacks={callbacks}", "seed=4", run_dir="other"))
    last = Path("checkpoints/last.ckpt")
    assert_same_weights(one.run_dir / last, same.run_dir / last)
    with pytest.raises(AssertionError):
        assert_same_weights(one.run_dir / last, other.run_dir / last)


class CopyAfter(pl.Callback):
    """Copies the files after an epoch, as a run killed at that time would leave them."""

    def __init__(self, epoch: int, folder: str) -> None:
        self.epoch, self.folder = epoch, Path(folder)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch and not self.folder.exists():
            shutil.copytree(Path(trainer.default_root_dir) / "checkpoints", self.folder)


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler=onecycle"],
        pytest.param(["scheduler=step"], marks=pytest.mark.slow),
        ["scheduler=cosine", "callbacks=default", "optimizer=adamw"],
        pytest.param(
            ["scheduler=constant", "callbacks=default", "model.align=true"], marks=pytest.mark.slow
        ),
        pytest.param(
            ["scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=1e6"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=" ".join,
)
def test_resuming_equals_not_having_stopped(
    tiny: Make, tmp_path: Path, overrides: list[str]
) -> None:
    overrides = [*overrides, "trainer.max_epochs=4"]
    killed = tmp_path / "killed"
    copy = {"_target_": "tests.training.test_training.CopyAfter", "epoch": 2, "folder": str(killed)}
    cfg = tiny(*overrides, run_dir="whole")
    cfg.callbacks = {**cfg.callbacks, "copy": copy}
    cfg.logger = tiny("logger=csv", run_dir="whole").logger
    whole = train(cfg)
    again = tiny(
        *(*overrides, "logger=csv", f"ckpt_path={killed / 'last.ckpt'}"), run_dir="resumed"
    )
    again.callbacks = cfg.callbacks
    resumed = train(again)
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_weights(
            whole.run_dir / "checkpoints" / name, resumed.run_dir / "checkpoints" / name
        )
    same = ("best_epoch", "best_val_accuracy", "best_val_loss", "last_val_loss", "epochs")
    for key in same:
        assert getattr(whole.report, key) == getattr(resumed.report, key), key
    curves = (resumed.run_dir / "metrics.csv").read_text()
    assert curves == (whole.run_dir / "metrics.csv").read_text()
    rows = list(csv.DictReader(curves.splitlines()))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert [int(row["step"]) for row in rows] == [4, 9, 14, 19]
    assert all(all(row.values()) for row in rows)
    seconds = state(resumed.run_dir)["callbacks"]["History"]["epochs"]
    assert resumed.report.wall_seconds >= sum(row["seconds"] for row in seconds)


def test_a_resumed_run_keeps_what_a_callback_has_logged(tiny: Make, tmp_path: Path) -> None:
    cfg = tiny("trainer.max_epochs=3", run_dir="run")
    own = {"_target_": "tests.training.test_training.CopyAfter", "epoch": 2}
    logs = {"_target_": "tests.own.LogOne"}
    cfg.callbacks = {"copy": {**own, "folder": str(tmp_path / "killed")}, "logs": logs}
    cfg.logger = tiny("logger=csv", run_dir="run").logger
    run = train(cfg).run_dir
    table = (run / "metrics.csv").read_text()
    assert [row["mine"] for row in csv.DictReader(table.splitlines())] == ["0.25", "1.25", "2.25"]
    (run / "report.json").unlink()
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(tmp_path / "killed", run / "checkpoints")
    cfg.ckpt_path = str(run)
    train(cfg)
    assert (run / "metrics.csv").read_text() == table


def state(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    return found


@pytest.mark.slow
def test_ctrl_c_while_reporting_says_how_to_go_on(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(page, "draw", interrupt)
        with pytest.raises(StoppedError, match=r"stopped in epoch 2 of 2; to resume: .*ckpt_path="):
            train(tiny("test=true"))
    folder = Path(tiny().run_dir)
    assert not (folder / "report.json").exists()
    assert train(tiny(f"ckpt_path={folder}", "test=true")).report.epochs == 2
    assert (folder / "report.html").is_file()


def test_a_finished_run_is_carried_into_a_new_folder(tiny: Make) -> None:
    done = train(tiny(run_dir="done"))
    again = train(tiny(f"ckpt_path={done.run_dir}", run_dir="again"))
    assert again.report.best_val_loss == done.report.best_val_loss
    assert state(again.run_dir)["epoch"] == state(done.run_dir)["epoch"] == 1


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("seed=1", "seed is 1 here and 0 there"),
        ("optimizer.lr=0.5", r"optimizer\.lr is 0\.5 here and 0\.65 there"),
        ("data.batch_size=32", "data.batch_size is 32 here and 64 there"),
        ("augmentation.distort.degrees=3", "degrees is 3 here and 15 there"),
        ("trainer.precision=bf16-mixed", "trainer.precision is bf16-mixed here and auto there"),
        ("callbacks=default", "callbacks.average._target_ is .* here and None there"),
        ("data=mnist_holdout", "data.validation is holdout here and test there"),
        ("trainer.max_epochs=3", "trainer.max_epochs is 3 here and 2 there"),
        ("model=optimized", "model.blocks.* here and .* there; .*, and .* more"),
    ],
)
def test_a_run_is_resumed_with_its_own_options(
    tiny: Make, stopped: Path, option: str, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        train(tiny(f"ckpt_path={stopped}", option, run_dir="other"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    return train(compose(*TINY, f"run_dir={folder}")).run_dir


def test_some_options_are_free(tiny: Make, stopped: Path) -> None:
    free = ("logger=csv", "requirements.max_epochs=30", "data.eval_batch_size=500")
    train(tiny(f"ckpt_path={stopped}", *free, "callbacks=plain"))


def test_what_cannot_be_resumed_is_said_in_one_line(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not there; give the folder"):
        train(tiny(f"ckpt_path={tmp_path}/gone/last.ckpt"))
    alone = tmp_path / "alone.ckpt"
    shutil.copyfile(train(tiny()).run_dir / "checkpoints/last.ckpt", alone)
    with pytest.raises(CheckpointError, match="is not there, or is a link; a run"):
        train(tiny(f"ckpt_path={alone}", run_dir="third"))
    (tmp_path / "key").write_text("mine")
    (tmp_path / "best.ckpt").symlink_to(tmp_path / "key")
    with pytest.raises(CheckpointError, match=r"best\.ckpt is not there, or is a link"):
        train(tiny(f"ckpt_path={alone}", run_dir="third"))
    shipped = pretrained.checkpoint_of("nano")
    with pytest.raises(CheckpointError, match="holds no training to resume"):
        train(tiny(f"ckpt_path={shipped}", run_dir="fourth"))


def altered(folder: Path, run: Path, *place: str, value: Any = None) -> Path:
    """Copy a run, and put something else in a place of its last.ckpt."""
    shutil.copytree(run, folder)
    content = inner = state(run)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    torch.save(content, folder / "checkpoints/last.ckpt")
    return folder


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["callbacks"], None, "not the rows that a training leaves"),
        (["callbacks", "History", "epochs"], [{"epoch": 1}], r"History.epochs\[0\].train_loss"),
        (["loggers"], {"wandb": 5}, "loggers.wandb=5: should be a valid string"),
        (["options", "seed"], torch.zeros(2), "Boolean value of Tensor"),
        (["options"], None, "'NoneType'|differing"),
    ],
)
def test_an_altered_training_is_refused_before_a_folder_is_made(
    place: list[str], value: Any, words: str, tiny: Make, stopped: Path, tmp_path: Path
) -> None:
    folder = altered(tmp_path / "altered", stopped, *place, value=value)
    with pytest.raises(CheckpointError, match=rf"altered/checkpoints/last.ckpt: .*{words}"):
        prepare(parse(tiny(f"ckpt_path={folder}")))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("state_dict", "TypeError: Expected state_dict"),
        ("loops", "ValueError: epoch 0 after 2 rows"),
        ("optimizer_states", "TypeError: 'NoneType' object"),
    ],
)
def test_what_lightning_cannot_restore_is_named(
    place: str, words: str, tiny: Make, stopped: Path, tmp_path: Path
) -> None:
    folder = altered(tmp_path / "run", stopped, place)
    (folder / "report.json").unlink()
    (folder / "metrics.csv").write_text("epoch")
    files = [*folder.glob("checkpoints/*"), folder / "metrics.csv"]
    before = [file.read_bytes() for file in files]
    with pytest.raises(CheckpointError, match=rf"run/checkpoints/last.ckpt: .*\({words}.*\); "):
        train(tiny(f"ckpt_path={folder}", "logger=csv"))
    assert [file.read_bytes() for file in files] == before


def test_a_run_without_a_best_epoch_yet_goes_on(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path, str(tmp_path / "last.ckpt"))
    best.load_state_dict({"best_model_score": None})
    assert not best.best_k_models


@pytest.mark.parametrize(
    "odd",
    [
        *(None, "abc", [1, 2], {"network.linear.weight": [1.0]}, {"network.linear.weight": "x"}),
        {"network.linear.weight": torch.zeros(10, 18).to_sparse()},
        {"network.linear.weight": torch.zeros(10, 18, device="meta")},
        {"network.linear.weight": torch.zeros(10, 18).to(torch.uint8).view(torch.bits8)},
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_odd_weights_to_start_from_are_a_line(odd: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": odd}, tmp_path / "odd.ckpt")
    network = pretrained.load_pretrained("nano")
    with pytest.raises(CheckpointError, match=r"^init_from=.*odd.ckpt: cannot be taken: [^\n]*$"):
        start_from(str(tmp_path / "odd.ckpt"), network)


def test_a_diverged_training_ends_in_a_line(tiny: Make) -> None:
    cfg = tiny("optimizer.weight_decay=1000", "optimizer.lr=1000", run_dir="diverged")
    with pytest.raises(DivergedError, match=r"diverged in epoch 1 of 2: .* is nan at a learning"):
        train(cfg)
    assert not list(Path(cfg.run_dir).glob("**/*.ckpt"))


def test_moving_average_is_what_is_validated_and_kept(tiny: Make) -> None:
    result = train(
        tiny(
            *("callbacks=default", "callbacks.progress=null", "trainer.limit_val_batches=null"),
            "test=true",
        )
    )
    last = torch.load(result.run_dir / "checkpoints/last.ckpt", weights_only=True)
    current, average = last["current_model_state"], last["state_dict"]
    name = "network.linear.weight"
    assert not torch.equal(current[name], average[name])
    # Validated on all test images in full precision: the reloaded average must repeat the count.
    assert result.report.best_val_accuracy == result.report.test_accuracy


def test_moving_average_follows_its_formula(tiny: Make, tmp_path: Path) -> None:
    class Record(pl.Callback):
        weights: ClassVar[list[Tensor]] = []

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            self.weights.append(pl_module.network.linear.weight.detach().clone())

    config = parse(
        tiny("callbacks=default", "callbacks.progress=null", "callbacks.average.decay=0.4")
    )
    run = prepare(config)
    vars(run.trainer)["callbacks"].append(Record())
    with quiet_lightning():
        run.trainer.fit(run.module, run.data)
    average = Record.weights[0]
    for step, weight in enumerate(Record.weights[1:], start=1):
        kept = min(0.4, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * weight
    assert len(Record.weights) == 10
    torch.testing.assert_close(run.module.get_parameter("network.linear.weight"), average)
    assert all(counter == 10 for name, counter in run.module.named_buffers() if "num_" in name)


def test_a_training_step_never_waits_for_the_device(tiny: Make, tmp_path: Path) -> None:
    """Nothing in an epoch reads a value of a tensor, which would stall a GPU."""

    # torch does not type its dispatch modes.
    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        reads: ClassVar[list[str]] = []

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                self.reads.append("".join(traceback.format_stack(limit=12)))
            return func(*args, **(kwargs or {}))

    class Steps(pl.Callback):
        watching = ExitStack()

        def on_train_batch_end(
            self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            # From the end of the first step to that of the last, with the batches between.
            if batch_idx == 0:
                # untyped in torch
                self.watching.enter_context(Watch())  # type: ignore[no-untyped-call]
            if batch_idx == trainer.num_training_batches - 1:
                self.watching.close()

    # untyped in torch
    with Watch():  # type: ignore[no-untyped-call]
        torch.ones(1).item()
    assert len(Watch.reads) == 1, "the watch does not see what it is for"
    Watch.reads.clear()
    config = parse(tiny("callbacks=default", "logger=default"))
    run = prepare(config)
    with quiet_lightning():
        run.trainer.loggers = build_loggers(config, {})
        # Last, so that it also watches the other callbacks after a batch.
        vars(run.trainer)["callbacks"].append(Steps())
        run.trainer.fit(run.module, run.data)
    assert not Watch.reads, Watch.reads[0]


# An option, off by default; without a compiler it is refused in one line.
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="torch 2.8 and 2.11 cannot trace the shape checks that tests add",
)
@pytest.mark.filterwarnings("default")  # torch's compiler warns
def test_compiled_training_learns_the_same(tiny: Make) -> None:
    losses = []
    for mode in ("null", "reduce-overhead"):
        options = (f"compile={mode}", "model.dropout=0", "trainer.precision=32-true")
        config = tiny(*options, "model.blocks=[{channels: 4, pool: after_conv}]", run_dir=mode)
        train(config)
        last = torch.load(Path(config.run_dir) / "checkpoints/last.ckpt", weights_only=True)
        losses.append([row["train_loss"] for row in last["callbacks"]["History"]["epochs"]])
        assert not any("_orig_mod" in key for key in last["state_dict"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][1] < losses[0][0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_all_weights_are_updated_in_one_call_unless_gradients_are_clipped(
    tiny: Make, optimizer: str
) -> None:
    assert tiny(f"optimizer={optimizer}").optimizer.fused is True
    # Lightning does not clip for a fused optimizer in mixed precision.
    options = ("trainer.gradient_clip_val=1", "trainer.precision=bf16-mixed")
    clipped = tiny(f"optimizer={optimizer}", *options)
    assert clipped.optimizer.fused is False
    assert train(clipped).report.epochs == 2


def test_best_is_fewest_errors_then_lowest_loss(tiny: Make) -> None:
    """The checkpoint that Lightning keeps is the epoch that the table calls best."""
    result = train(tiny("trainer.max_epochs=6", "optimizer.lr=1.5"))
    state = torch.load(result.run_dir / "checkpoints/best.ckpt", weights_only=True)
    last = torch.load(result.run_dir / "checkpoints/last.ckpt", weights_only=True)
    rows = last["callbacks"]["History"]["epochs"]
    best = min(rows, key=lambda row: (row["val_errors"], row["val_loss"]))
    assert state["epoch"] + 1 == best["epoch"] == result.report.best_epoch


def test_over_budget_is_refused_before_data_is_touched(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_to_read(*_: Any) -> None:
        raise AssertionError("data was touched")

    monkeypatch.setattr("mnist_lit.data.datasets.read", refuse_to_read)
    cases = {
        "model.blocks=[{channels: 64},{channels: 64}]": "max_parameters=20000, .* has 38",
        "trainer.max_epochs=21": "max_epochs=20, but this run has 21",
        "model.dropout=0": "dropout=True",
    }
    for override, message in cases.items():
        with pytest.raises(UserError, match=message):
            train(tiny(override, "requirements.enforce=true"))


def test_over_budget_trains_when_not_enforced_and_says_so(tiny: Make) -> None:
    result = train(tiny("requirements.max_parameters=990"))
    assert result.report.requirements["max_parameters"] == {
        "name": "max_parameters",
        "title": "Parameters < 990",
        "limit": 990,
        "value": 990,
        "passed": False,
    }
    assert not result.passed


def test_a_run_leaves_report_figures_and_curves(
    tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(
        tiny(
            *("model=final", "logger=default", "callbacks=plain", "test=true"),
            "optimized_metric=test_accuracy",
        )
    )
    report = json.loads((result.run_dir / "report.json").read_text())
    wanted = (
        "protocol parameters epochs best_epoch best_val_accuracy last_val_accuracy test_accuracy "
        "test_correct test_total requirements passed wall_seconds train_images_per_second seed "
        "device precision versions git_commit"
    )
    assert set(wanted.split()) <= set(report)
    assert report["parameters"] == 19_382
    assert report["test_correct"] / report["test_total"] == report["test_accuracy"]
    assert result.objective == report["test_accuracy"]
    assert report["config"]["data.batch_size"] == 64
    assert report["config"]["run_dir"] == str(result.run_dir)
    assert "${" not in json.dumps(report)
    assert set(report["requirements"]) == {
        "min_val_accuracy",
        "max_parameters",
        "max_epochs",
        "batch_norm",
        "dropout",
        "fully_connected",
    }
    log = (result.run_dir / "run.log").read_text()
    assert log == capsys.readouterr().out
    lines = log.replace(str(result.run_dir), "outputs/2026-11-25/20-00-00").splitlines()
    assert max(map(len, lines)) <= 80
    last, best, final = (
        f"{word} Accuracy: {report[key]:.2%}{epoch}\n"
        for word, key, epoch in (
            ("Last Validation", "last_val_accuracy", f" (Epoch {report['epochs']})"),
            ("Best Validation", "best_val_accuracy", f" (Epoch {report['best_epoch']})"),
            ("Final Test", "test_accuracy", ""),
        )
    )
    assert f"{last}{best}{final}  The accuracy of the best epoch. Protocol mnist: " in log
    assert "best epoch, picked on the 10,000 test images, so optimistic" in " ".join(log.split())
    for line in (
        f"Final Evaluation (Best model from epoch {report['best_epoch']}):",
        "REQUIREMENTS CHECK:",
        "✗ Validation Accuracy ≥ 99.4%: FAIL",
        "✓ Parameters < 20,000: PASS (19,382)",
        "✓ Epochs ≤ 20: PASS (2)",
        "✓ Uses Batch Normalization: PASS",
        "✓ Uses Dropout: PASS",
        "✓ Uses Fully Connected Layer: PASS",
    ):
        assert line in log
    with (result.run_dir / "metrics.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert {"lr", "train/loss", "val/loss", "val/accuracy", "val/errors"} <= curves[0].keys()
    state = torch.load(result.run_dir / "checkpoints/last.ckpt", weights_only=True)
    epochs = state["callbacks"]["History"]["epochs"]
    assert len(curves) == len(epochs) == 2
    for row, epoch in zip(curves, epochs, strict=True):
        assert all(row.values())
        assert float(row["lr"]) == pytest.approx(epoch["learning_rate"])
        assert float(row["val/loss"]) == pytest.approx(epoch["val_loss"])
        assert f"lr {epoch['learning_rate']:.2g}" in log
    assert list((result.run_dir / "tensorboard").glob("events.out.tfevents.*"))
    installed = (result.run_dir / "packages.txt").read_text().splitlines()
    assert f"torch=={version('torch')}" in installed
    assert len(installed) > 50


def test_a_checkpoint_is_plain_data(tiny: Make) -> None:
    result = train(tiny())
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(result.run_dir / "checkpoints" / name, weights_only=True)
        json.dumps(state["hyper_parameters"])


def test_reloading_gives_the_same_count(tiny: Make) -> None:
    from mnist_lit.evaluation.evaluate import evaluate

    result = train(tiny("trainer.precision=bf16-mixed", "test=true"))
    classifier = LitClassifier.load_from_checkpoint(result.run_dir / "checkpoints/best.ckpt")
    assert not classifier.training
    data = MNISTDataModule()
    for batch_size in (1000, 777):
        evaluation = evaluate(classifier.network, data.images("test"), batch_size=batch_size)
        assert evaluation.correct == result.report.test_correct
    outcome = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    ).test(classifier, data, verbose=False)
    assert outcome[0]["test/accuracy"] == pytest.approx(result.report.test_accuracy, abs=1e-6)
