import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mnist_lit import compose
from mnist_lit.config.check import parse
from mnist_lit.config.mistakes import INSTEAD
from mnist_lit.errors import ConfigError
from mnist_lit.training import build
from mnist_lit.training.build import build_module, prepare
from tests.conftest import PROJECT

GROUPS = ("model", "optimizer", "scheduler", "loss", "metrics", "augmentation", "trainer")
CHOICES = [
    f"{group}={file.stem}"
    for group in (*GROUPS, "data", "experiment", "callbacks", "logger")
    for file in sorted((PROJECT / "conf" / group).glob("*.yaml"))
]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_shipped_choice_passes_the_schema(choice: str) -> None:
    root = ["data.root=folder"] if choice.startswith("data=idx") else []
    parse(compose(choice, *root, "run_dir=unused"))


@pytest.mark.parametrize("experiment", ["final", "flagship", "tiny"])
def test_what_is_chosen_away_stays_away_though_an_experiment_sets_amounts(experiment: str) -> None:
    chosen = f"experiment={experiment}", "run_dir=unused"
    assert parse(compose("augmentation=none", *chosen)).augmentation == {}
    assert parse(compose("callbacks=none", *chosen)).callbacks == {}
    assert set(parse(compose("callbacks=plain", *chosen)).callbacks) == {"progress"}


