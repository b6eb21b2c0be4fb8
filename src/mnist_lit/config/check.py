"""Whether a composed config is said rightly, as far as that can be told without torch."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mnist_lit.config.mistakes import INSTEAD, moved
from mnist_lit.config.schema import OBJECTIVES, Config
from mnist_lit.errors import ConfigError, unknown
from mnist_lit.validation import validated

COMPACT = "mnist_lit.network.compact.CompactCNN"  # what a list of blocks describes
NAMED = ("augmentation", "callbacks", "logger", "metrics")  # groups of nodes by names


def parse(cfg: DictConfig) -> Config:
    """Check a composed config and return it typed.

    A node without a ``_target_`` is what an experiment says of one that is not chosen: it is left
    out.

    Args:
        cfg: What Hydra composed from ``conf/``, without its own ``hydra`` node.

    Raises:
        ConfigError: A key of ours is unknown or missing, or a value is of the wrong type or
            impossible.
    """
    plain = _plain(cfg)
    if (words := moved(plain)) is not None:
        raise ConfigError(words)
    for group in NAMED:
        if isinstance(nodes := plain.get(group), dict):
            plain[group] = {name: node for name, node in nodes.items() if not _is_off(node)}
    if plain.get("run_dir") is None:
        raise ConfigError("run_dir: a value is missing; give it as run_dir=FOLDER")
    if isinstance(plain.get("model"), dict):
        plain["model"].setdefault("_target_", COMPACT)
    config: Config = validated(Config, plain)
    for name in ("accelerator", "precision", "max_epochs"):
        if config.trainer.get(name) is None:
            raise ConfigError(f"trainer.{name}: a value is missing")
    for name in config.trainer:
        if (instead := INSTEAD.get(f"trainer.{name}")) is not None:
            raise ConfigError(f"trainer.{name}: a run decides this itself; instead: {instead}")
    objectives = [*OBJECTIVES, *(f"val/{name}" for name in config.metrics)]
    if config.optimized_metric not in objectives:
        raise ConfigError(unknown(f"optimized_metric={config.optimized_metric}", objectives, "one"))
    if config.optimized_metric == "test_accuracy" and not config.test:
        raise ConfigError("optimized_metric=test_accuracy: not known with test=false")
    return config


def refuse_unbuilt(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse overrides of a node that nobody has chosen; in an experiment it builds nothing.

    Raises:
        ConfigError: One of them is such a one.
    """
    for word in overrides:
        group, name = [*word.partition("=")[0].lstrip("+").split("."), ""][:2]
        nodes: Any = cfg.get(group) if group in NAMED else None
        node = nodes.get(name) if isinstance(nodes, DictConfig) else None
        if isinstance(node, DictConfig) and "_target_" not in node:
            chosen = ", ".join(str(key) for key, one in nodes.items() if "_target_" in one)
            words = "a mapping with `_target_` is expected, or a chosen node"
            raise ConfigError(f"{word}: {words}: {chosen or 'none is'}")


def _plain(cfg: DictConfig) -> dict[Any, Any]:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key, words = error.full_key, str(error.msg).splitlines()[0]
        if isinstance(error, MissingMandatoryValue):
            words = f"a value is missing; give it as {key}=VALUE"
        if "HydraConfig was not set" in words:  # which run_dir refers to, and others to it
            key, words = "run_dir", "a value is missing; give it as run_dir=FOLDER"
        raise ConfigError(f"{key}: {words}") from None
    assert isinstance(plain, dict)
    return plain


def _is_off(node: Any) -> bool:
    return node is None or (isinstance(node, dict) and node.get("_target_") is None)
