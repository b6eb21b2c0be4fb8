"""Check a composed config, as far as possible without torch."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mnist_lit.config.mistakes import INSTEAD
from mnist_lit.config.schema import OBJECTIVES, Config
from mnist_lit.errors import ConfigError, unknown
from mnist_lit.validation import validated

COMPACT = "mnist_lit.network.compact.CompactCNN"  # of a model without a `_target_`
NAMED = ("augmentation", "callbacks", "logger", "metrics")  # groups that map names to nodes


def parse(cfg: DictConfig) -> Config:
    """Check a composed config and return it as a ``Config``.

    Nodes without a ``_target_`` are left out: an experiment sets their values, but they are not
    chosen.

    Args:
        cfg: The config that Hydra composed from ``conf/``, without its ``hydra`` node.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or is impossible.
    """
    plain = _plain(cfg)
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
            raise ConfigError(f"trainer.{name}: a run sets this itself; use instead: {instead}")
    objectives = [*OBJECTIVES, *(f"val/{name}" for name in config.metrics)]
    if config.optimized_metric not in objectives:
        raise ConfigError(unknown(f"optimized_metric={config.optimized_metric}", objectives, "one"))
    if config.optimized_metric == "test_accuracy" and not config.test:
        raise ConfigError("optimized_metric=test_accuracy: this needs test=true")
    return config


def refuse_unbuilt(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse overrides of a node that is not chosen: it would not be built.

    Raises:
        ConfigError: An override is of such a node.
    """
    for word in overrides:
        group, name = [*word.partition("=")[0].lstrip("+").split("."), ""][:2]
        nodes: Any = cfg.get(group) if group in NAMED else None
        node = nodes.get(name) if isinstance(nodes, DictConfig) else None
        if isinstance(node, DictConfig) and "_target_" not in node:
            chosen = ", ".join(str(key) for key, one in nodes.items() if "_target_" in one)
            words = f"this node is not chosen and has no `_target_`; chosen: {chosen or 'none'}"
            raise ConfigError(f"{word}: {words}")


def _plain(cfg: DictConfig) -> dict[Any, Any]:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key, words = error.full_key, str(error.msg).splitlines()[0]
        if isinstance(error, MissingMandatoryValue):
            words = f"a value is missing; give it as {key}=VALUE"
        if "HydraConfig was not set" in words:  # run_dir refers to it, other keys to run_dir
            key, words = "run_dir", "a value is missing; give it as run_dir=FOLDER"
        raise ConfigError(f"{key}: {words}") from None
    assert isinstance(plain, dict)
    return plain


def _is_off(node: Any) -> bool:
    return node is None or (isinstance(node, dict) and node.get("_target_") is None)