def test_defaults_are_the_documented_ones() -> None:
    config = parse(compose("run_dir=unused"))
    assert config.model["name"] == "final"
    assert config.optimizer["_target_"] == "torch.optim.SGD"
    assert config.scheduler["_target_"] == "torch.optim.lr_scheduler.OneCycleLR"
    assert config.data["validation"] == "test"
    assert (
        config.augmentation["distort"]["_target_"] == "mnist_lit.data.augmentation.RandomDistortion"
    )
    assert set(config.logger) == {"csv", "tensorboard"}
    assert config.requirements.enforce


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("optimizer.lr=-0.1", "optimizer.lr=-0.1", "greater than 0"),
        ("optimizer.lr=0", "optimizer.lr=0", "greater than 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan", "finite"),
        ("optimizer.lr=inf", "optimizer.lr=inf", "finite"),
        ("optimizer.lr=fast", "optimizer.lr=fast", "valid number"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1", "equal to 0"),
        ("optimizer.momentum=1.0", "optimizer.momentum=1.0", "less than 1"),
        ("optimizer.momentum=5", "optimizer.momentum=5", "less than 1"),
        ("optimizer.dampening=-1", "optimizer.dampening=-1", "equal to 0"),
        ("optimizer=adam optimizer.betas=[0.9,1]", "optimizer.betas[1]=1", "less than 1"),
        ("optimizer=adam optimizer.eps=-1", "optimizer.eps=-1", "equal to 0"),
        ("optimizer=rmsprop optimizer.alpha=1", "optimizer.alpha=1", "less than 1"),
        ("model.dropout=1.0", "model.dropout=1.0", "less than 1"),
        ("model.dropout=-0.1", "model.dropout=-0.1", "equal to 0"),
        ("model.blocks=[]", "model.blocks=[]", "at least one"),
        ("model.blocks=[{channels: 8, kernal: 3}]", "model.blocks[0].kernal", "mean kernel?"),
        ("model.blocks=[{kernel: 3}]", "model.blocks[0].channels", "missing"),
        ("model.blocks=[{channels: 8, kernel: 2}]", "model.blocks[0].kernel=2", "odd"),
        ("model.blocks=[{channels: 0}]", "model.blocks[0].channels=0", "equal to 1"),
        ("model.blocks=[{channels: [8, 16]}]", "model.blocks[0].channels=[8, 16]", "integer"),
        ("model.blocks=[{channels: 8, pool: max}]", "model.blocks[0].pool=max", "after_conv"),
        ("model.blocks=[{channels: 8, repeats: 0}]", "model.blocks[0].repeats=0", "equal to 1"),
        ("model.blocks=[{channels: 8, dropout: 1}]", "model.blocks[0].dropout=1", "less than 1"),
        ("model.blocks=[{channels: 8, bias: 2}]", "model.blocks[0].bias=2", "true or false"),
        (
            f"model.blocks=[{','.join(['{channels: 4, pool: after_conv}'] * 5)}]",
            "model.blocks[4].pool",
            "1 pixel",
        ),
        ("module.interval=batch", "module.interval=batch", "'step' or 'epoch'"),
        ("scheduler.pct_start=1", "scheduler.pct_start=1", "less than 1"),
        ("scheduler.pct_start=0", "scheduler.pct_start=0", "greater than 0"),
        ("scheduler.div_factor=0", "scheduler.div_factor=0", "greater than 0"),
        ("scheduler.anneal_strategy=up", "scheduler.anneal_strategy=up", "'cos'"),
        ("scheduler.cycle_momentum=1", "scheduler.cycle_momentum=1", "true or false"),
        ("scheduler=step scheduler.step_size=0", "scheduler.step_size=0", "to 1"),
        ("scheduler=step scheduler.gamma=nan", "scheduler.gamma=nan", "finite"),
        ("scheduler=step scheduler.gamma=1e308", "scheduler.gamma=1e+308", "equal to 10"),
        ("scheduler=step scheduler.gamma=0", "scheduler.gamma=0", "greater than 0"),
        ("scheduler=cosine scheduler.eta_min=-1", "scheduler.eta_min=-1", "to 0"),
        ("scheduler=plateau scheduler.patience=-1", "scheduler.patience=-1", "to 0"),
        ("scheduler=plateau scheduler.threshold=-1", "scheduler.threshold=-1", "to 0"),
        ("scheduler=plateau scheduler.cooldown=-1", "scheduler.cooldown=-1", "to 0"),
        ("scheduler=plateau scheduler.min_lr=-1", "scheduler.min_lr=-1", "to 0"),
        ("scheduler=plateau scheduler.factor=1", "scheduler: cannot be built", "< 1.0"),
        (
            "data.train_size=2000 trainer.max_epochs=1",
            "scheduler: cannot be built",
            "smaller data.b",
        ),
        ("scheduler=constant scheduler.factor=2", "scheduler.factor=2", "equal to 1"),
        ("scheduler=constant scheduler.total_iters=-1", "scheduler.total_iters", "0"),
        ("loss.label_smoothing=1", "loss.label_smoothing=1", "less than 1"),
        ("data.batch_size=0", "data.batch_size=0", "equal to 1"),
        ("data.batch_size=2.5", "data.batch_size=2.5", "integer"),
        ("data.batch_size=60001", "data.batch_size=60001", "at most 60000"),
        ("data.eval_batch_size=0", "data.eval_batch_size=0", "equal to 1"),
        ("data.train_size=60001", "data.train_size=60001", "at most 60000"),
        ("data=mnist_holdout data.batch_size=55001", "data.batch_size=55001", "at most 55000"),
        ("data.validation=train", "data.validation=train", "'test' or 'holdout'"),
        ("data.split_seed=-1", "data.split_seed=-1", "equal to 0"),
        ("data.batchsize=3", "data.batchsize", "did you mean batch_size?"),
        ("augmentation.distort.degrees=181", "augmentation.distort.degrees=181", "equal to 180"),
        ("augmentation.distort.translate=15", "augmentation.distort.translate=15", "equal to 14"),
        ("augmentation.distort.scale=2", "augmentation.distort.scale=2", "less than 1"),
        ("augmentation.distort.shear=-1", "augmentation.distort.shear=-1", "equal to 0"),
        ("augmentation.distort.gamma=-1", "augmentation.distort.gamma=-1", "equal to 0"),
        ("augmentation.distort.bend=1", "augmentation.distort.bend=1", "less than 1"),
        ("callbacks.average.decay=1", "callbacks.average.decay=1", "less than 1"),
        ("callbacks.fade.start=1", "callbacks.fade.start=1", "less than 1"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0", "equal to 1"),
        ("trainer.accelerator=quantum", "trainer.accelerator=quantum", "cpu"),
        ("trainer.precision=8", "trainer.precision=8", "bf16-mixed"),
        ("trainer.limit_val_batches=0", "trainer.limit_val_batches=0", "greater than 0"),
        ("trainer.limit_train_batches=1.5", "trainer=", "limit_train_batches, it has to be in"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0", "equal to 1"),
        ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val=0", "greater than 0"),
        ("trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=0", "equal to 1"),
        ("trainer.detect_anomaly=2", "trainer.detect_anomaly=2", "true or false"),
        ("callbacks.progress=3", "callbacks.progress=3", "mapping"),
        ("callbacks.own={a: 3}", "callbacks.own={a: 3}", "_target_"),
        ("requirements.min_val_accuracy=99.4", "requirements.min_val_accuracy=99.4", "to 1"),
        ("requirements.max_parameters=0", "requirements.max_parameters=0", "equal to 1"),
        ("requirements.enforce=perhaps", "requirements.enforce=perhaps", "true or false"),
        ("seed=-1", "seed=-1", "equal to 0"),
        ("seed=4294967296", "seed=4294967296", "less than 4294967296"),
        ("seed=???", "seed", "missing"),
        ("compile=fast", "compile=fast", "reduce-overhead"),
        ("+sede=1", "sede", "did you mean seed?"),
        ("optimized_metric=speed", "optimized_metric=speed", "test_accuracy"),
        ("optimized_metric=val/f1", "optimized_metric=val/f1", "test_accuracy"),
        # Only the signature of the target has these bounds.
        ("optimizer.lrr=0.1", "optimizer.lrr", "did you mean lr?"),
        ("optimizer.lr=null", "optimizer.lr=null", "a value is expected"),
        ("optimizer.nesterov=perhaps", "optimizer.nesterov=perhaps", "true or false"),
        ("optimizer=adam optimizer.amsgrad=2", "optimizer.amsgrad=2", "true or false"),
        ("augmentation.distort.angle=3", "augmentation.distort.angle", "allowed here: degrees"),
        ("trainer.max_epoch=3", "trainer.max_epoch", "did you mean max_epochs?"),
        ("trainer.profiler=stopwatch", "trainer=pytorch_lightning.Trainer", "cannot be built"),
        ("data=idx", "data.root: a value is missing", "data.root=VALUE"),
        ("metrics.f1._target_=torchmetrics.Nothing", "metrics.f1=torchmetrics.Nothing", "built"),
        ("metrics.f1._target_=torch.nn.ReLU", "metrics.f1=torch.nn.ReLU: a Metric", "expected"),
        ("callbacks.x._target_=torch.nn.ReLU", "callbacks.x=torch.nn.ReLU: a Callback", "exp"),
        ("logger.x._target_=torch.nn.ReLU", "logger.x=torch.nn.ReLU", "Lightning logger"),
        ("model._target_=torch.nn.Nothing", "model=torch.nn.Nothing", "cannot be built"),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(
    override: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(parse(composed(*split_overrides(override))))
    message = str(caught.value)
    assert message.startswith(key)
    assert words in message
    assert "\n" not in message


def composed(*words: str) -> DictConfig:
    """Compose a config; if no override is a choice, from the shipped one, composed once."""
    given = OverridesParser.create().parse_overrides(list(words))
    choices = [one for one in given if (PROJECT / "conf" / one.key_or_group).is_dir()]
    if choices or any("{" in word for word in words):
        return compose(*words, "run_dir=unused", "trainer=cpu")
    cfg = shipped().copy()
    ConfigLoaderImpl._apply_overrides_to_config(given, cfg)
    return cfg


@cache
def shipped() -> DictConfig:
    return compose("run_dir=unused", "trainer=cpu")


def split_overrides(text: str) -> list[str]:
    """Split overrides at spaces, but not at the spaces in lists."""
    return re.split(r" (?=[~\w.]+(?:=|$))", text)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.maximize=false",
        "scheduler.three_phase=true",
        "trainer.gradient_clip_algorithm=norm",
        "trainer.gradient_clip_val=1",
        "trainer.check_val_every_n_epoch=2",
        "trainer.profiler=simple",
        "trainer.benchmark=true",
        "loss.label_smoothing=0.1",
        "scheduler.max_lr=0.3",
        "optimizer.foreach=null",
        "trainer.deterministic=warn",
    ],
)
def test_whatever_the_target_takes_can_be_said_without_a_plus(override: str) -> None:
    prepare(parse(composed(override)))


def test_readmes_nadam_takes_what_torch_does(tmp_path: Path) -> None:
    cfg = compose("run_dir=unused", "trainer=cpu", "optimizer=adam")
    node = {"_target_": "torch.optim.NAdam", "lr": 0.005, "momentum_decay": 0.004}
    OmegaConf.update(cfg, "optimizer", node, merge=False)
    parts = prepare(parse(cfg))
    optimizer, _ = parts.module.build_optimizer(100)
    assert optimizer.param_groups[0]["momentum_decay"] == 0.004


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("logger", "logger="),
        ("callbacks", "callbacks."),
        ("default_root_dir", "hydra.run.dir"),
        ("fast_dev_run", "trainer=debug"),
        ("barebones", "callbacks=none"),
        ("enable_progress_bar", "callbacks=none"),
        ("overfit_batches", "data.train_size"),
        ("val_check_interval", "trainer.check_val_every_n_epoch"),
        ("max_steps", "trainer.max_epochs"),
        ("max_time", "trainer.max_epochs"),
        ("use_distributed_sampler", "nothing"),
    ],
)
def test_an_argument_that_a_run_decides_is_refused_with_what_to_say_instead(
    name: str, instead: str
) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{name}: a run sets .* instead: {instead}"):
        parse(composed(f"trainer.{name}=1"))


