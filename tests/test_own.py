"""Classes and data of users, used only through the config."""

import contextlib
import csv
import gzip
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.trainer.states import RunningStage
from torchmetrics.functional.classification import multiclass_f1_score

import mnist_lit
from mnist_lit import MNISTDataModule, cli, compose
from mnist_lit.checkpoints.pretrained import checkpoint_of
from mnist_lit.checkpoints.read import read, read_file
from mnist_lit.config.check import parse
from mnist_lit.data.idx import IdxDataModule
from mnist_lit.data.reopen import reopen
from mnist_lit.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    StoppedError,
    TrustError,
    UserError,
)
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.evaluation.provenance import flat
from mnist_lit.training import hydra
from mnist_lit.training.build import build_metrics, build_module, prepare
from mnist_lit.training.train import TrainingResult, train
from tests.conftest import PROJECT, TINY, needs_compiler, write_idx
from tests.own import Add, CountRight, Stripes, Teacher

Make = Callable[..., DictConfig]
TRAINING = RunningStage.TRAINING
F1 = (
    "metrics.f1._target_=torchmetrics.classification.MulticlassF1Score",
    "metrics.f1.average=macro",
)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_idx(tmp_path_factory.mktemp("idx") / "bars", classes=7, side=32)


@pytest.fixture(scope="module")
def trained_on_bars(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    run_dir = tmp_path_factory.mktemp("run")
    options = [option for option in TINY if "train_size" not in option] + ["test=true"]
    own = ("data=idx", f"data.root={bars}", "data.classes=[a,b,c,d,e,f,g]", *F1)
    learn = ("trainer.max_epochs=6", "data.batch_size=32", "optimizer.lr=0.1", "augmentation=none")
    return train(compose(*options, *own, *learn, "optimized_metric=val/f1", f"run_dir={run_dir}"))


def best(result: TrainingResult) -> Path:
    return result.run_dir / "checkpoints" / "best.ckpt"


def suggested(result: TrainingResult) -> list[str]:
    """The command for its evaluation, from the end of the run's output."""
    lines = (result.run_dir / "run.log").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith("  mnist-lit evaluate ")]
    return shlex.split(line)[1:]


def rows(result: TrainingResult) -> list[dict[str, Any]]:
    state = read_file(result.run_dir / "checkpoints" / "last.ckpt")
    found: list[dict[str, Any]] = state["callbacks"]["History"]["epochs"]
    return found


