"""The schema of ``conf/``: every key, its type and the values it may take.

YAML files hold the values, the dataclasses here hold what is allowed. Nothing heavy is imported,
so that a mistake in a config is reported before torch is even loaded.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

IMAGE_SIZE = 28
DATASET_SIZE = 60_000


class ConfigError(ValueError):
    """A config that cannot be run; the message names the key, its value and what is allowed."""


class Allowed(NamedTuple):
    """The values a key may take: in words for a person, and as a test."""

    words: str
    test: Callable[[Any], bool]


POSITIVE = Allowed("a number above 0", lambda v: 0 < v < math.inf)
NOT_NEGATIVE = Allowed("a number, 0 or above", lambda v: 0 <= v < math.inf)
FRACTION = Allowed("a number of at least 0 and less than 1", lambda v: 0 <= v < 1)
RATIO = Allowed("a number from 0 to 1", lambda v: 0 <= v <= 1)
COUNT = Allowed("a whole number, 1 or above", lambda v: v >= 1)
WHOLE = Allowed("a whole number, 0 or above", lambda v: v >= 0)
SEED = Allowed("a whole number from 0 to 2^32 - 1", lambda v: 0 <= v < 2**32)
ODD = Allowed("an odd whole number, 1 or above", lambda v: v >= 1 and v % 2 == 1)
DEGREES = Allowed("an angle from 0 to 180 degrees", lambda v: 0 <= v <= 180)

BATCHES = Allowed(
    "a number of batches, 1 or above, or a share of them between 0.0 and 1.0",
    lambda v: (type(v) is int and v >= 1) or (type(v) is float and 0 < v <= 1),
)


def one_of(*options: str) -> Allowed:
    """Allow exactly these strings."""
    return Allowed("one of " + ", ".join(options), lambda v: v in options)


def limit(allowed: Allowed, default: Any = MISSING) -> Any:
    """Declare a dataclass field whose values are limited to ``allowed``."""
    return field(default=default, metadata={"allowed": allowed})


@dataclass
class Block:
    """One block of :class:`~mnist_lit.network.CompactCNN`: convolution, batch norm, ReLU.

    Attributes:
        channels: Output channels of the convolution.
        kernel: Side of the square kernel; odd, so that padding keeps the map's size.
        bias: Whether the convolution has a bias, which the batch norm behind it makes redundant.
        pool: Where a 2×2 max-pool stands: ``none``, ``after_conv`` (a quarter of the pixels is left
            to normalise) or ``after_activation`` (the usual order).
        dropout: Probability of zeroing an element of the block's output.
        repeats: How often the one convolution is applied, each time to what it gave before, with a
            batch norm of its own each time: depth and a wider view for no weights.
        residual: Whether what goes into an application is added to what comes out of it.
        separable: Whether the convolution is a depthwise one, with a single filter for each channel
            that comes in, followed by a 1×1 that mixes them.
    """

    channels: int = limit(COUNT)
    kernel: int = limit(ODD, 3)
    bias: bool = False
    pool: str = limit(one_of("none", "after_conv", "after_activation"), "none")
    dropout: float = limit(FRACTION, 0.0)
    repeats: int = limit(COUNT, 1)
    residual: bool = False
    separable: bool = False


@dataclass
class Model:
    """A variant of the network: its blocks, then the dropout before the linear layer."""

    name: str = MISSING
    blocks: list[Block] = MISSING
    dropout: float = limit(FRACTION)


@dataclass
class Scheduler:
    """How the learning rate moves: a scheduler to build and when to step it."""

    interval: str = limit(one_of("step", "epoch"))
    build: dict[str, Any] = MISSING


@dataclass
class Data:
    """What is trained on and what picks the best epoch."""

    root: str | None = MISSING
    validation: str = limit(one_of("test", "holdout"))
    batch_size: int = limit(COUNT)
    eval_batch_size: int = limit(COUNT)
    train_size: int | None = limit(COUNT)
    split_seed: int = limit(SEED)


@dataclass
class Trainer:
    """What is passed to :class:`pytorch_lightning.Trainer`."""

    accelerator: str = limit(one_of("auto", "cpu", "gpu", "cuda", "mps"))
    devices: Any = MISSING
    strategy: str = MISSING
    precision: str = limit(one_of("auto", "32-true", "64-true", "bf16-mixed", "16-mixed"))
    max_epochs: int = limit(COUNT)
    limit_train_batches: Any = limit(BATCHES, None)
    limit_val_batches: Any = limit(BATCHES, None)
    accumulate_grad_batches: int = limit(COUNT, 1)
    gradient_clip_val: float | None = limit(POSITIVE, None)
    detect_anomaly: bool = False
    deterministic: bool = False


@dataclass
class Requirements:
    """The budget that a run is checked against."""

    min_val_accuracy: float = limit(RATIO)
    max_parameters: int = limit(COUNT)
    max_epochs: int = limit(COUNT)
    batch_norm: bool = MISSING
    dropout: bool = MISSING
    fully_connected: bool = MISSING
    enforce: bool = MISSING


COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
OBJECTIVES = ("best_val_accuracy", "last_val_accuracy", "test_accuracy", "best_val_loss")


@dataclass
class Config:
    """A whole run, as ``conf/config.yaml`` composes it."""

    model: Model = MISSING
    optimizer: dict[str, Any] = MISSING
    scheduler: Scheduler = MISSING
    data: Data = MISSING
    augmentation: dict[str, Any] = MISSING
    trainer: Trainer = MISSING
    callbacks: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    requirements: Requirements = MISSING
    seed: int = limit(SEED)
    compile: str | None = limit(one_of(*COMPILE_MODES), None)
    ckpt_path: str | None = None
    run_dir: str = MISSING
    optimized_metric: str = limit(one_of(*OBJECTIVES))


@dataclass
class _Target:
    _target_: str = MISSING
    _partial_: bool = False


@dataclass
class _Optimizer(_Target):
    lr: float = limit(POSITIVE)
    weight_decay: float = limit(NOT_NEGATIVE, 0.0)
    fused: bool | None = None
    foreach: bool | None = None


@dataclass
class _SGD(_Optimizer):
    momentum: float = limit(FRACTION, 0.0)
    dampening: float = limit(FRACTION, 0.0)
    nesterov: bool = False


_BETAS = Allowed(
    "two numbers of at least 0 and less than 1",
    lambda v: len(v) == 2 and all(0 <= b < 1 for b in v),
)


@dataclass
class _Adam(_Optimizer):
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999], metadata={"allowed": _BETAS})
    eps: float = limit(POSITIVE, 1e-8)
    amsgrad: bool = False


@dataclass
class _RMSprop(_Optimizer):
    alpha: float = limit(FRACTION, 0.99)
    momentum: float = limit(FRACTION, 0.0)
    eps: float = limit(POSITIVE, 1e-8)
    centered: bool = False


@dataclass
class _OneCycle(_Target):
    pct_start: float = limit(Allowed("a number between 0 and 1", lambda v: 0 < v < 1))
    anneal_strategy: str = limit(one_of("cos", "linear"), "cos")
    div_factor: float = limit(POSITIVE, 25.0)
    final_div_factor: float = limit(POSITIVE, 1e4)
    cycle_momentum: bool = False


@dataclass
class _Cosine(_Target):
    eta_min: float = limit(NOT_NEGATIVE, 0.0)


@dataclass
class _Step(_Target):
    step_size: int = limit(COUNT)
    gamma: float = limit(POSITIVE, 0.1)


@dataclass
class _Plateau(_Target):
    factor: float = limit(FRACTION, 0.1)
    patience: int = limit(WHOLE, 10)
    threshold: float = limit(NOT_NEGATIVE, 1e-4)
    cooldown: int = limit(WHOLE, 0)
    min_lr: float = limit(NOT_NEGATIVE, 0.0)


@dataclass
class _Constant(_Target):
    factor: float = limit(RATIO, 1.0)
    total_iters: int = limit(WHOLE, 0)


@dataclass
class _RandomDistortion(_Target):
    degrees: float = limit(DEGREES)
    translate: float = limit(
        Allowed("a number of pixels from 0 to 14", lambda v: 0 <= v <= IMAGE_SIZE / 2)
    )
    scale: float = limit(FRACTION)
    shear: float = limit(NOT_NEGATIVE)
    gamma: float = limit(NOT_NEGATIVE, 0.0)
    bend: float = limit(FRACTION, 0.0)


@dataclass
class _MovingAverage(_Target):
    decay: float = limit(FRACTION)


@dataclass
class _FadeOut(_Target):
    start: float = limit(FRACTION)


@dataclass
class _EarlyDropout(_Target):
    end: float = limit(Allowed("a number above 0, at most 1", lambda v: 0 < v <= 1))


# What the shipped YAML files may say beside `_target_`. The arguments of any other target are
# compared with its signature when it is built, which is also before data or GPU are touched.
_TARGETS: dict[str, type[_Target]] = {
    "torch.optim.SGD": _SGD,
    "torch.optim.Adam": _Adam,
    "torch.optim.AdamW": _Adam,
    "torch.optim.NAdam": _Optimizer,
    "torch.optim.RMSprop": _RMSprop,
    "torch.optim.lr_scheduler.OneCycleLR": _OneCycle,
    "torch.optim.lr_scheduler.CosineAnnealingLR": _Cosine,
    "torch.optim.lr_scheduler.StepLR": _Step,
    "torch.optim.lr_scheduler.ReduceLROnPlateau": _Plateau,
    "torch.optim.lr_scheduler.ConstantLR": _Constant,
    "mnist_lit.augmentation.RandomDistortion": _RandomDistortion,
    "mnist_lit.augmentation.FadeOut": _FadeOut,
    "mnist_lit.averaging.MovingAverage": _MovingAverage,
    "mnist_lit.dropout.EarlyDropout": _EarlyDropout,
}


def parse(cfg: DictConfig) -> Config:
    """Check a composed config and return it typed.

    Args:
        cfg: What Hydra composed from ``conf/``, without its own ``hydra`` node.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or impossible.
    """
    # Block by block first: OmegaConf does not say in which element of a list a mistake is.
    blocks = OmegaConf.select(cfg, "model.blocks")
    if isinstance(blocks, ListConfig):
        for i, block in enumerate(blocks):
            if not isinstance(block, DictConfig):
                raise ConfigError(f"model.blocks[{i}]={block}: a mapping is expected")
            _typed(Block, block, f"model.blocks[{i}]")
    config: Config = _typed(Config, cfg, "")
    _parse_target(config.optimizer, "optimizer")
    _parse_target(config.scheduler.build, "scheduler.build")
    if _is_off(config.augmentation):
        config.augmentation = {}
    if config.augmentation:
        _parse_target(config.augmentation, "augmentation")
    for group in ("callbacks", "logger"):
        nodes = getattr(config, group).items()
        built = {name: node for name, node in nodes if node is not None and not _is_off(node)}
        for name, node in built.items():
            _parse_target(node, f"{group}.{name}")
        setattr(config, group, built)
    check_blocks(config.model.blocks)
    _check_batch(config.data)
    return config


def check_blocks(blocks: list[Block]) -> None:
    """Raise :class:`ConfigError` if the blocks cannot be stacked on a 28×28 image."""
    if not blocks:
        raise ConfigError("model.blocks=[]: at least one block is needed")
    size, width = IMAGE_SIZE, 1
    for i, block in enumerate(blocks):
        if block.residual or block.repeats > 1:
            key = "residual=true" if block.residual else f"repeats={block.repeats}"
            if block.channels != width:
                raise ConfigError(
                    f"model.blocks[{i}].{key}: needs as many channels as come in, {width}, "
                    f"not {block.channels}"
                )
            if block.pool == "after_conv":
                raise ConfigError(
                    f"model.blocks[{i}].{key}: can pool only at its end, pool: after_activation"
                )
        width = block.channels
        if block.pool != "none":
            if size < 2:
                raise ConfigError(
                    f"model.blocks[{i}].pool={block.pool}: the map is already 1 pixel wide here; "
                    "set it to none or pool fewer times (28 → 14 → 7 → 3 → 1)"
                )
            size //= 2


def _check_batch(data: Data) -> None:
    held_out = HOLDOUT_SIZE if data.validation == "holdout" else 0
    available = DATASET_SIZE - held_out
    if data.train_size is not None:
        if data.train_size > available:
            raise ConfigError(f"data.train_size={data.train_size}: at most {available}")
        available = data.train_size
    if data.batch_size > available:
        raise ConfigError(
            f"data.batch_size={data.batch_size}: at most {available}, the number of training images"
        )


HOLDOUT_SIZE = 5_000


def _is_off(node: Any) -> bool:
    """Say whether a choice builds nothing, though an experiment may say how much of it."""
    return isinstance(node, Mapping) and "_target_" in node and node["_target_"] is None


def _parse_target(node: Any, path: str) -> None:
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError(
            f"{path}={node}: a mapping with `_target_` is expected, the class or function to build"
        )
    schema = _TARGETS.get(node["_target_"])
    if schema is not None:
        _typed(schema, OmegaConf.create(dict(node)), path)


def _typed(schema: type, cfg: DictConfig, path: str) -> Any:
    def full(key: str | None) -> str:
        return ".".join(part for part in (path, key) if part)

    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), cfg)
        OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
        result = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise ConfigError(unknown_key(full(error.full_key), _field_names(schema, error))) from None
    except MissingMandatoryValue as error:
        raise ConfigError(f"{full(error.full_key)}: a value is missing") from None
    except InterpolationKeyError as error:
        raise ConfigError(f"{full(error.full_key)}: {error.msg}") from None
    except ValidationError as error:
        key = error.full_key or ""
        allowed = _expected(schema, key)
        raise ConfigError(f"{full(key)}={_select(cfg, key)}: {allowed} is expected") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{full(error.full_key)}: {str(error.msg).splitlines()[0]}") from None
    for key, value, limits in _limits(result):
        if value is not None and not limits.test(value):
            raise ConfigError(f"{full(key)}={value}: {limits.words} is expected")
    return result


def unknown_key(key: str, known: list[str]) -> str:
    """Say that ``key`` does not exist, what does, and which of those was probably meant."""
    name = re.split("[.=]", key)[-1]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean {near[0]}?" if near else ""
    return f"{key}: no such key;{hint} allowed here: {', '.join(known) or 'nothing'}"


def _field_names(schema: type, error: ConfigKeyError) -> list[str]:
    owner = error.object_type if dataclasses.is_dataclass(error.object_type) else schema
    return [f.name for f in dataclasses.fields(owner) if not f.name.startswith("_")]


def _select(cfg: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return "?"


def _expected(schema: type, key: str) -> str:
    """Words for what the field at ``key`` (``a.b[0].c``) accepts."""
    owner: Any = schema
    words = "another type"
    for name in key.split("."):
        fields = {f.name: f for f in dataclasses.fields(owner)}
        found = fields.get(name.partition("[")[0])
        if found is None:
            break
        allowed = found.metadata.get("allowed")
        words = allowed.words if allowed else _type_words(found.type)
        owner = _inner_dataclass(found.type)
        if owner is None:
            break
    return words


def _inner_dataclass(annotation: Any) -> Any:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((c for c in candidates if dataclasses.is_dataclass(c)), None)


def _type_words(annotation: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    return words.get(annotation, "a mapping or list as in the shipped YAML files")


def _limits(node: Any, path: str = "") -> Iterator[tuple[str, Any, Allowed]]:
    """Yield key, value and limit of every limited field below a dataclass instance."""
    if dataclasses.is_dataclass(node):
        for f in dataclasses.fields(node):
            key, value = f"{path}.{f.name}".lstrip("."), getattr(node, f.name)
            if "allowed" in f.metadata:
                yield key, value, f.metadata["allowed"]
            else:
                yield from _limits(value, key)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _limits(value, f"{path}[{i}]")