def test_every_argument_of_the_trainer_is_passed_or_refused() -> None:
    """Every argument is either allowed or refused, also a new one of a later Lightning."""
    arguments = set(inspect.signature(pl.Trainer).parameters)
    refused = {name.removeprefix("trainer.") for name in INSTEAD if name.startswith("trainer.")}
    assert refused <= arguments
    assert {"max_epochs", "accelerator", "gradient_clip_val", "profiler"} <= arguments - refused


@pytest.mark.parametrize(
    ("group", "node", "message"),
    [
        (
            "optimizer",
            {"_target_": "torch.optim.Rprop", "lr": 0.1, "etass": [0.5, 1.2]},
            "optimizer.etass: no such key; did you mean etas?",
        ),
        (
            "optimizer",
            {"_target_": "torch.optim.Nothing"},
            "optimizer=torch.optim.Nothing: cannot be built",
        ),
        (
            "augmentation.own",
            {"_target_": "torch.nn.Dropout", "p": 7},
            "augmentation.own=torch.nn.Dr",
        ),
        ("loss", {"_target_": "torch.nn.functional.mse_loss"}, "loss.input: a value is missing"),
        ("loss", {"_target_": "builtins.dict"}, "loss=builtins.dict: it cannot be called"),
        ("data", {"_target_": "torch.nn.ReLU"}, "data=torch.nn.ReLU: a LightningDataModule"),
        ("model", {"_target_": "builtins.dict"}, "model=builtins.dict: a torch.nn.Module is"),
        (
            "scheduler",
            {"_target_": "torch.optim.lr_scheduler.LambdaLR"},
            "scheduler.lr",
        ),
    ],
)
def test_targets_of_ones_own_are_checked_when_they_are_built(
    group: str, node: dict[str, Any], message: str
) -> None:
    cfg = compose("run_dir=unused")
    OmegaConf.update(cfg, group, node, merge=False, force_add=True)
    with pytest.raises(ConfigError) as caught:
        prepare(parse(cfg))
    assert str(caught.value).startswith(message)