@pytest.mark.slow
def test_a_folder_in_mnists_layout_trains_and_is_judged_on_itself(
    trained_on_bars: TrainingResult, bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = trained_on_bars.report
    assert (report.data, report.test_total, len(report.classes)) == ("bars", 210, 7)
    assert report.requirements.keys() >= {"max_parameters"}
    assert "min_val_accuracy" not in report.requirements
    assert (report.test_accuracy or 0) > 0.9
    facts = read(best(trained_on_bars)).facts
    images = IdxDataModule(bars).images("train").images.float() / 255
    assert facts.mean == pytest.approx(images.mean().item(), abs=1e-4)
    assert facts.std == pytest.approx(images.std().item(), abs=1e-4)
    cli.main([*suggested(trained_on_bars), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["data"], found["correct"]) == ("bars", report.test_correct)
    with pytest.raises(SystemExit, match="error: bars: name the folder of its images with --data"):
        cli.main(["evaluate", str(best(trained_on_bars))])


@needs_compiler
def test_it_is_reported_read_and_exported_with_its_classes(
    trained_on_bars: TrainingResult,
    bars: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    run, checkpoint, root = str(trained_on_bars.run_dir), str(best(trained_on_bars)), str(bars)
    page = tmp_path / "page.html"
    cli.main(["report", run, "--data-root", root, "--output", str(page)])
    assert "of 210 test images right" in page.read_text(encoding="utf-8")
    side = read(best(trained_on_bars)).facts.side
    # The third of seven bars, in a picture of four times the size.
    bar = IdxDataModule(bars).images("test").images[2, 0].numpy()
    picture = np.kron(bar, np.ones((4, 4), np.uint8))
    Image.fromarray(picture).save(tmp_path / "bar.png")
    capsys.readouterr()
    cli.main(["predict", checkpoint, str(tmp_path / "bar.png"), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["class"] == "c"
    for form in ("onnx", "c"):
        file = str(tmp_path / f"model.{form}")
        cli.main(["export", checkpoint, "--to", form, "--data-root", root, "--output", file])
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    pixels = np.zeros((3, 1, side, side), np.uint8)
    assert session.run(None, {"pixels": pixels})[0].shape == (3, 7)
    assert f"pixels are {side}x{side} bytes" in (tmp_path / "model.c").read_text()


def test_other_images_than_it_was_trained_on_are_refused(
    trained_on_bars: TrainingResult, tmp_path: Path
) -> None:
    other = write_idx(tmp_path / "other", classes=3, side=20)
    with pytest.raises(SystemExit, match=r"error: bars: .* pixels a side .* have 20 pixels and 3"):
        cli.main(["evaluate", str(best(trained_on_bars)), "--data-root", str(other)])
    with pytest.raises(SystemExit, match=r"damaged, or not MNIST's"):
        cli.main(["evaluate", "final", "--data-root", str(other)])
    with pytest.raises(SystemExit, match=r"final: trained on mnist, .* only networks for the same"):
        cli.main(["compare", str(best(trained_on_bars)), "final"])


def damage(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    file = folder / f"{name}.gz"
    file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()))))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "is cut off or damaged: its header says"),
        ("train-images-idx3-ubyte", lambda b: b"\1" + b[1:], "is not in MNIST's format"),
        ("train-images-idx3-ubyte", lambda b: b"", "is not in MNIST's format"),
        ("train-images-idx3-ubyte", lambda b: b[:12] + b"\0\0\0\x0e" + b[16:12576], "cut off"),
        ("train-labels-idx1-ubyte", lambda b: b[:7] + b"\1" + b[8:9], "1 labels for 40 images"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x09", "go up to 9, and there are 4"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_a_folder_is_made(
    name: str, change: Callable[[bytes], bytes], words: str, tmp_path: Path
) -> None:
    folder = write_idx(tmp_path / "data", classes=4, side=28, train=40, test=8)
    damage(folder, name, change)
    run_dir = tmp_path / "run"
    own = ("data=idx", f"data.root={folder}", "data.batch_size=8", f"run_dir={run_dir}")
    with pytest.raises(UserError, match=words) as caught:
        prepare(parse(compose(*own, "trainer=cpu")))
    assert "\n" not in str(caught.value)
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("classes", "name", "words"),
    [
        (1, "train-labels-idx1-ubyte", "one class, nothing to learn; name another with data.root="),
        (2, "train-images-idx3-ubyte", "training pixels of one value, nothing to learn; name"),
    ],
)
def test_a_folder_with_nothing_to_learn_is_named(
    classes: int, name: str, words: str, tmp_path: Path
) -> None:
    folder = write_idx(tmp_path / "dark", classes, side=28, train=40, test=8)
    damage(folder, name, lambda content: content[:16] + bytes(len(content) - 16))
    with pytest.raises(DataError, match=f"^{folder}: {words}"):
        assert IdxDataModule(folder).facts


def test_a_class_without_images_is_said_and_has_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels from 1, as EMNIST's letters have."""
    folder = write_idx(tmp_path / "letters", classes=3, side=28, train=96, test=12)
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        damage(folder, name, lambda content: content[:8] + bytes(b + 1 for b in content[8:]))
    options = [o for o in TINY if not o.startswith("data.")] + ["test=true", "data.batch_size=32"]
    own = ("data=idx", f"data.root={folder}", f"run_dir={tmp_path / 'run'}")
    result = train(compose(*options, *own))
    said = capsys.readouterr().out
    assert "data: of 4 classes, label 0 has no training image and is not learnt; labels" in said
    assert "By class:  0: –  1: " in said.replace("\n", " ")
    report = json.loads((result.run_dir / "report.json").read_text())
    assert report["test_accuracy_per_class"][0] is None
    assert all(0 <= share <= 1 for share in report["test_accuracy_per_class"][1:])
    cli.main(["evaluate", str(best(result)), "--data-root", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)["accuracy_per_class"]
    assert found == report["test_accuracy_per_class"]
    page = (result.run_dir / "report.html").read_text(encoding="utf-8")
    assert page.count('<td class="number">–</td>') == 1


def test_classes_and_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "data", classes=4, side=28, train=48, test=8)
    for own, words in (
        (["data.classes=[a,b]"], "labels go up to 3, and there are 2 classes"),
        (["data.batch_size=49"], "data.batch_size=49: at most 48"),
        (["data.train_size=50"], "data.train_size=50: at most 48"),
        (["data=idx_holdout", "data.batch_size=45"], "at most 44"),
        (["data.root=nowhere"], "data.root=nowhere: there is no such folder"),
    ):
        options = ["data=idx", f"data.root={folder}", "data.batch_size=8", "run_dir=unused"]
        with pytest.raises(UserError, match=words):
            prepare(parse(compose(*options, "trainer=cpu", *own)))


