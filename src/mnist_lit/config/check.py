"""Whether a composed config is said rightly, as far as that can be told without torch."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from mnist_lit.config.mistakes import INSTEAD
from mnist_lit.config.schema import BOUNDS, COMPACT, OBJECTIVES, OURS, Config
from mnist_lit.errors import ConfigError, unknown

Path = tuple[str | int, ...]


def parse(cfg: DictConfig) -> Config:
    """Check a composed config and return it typed.

    Args:
        cfg: What Hydra composed from ``conf/``, without its own ``hydra`` node.

    Raises:
        ConfigError: A key of ours is unknown or missing, or a value is of the wrong type or
            impossible.
    """
    plain = _plain(cfg)
    for path, value in _leaves(plain):
        bound = BOUNDS.get(f"{path[0]}.{path[-1]}", BOUNDS.get(str(path[-1])))
        if bound is not None and value is not None:
            _validated(bound, value, path)
    for group in ("callbacks", "logger", "metrics"):
        if isinstance(plain.get(group), dict):
            plain[group] = {name: node for name, node in plain[group].items() if not _is_off(node)}
    plain["augmentation"] = _in_a_row(plain.get("augmentation"))
    for group, default in (("model", COMPACT), ("data", None)):
        if isinstance(node := plain.get(group), dict):
            ours = OURS.get(str(node.setdefault("_target_", default)))
            if ours is not None:
                named = {key: value for key, value in node.items() if not key.startswith("_")}
                _validated(ours, named, (group,))
    config: Config = _validated(Config, plain)
    config.model.setdefault("name", str(config.model["_target_"]).rpartition(".")[2])
    for name in config.trainer.model_extra or {}:
        if (instead := INSTEAD.get(f"trainer.{name}")) is not None:
            raise ConfigError(f"trainer.{name}: a run decides this itself; instead: {instead}")
    objectives = [*OBJECTIVES, *(f"val/{name}" for name in config.metrics)]
    if config.optimized_metric not in objectives:
        raise ConfigError(unknown(f"optimized_metric={config.optimized_metric}", objectives, "one"))
    if config.optimized_metric == "test_accuracy" and not config.test:
        raise ConfigError("optimized_metric=test_accuracy: not known with test=false")
    return config


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


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of all that has a name; a list is a value, and is looked into too."""
    for key, value in enumerate(node) if isinstance(node, list) else node.items():
        # Names of nodes are the user's own, and may be those of arguments; so may be what a class
        # of theirs takes.
        named = path[:1] in (("callbacks",), ("logger",), ("metrics",))
        node = named and isinstance(value, dict) and (len(path) == 1 or "_target_" in value)
        if isinstance(key, str) and not node and path[1:2] != ("then",):
            yield (*path, key), value
        if isinstance(value, (dict, list)):
            yield from _leaves(value, (*path, key))


def _is_off(node: Any) -> bool:
    """Say whether a choice builds nothing, though an experiment may say how much of it."""
    return node is None or (isinstance(node, Mapping) and node.get("_target_", "") is None)


def _in_a_row(node: Any) -> Any:
    """Return what images pass through: the augmentation and what comes after it."""
    then = node.pop("then", None) or {} if isinstance(node, dict) else {}
    nodes = [node, *(then.values() if isinstance(then, dict) else [then])]
    return [one for one in nodes if not _is_off(one)]


def _validated(model: Any, value: Any, path: Path = ()) -> Any:
    bound = isinstance(model, TypeAdapter)
    adapter = model if bound else TypeAdapter(model)
    try:
        return adapter.validate_python(value)
    except ValidationError as mistakes:
        error = mistakes.errors()[0]
    # Of a bound, names in the place are those of types, of which one would have done.
    place = (*path, *(part for part in error["loc"] if not bound or isinstance(part, int)))
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).removeprefix(".")
    if error["type"] == "extra_forbidden":
        raise ConfigError(unknown(key, _keys(model, error["loc"][:-1])))
    if error["type"] == "missing":
        raise ConfigError(f"{key}: a value is missing")
    words = error["msg"].removeprefix("Input ").partition(" or instance")[0]
    for theirs, ours in (("a valid boolean", "true or false"), ("valid dictionary", "mapping")):
        words = words.replace(theirs, ours)
    raise ConfigError(f"{key}={error['input']}: {words}")


def _keys(model: Any, place: Path) -> list[str]:
    for name in place:
        if isinstance(name, str):
            annotation = model.model_fields[name].annotation
            model = next(iter(get_args(annotation)), annotation)
    return list(model.model_fields)