def test_a_logger_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)  # as if it were not installed
    config = parse(compose("logger=wandb", "run_dir=unused"))
    with pytest.raises(ConfigError, match=r"logger.wandb: wandb is not installed; pip install"):
        prepare(config)


def test_a_device_that_lightning_refuses_is_a_config_error() -> None:
    config = parse(compose("trainer.devices=-7", "trainer=cpu", "run_dir=unused"))
    with pytest.raises(ConfigError, match="cannot be built: `devices` selected with"):
        prepare(config)


@pytest.mark.slow
def test_groups_are_independent() -> None:
    """No choice of one group changes the values of another."""
    optimizers = [f.stem for f in (PROJECT / "conf/optimizer").glob("*.yaml")]
    schedulers = [f.stem for f in (PROJECT / "conf/scheduler").glob("*.yaml")]
    for optimizer in optimizers:
        alone = compose(f"optimizer={optimizer}", "run_dir=x").optimizer
        for scheduler in schedulers:
            both = compose(f"optimizer={optimizer}", f"scheduler={scheduler}", "run_dir=x")
            assert OmegaConf.to_container(both.optimizer) == OmegaConf.to_container(alone)


def test_a_scheduler_that_waits_for_the_loss_is_stepped_by_epoch() -> None:
    config = parse(compose("scheduler=plateau", "module.interval=step", "run_dir=unused"))
    with pytest.raises(ConfigError, match=r"module\.interval=step: ReduceLROnPlateau waits"):
        build_module(config).build_optimizer(10)


@pytest.mark.parametrize("overrides", [(), ("logger=none",)])
def test_a_config_from_python_that_has_no_folder_is_told_so(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^run_dir: a value is missing; give it as run_dir=FOLD"):
        parse(compose(*overrides))


def test_compose_leaves_another_program_of_hydras_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)
    (tmp_path / "conf/optimizer/mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.3\n")
    monkeypatch.chdir(tmp_path)
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.2"):
        theirs = GlobalHydra.instance().hydra
        assert compose("optimizer=mine").optimizer.lr == 0.3, "conf/ beside the work"
        assert compose("model=nano").model.name == "nano"
        assert GlobalHydra.instance().hydra is theirs
        assert str(version.getbase()) == "1.2"


@pytest.mark.parametrize("name", ["accuracy", "errors", "loss", "rank"])
def test_a_metric_takes_no_name_that_a_run_counts_by(name: str) -> None:
    recall = f"metrics.{name}._target_=torchmetrics.classification.MulticlassRecall"
    with pytest.raises(ConfigError, match=f"metrics.{name}: a run counts this itself; give anoth"):
        prepare(parse(compose(recall, "run_dir=unused")))