def test_a_data_module_of_ones_own_trains_and_is_opened_again_only_if_trusted(
    tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option for option in TINY if not option.startswith(("data.", "model="))]
    cfg = compose(
        *options,
        "model=optimized",  # it accepts images of 16×16
        "test=true",
        f"run_dir={tiny().run_dir}",
        "optimizer.lr=0.05",
        "augmentation=distort",
    )
    cfg.data = {"_target_": "tests.own.Stripes"}
    result = train(cfg)
    assert (result.report.data, result.report.classes) == ("stripes", ["upright", "level"])
    assert result.report.test_total == 256
    data = prepare(parse(cfg)).data
    assert isinstance(data, Stripes)
    assert data.seed == 0, "its constructor names the seed"
    checkpoint = str(best(result))
    with pytest.raises(SystemExit, match=r"tests.own.Stripes is not a class of this project"):
        cli.main(["evaluate", checkpoint])
    capsys.readouterr()
    cli.main([*suggested(result), "--json"])
    assert json.loads(capsys.readouterr().out)["correct"] == result.report.test_correct


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tests.own.NoFacts", "needs an attribute `facts`"),
        ("tests.own.NoTest", "it has no test_dataloader"),
        ("tests.own.Nothing", "cannot be built"),
    ],
)
def test_a_data_module_that_lacks_something_is_refused(target: str, words: str) -> None:
    cfg = compose("run_dir=unused", "trainer=cpu")
    cfg.data = {"_target_": target}
    with pytest.raises(ConfigError, match=words):
        prepare(parse(cfg))


def test_batches_of_another_kind_are_named(tiny: Make) -> None:
    options = [option for option in TINY if not option.startswith("model=")]
    cfg = compose(*options, "model=optimized", f"run_dir={tiny().run_dir}")
    cfg.data = {"_target_": "tests.own.Floats"}
    with pytest.raises(DataError, match=r"stripes: batches of torch.float32 \[16, 1, 16, 16\]; im"):
        train(cfg)


def test_lightning_shares_the_images_of_a_module_of_ones_own_among_processes() -> None:
    cfg = compose("run_dir=unused", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    ours = prepare(parse(cfg)).trainer
    cfg.data = {"_target_": "tests.own.Stripes"}
    theirs = prepare(parse(cfg)).trainer
    loader = Stripes().loader()
    for trainer, shared in ((theirs, True), (ours, False)):
        connector = trainer._data_connector
        assert connector._requires_distributed_sampler(loader) is shared
    # A rank per process, as Lightning's launcher sets it.
    prepared: Any = theirs._data_connector._prepare_dataloader(loader, True, TRAINING)
    assert len(prepared.sampler) == 256 // 2


@pytest.mark.slow
def test_a_network_of_ones_own_is_rebuilt_only_if_trusted(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    target = "model._target_=tests.own.Net"
    cfg = tiny(
        target, "model.hidden=6", "callbacks=default", "callbacks.progress=null", "test=true"
    )
    cfg.model = {"_target_": "tests.own.Net", "hidden": 6}
    result = train(cfg)
    assert result.report.model == "Net"
    assert result.report.parameters == 784 * 6 + 6 + 6 * 10 + 10
    assert result.report.requirements["batch_norm"]["passed"] is False
    checkpoint = best(result)
    json.dumps(read_file(checkpoint)["hyper_parameters"])
    with pytest.raises(TrustError, match=r"its network's class tests\.own\.Net is not .* --trust"):
        read(checkpoint)
    trusted = read(checkpoint, trust=["tests.own.Net"])
    found = evaluate(trusted.network, MNISTDataModule().images("test"), trusted.facts)
    assert found.correct == result.report.test_correct
    trust = ("--trust", "tests.own.Net")
    page, file = str(tmp_path / "page.html"), str(tmp_path / "net.onnx")
    cli.main(["report", str(result.run_dir), *trust, "--output", page])
    assert "First layer" not in Path(page).read_text("utf-8")
    cli.main(["export", str(checkpoint), *trust, "--to", "onnx", "--output", file])
    assert runtime.InferenceSession(file).get_outputs()[0].shape[1] == 10
    with pytest.raises(
        SystemExit,
        match=r"error: .*: not written: Net cannot .*: this format needs a CompactCNN",
    ):
        cli.main(["export", str(checkpoint), *trust, "--to", "c"])


def test_a_class_that_a_stranger_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = {"_target_": "stranger.Net"}
    nested = {"_target_": "tests.own.Net", "classes": 10, "side": 28, "hidden": named}
    for number, (network, trust) in enumerate(((named, []), (nested, ["tests.own.Net"]))):
        path = tmp_path / f"{number}.ckpt"
        torch.save({"state_dict": {}, "hyper_parameters": {"network": network}}, path)
        with pytest.raises(CheckpointError):
            read(path, trust=trust)
    content = read_file(checkpoint_of("final"))
    for source in (named, {**mnist_lit.MNIST.source, "split_seed": named}):
        content["hyper_parameters"]["facts"] = replace(mnist_lit.MNIST, source=source).plain()
        torch.save(content, tmp_path / "facts.ckpt")
        with contextlib.suppress(UserError):
            reopen(read(tmp_path / "facts.ckpt").facts)
    assert "stranger" not in sys.modules


def test_weights_to_start_from_are_taken_as_far_as_they_fit(
    tiny: Make, bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "model=final",
        "init_from=final",
        "data=idx",
        f"data.root={bars}",
        "data.train_size=null",
    )
    parts = prepare(parse(tiny(*options)))
    assert parts.notes == [
        "init_from=final: 30 of 32 tensors taken; left as drawn: linear.weight, linear.bias"
    ]
    ours, theirs = parts.module.network, mnist_lit.load_pretrained("final")
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]) == (not name.startswith("linear"))
    result = train(tiny("model=final", "init_from=final", "optimizer.lr=1e-6"))
    assert "init_from=final: 32 of 32 tensors taken\n" in capsys.readouterr().out
    assert result.report.best_val_accuracy > 0.98
    for wrong, words in (("finale", "no such network"), ("gone.ckpt", "is not there")):
        with pytest.raises(CheckpointError, match=words):
            prepare(parse(tiny(f"init_from={wrong}")))
    cfg = tiny("init_from=final")
    cfg.model = {"_target_": "tests.own.Net"}
    with pytest.raises(CheckpointError, match="init_from=final: nothing of it fits this network"):
        prepare(parse(cfg))


def test_validation_loss_is_cross_entropy_whatever_is_minimised(tiny: Make) -> None:
    result = train(tiny("loss.label_smoothing=0.5", "trainer.limit_val_batches=null"))
    last = read(result.run_dir / "checkpoints" / "last.ckpt")
    found = evaluate(last.network, MNISTDataModule().images("test"))
    assert result.report.last_val_loss == pytest.approx(found.loss, rel=1e-4)
    plain = train(tiny(run_dir="plain"))
    assert result.report.last_train_loss > plain.report.last_train_loss
    assert rows(result)[0]["train_loss"] != rows(plain)[0]["train_loss"]


def test_a_loss_that_names_images_gets_those_of_the_batch(tiny: Make) -> None:
    Teacher.given.clear()
    Teacher.seen.clear()
    loss = ("~loss.label_smoothing", "loss._target_=tests.own.Teacher", "augmentation=none")
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")
    result = train(tiny(*loss, *short, "callbacks.watch._target_=tests.own.Teacher"))
    assert len(Teacher.given) == 2
    for given, seen in zip(Teacher.given, Teacher.seen, strict=True):
        assert given is seen
        assert (given.shape, given.dtype) == ((64, 1, 28, 28), torch.float32)
    assert given.min() == pytest.approx((0 - mnist_lit.MNIST.mean) / mnist_lit.MNIST.std)
    kept = read_file(best(result))["state_dict"]
    assert all(key.startswith(("network.", "val_")) for key in kept), "no teacher"


def test_a_metric_is_in_line_csv_report_and_objective(
    trained_on_bars: TrainingResult,
    tiny: Make,
    bars: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = read(best(trained_on_bars))
    found = evaluate(trained.network, IdxDataModule(bars).images("test"), trained.facts)
    f1 = float(multiclass_f1_score(found.predictions, found.labels, 7, average="macro"))
    assert trained_on_bars.objective == trained_on_bars.report.val_metrics["f1"]
    assert trained_on_bars.report.test_metrics["f1"] == pytest.approx(f1)
    options = ("callbacks=plain", "logger=csv", "trainer.limit_val_batches=null", "test=true")
    result = train(tiny(*F1, *options))
    out = capsys.readouterr().out
    values = [row["metrics"]["f1"] for row in rows(result)]
    for value in values:
        assert f"val f1 {value:.4f}" in out
    assert f"f1: {result.report.test_metrics['f1']:.4f} (validation of epoch" in out
    # The test images pick the best epoch here, so both readings are of the same images.
    assert result.report.val_metrics["f1"] == pytest.approx(result.report.test_metrics["f1"])
    with (result.run_dir / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    logged = [float(row["val/f1"]) for row in table if row["val/f1"]]
    assert logged == pytest.approx(values)
    assert len(table) == len(logged), "a row is an epoch"


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torchmetrics.classification.MulticlassF1Score", "average": "none"},
        {"_target_": "torchmetrics.MeanSquaredError"},
    ],
)
def test_a_metric_that_is_not_one_number_is_refused(node: dict[str, Any]) -> None:
    cfg = compose("run_dir=unused")
    cfg.metrics = {"own": node}
    config = parse(cfg)
    with pytest.raises(ConfigError, match=r"metrics.own=.*: it does not give one number"):
        build_metrics(config, mnist_lit.MNIST)


def test_training_accuracy_is_that_of_the_images_as_they_were_seen(tiny: Make) -> None:
    CountRight.right.clear()
    result = train(tiny("callbacks.count._target_=tests.own.CountRight"))
    assert [row["train_accuracy"] for row in rows(result)] == pytest.approx(CountRight.right)
    assert 0 < CountRight.right[0] < 1


def test_epochs_without_validation_are_rows_without_it(
    tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    every = ("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=5", "callbacks=plain")
    result = train(tiny(*every, "scheduler=plateau", "logger=csv"))
    validated = [row["val_loss"] is not None for row in rows(result)]
    assert validated == [False, True, False, True, True], "the last one in any case"
    assert capsys.readouterr().out.count("not validated") == 2
    assert result.report.best_epoch in (2, 4, 5)
    assert read_file(best(result))["epoch"] + 1 == result.report.best_epoch


def test_augmentations_come_in_a_row_and_whatever_has_a_strength_fades(
    tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    Add.seen.clear()
    cfg = tiny("trainer.max_epochs=4", "trainer.limit_train_batches=1")
    cfg.callbacks = {
        "fade": {"_target_": "mnist_lit.training.callbacks.fade.FadeOut", "start": 0.5}
    }
    own = {"_target_": "tests.own.Add"}
    first, second = {**own, "amount": 1.0}, {**own, "amount": 2.0}
    cfg.augmentation = {"first": first, "second": second, "none": None}
    train(cfg)
    ones, twos = Add.seen[0:8:2], Add.seen[1:8:2]
    assert [amount for amount, _, _ in ones] == [1.0] * 4
    assert [strength for _, strength, _ in ones] == [1.0, 1.0, 1.0, 0.5]
    assert [strength for _, strength, _ in twos] == [1.0, 1.0, 1.0, 0.5]
    for (_, _, before), (_, _, after) in zip(ones, twos, strict=True):
        assert after == pytest.approx(before + 1, abs=1e-4)


def test_loggers_get_the_whole_config_without_a_password_and_the_test_metrics(tiny: Make) -> None:
    cfg = tiny("model=final", "logger=csv")
    cfg.metrics = {}
    given = flat(OmegaConf.to_container(cfg, resolve=True))
    assert given["model.blocks.1.channels"] == 16
    assert given["optimizer.lr"] == 0.65
    assert {"seed", "data.batch_size", "requirements.max_parameters"} <= given.keys()
    cfg.logger.csv.name = "postgresql+psycopg://user:secret@host:5432/db?x=1"
    assert (
        flat(OmegaConf.to_container(cfg))["logger.csv.name"]
        == "postgresql+psycopg://***@host:5432/db?x=1"
    )
    secrets = {"api_key": "abc", "tokens": ["abc"], "Password": "", "secret": None, "key_size": 8}
    masked = {**secrets, "api_key": "***", "tokens.0": "***"}
    del masked["tokens"]
    assert flat({"logger": {"x": secrets}}) == {f"logger.x.{k}": v for k, v in masked.items()}
    assert flat({"model": {"token_mixer": "attention"}}) == {"model.token_mixer": "attention"}
    cfg.logger.csv.name = ""
    result = train(cfg)
    assert "model.blocks.1.channels: 16" in (result.run_dir / "hparams.yaml").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # MLflow warns
def test_a_resumed_run_goes_on_where_it_was_logged(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    import sqlite3

    monkeypatch.setenv("WANDB_SILENT", "true")
    once, folder = str(tmp_path / "once"), Path(tiny().run_dir)
    options = ["logger=[csv,mlflow,wandb]", "+callbacks.stop._target_=tests.own.CtrlC"]
    options += [f"callbacks.stop.once={once}", "callbacks.stop.folder=run"]
    with pytest.raises(StoppedError, match="stopped in epoch 2 of 2"):
        train(tiny(*options))
    time.sleep(1)  # W&B names a folder by the second
    train(tiny(*options, f"ckpt_path={folder}"))
    names = [path.name for path in (folder / "wandb").glob("offline-run-*")]
    assert len(names) == 2
    assert len({name.rpartition("-")[2] for name in names}) == 1
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)
        logged = "select step from metrics where key = 'train/loss' order by step"
        assert [step for (step,) in database.execute(logged)] == [4, 9]
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3
    train(tiny(*options, f"ckpt_path={folder}", run_dir="other"))
    with sqlite3.connect(tmp_path / "other" / "mlflow.db") as database:
        assert database.execute(logged).fetchall() == [(4,), (9,)], "a new run has all epochs"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # MLflow warns
def test_a_sweep_has_one_database_in_its_folder_and_a_run_for_each_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    import sqlite3

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = [option for option in TINY if not option.startswith(("logger", "test"))]
    sweep = ("-m", "seed=0,1", "logger=[mlflow,wandb]", 'hydra.sweep.dir="a?sweep"')
    hydra.main(PROJECT / "conf", [*sweep, *options])
    assert [file.name for file in tmp_path.glob("a?sweep/**/*.db")] == ["mlflow.db"]
    assert not list(tmp_path.glob("a")), "nothing where the name is cut at the question mark"
    with sqlite3.connect(tmp_path / "a?sweep" / "mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)] * 2
        key = "select count(*) from latest_metrics where key = 'test/accuracy'"
        assert database.execute(key).fetchone() == (2,)
    for job in ("0", "1"):
        assert len(list(tmp_path.glob(f"a?sweep/{job}/wandb/offline-run-*"))) == 1


def test_a_machines_own_settings_are_taken_in_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "conf/local").mkdir()
    (tmp_path / "conf/local/default.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /logger: none\ndata:\n  root: elsewhere\n"
    )
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    hydra.main(tmp_path / "conf", ["--cfg", "job"])
    out = capsys.readouterr().out
    assert "root: elsewhere" in out
    assert "logger: {}" in out


def test_classes_and_side_reach_a_network_that_names_them(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "data", classes=5, side=20, train=40, test=10)
    data = ("data=idx", f"data.root={folder}", "data.batch_size=8")
    for options in ([], ["model=optimized"]):
        config = parse(compose(*data, *options, "run_dir=unused"))
        network = build_module(config, IdxDataModule(folder).facts).network
        assert network(torch.zeros(2, 1, 20, 20)).shape == (2, 5)


def test_what_the_end_cannot_make_costs_no_result(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "data", classes=4, side=28, train=64, test=12)
    own = (
        *("data=idx", f"data.root={folder}", "data.batch_size=32", "test=true"),
        "data.classes=['$\\foo$','一二三','<b>','__']",
        "callbacks=none",
        *("augmentation=none", "augmentation.own._target_=tests.own.WholeBatches"),
        *("logger.own._target_=tests.own.Unreachable", f"logger.own.save_dir={tmp_path}"),
    )
    options = [option for option in TINY if "data." not in option]
    result = train(compose(*options, *own, f"run_dir={tmp_path / 'run'}"))
    assert json.loads((result.run_dir / "report.json").read_text())["test_total"] == 12
    log = (result.run_dir / "run.log").read_text(encoding="utf-8")
    assert "figures and report.html could not be made: RuntimeError: 32 images are exp" in log
    assert "could not be made: ConnectionError: the server has gone" in log
    assert "report.html in a browser" not in log
    cli.main(
        [
            "report",
            str(result.run_dir),
            "--data-root",
            str(folder),
            "--output",
            str(tmp_path / "r.html"),
        ]
    )
