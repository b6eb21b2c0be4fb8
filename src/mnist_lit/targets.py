"""What a ``_target_`` names: found, its arguments held against its signature, built.

Building imports what is named, and runs it: a config of a stranger is a program of a stranger.
"""

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from pkgutil import resolve_name
from typing import Any

from mnist_lit.errors import ConfigError, TrustError, reason, unknown


def check(node: Mapping[str, Any], path: str, given: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Hold the arguments of a node against the signature of its target, and return the target.

    Args:
        node: Has a ``_target_``.
        path: Where it stands in the config.
        given: Parameters that are filled in when it is built.

    Raises:
        ConfigError: There is no such target, or it does not take these arguments.
    """
    if not isinstance(node.get("_target_"), str):
        words = "a mapping with `_target_` is expected, the class or function to build"
        raise ConfigError(f"{path}={node}: {words}")
    target = find(node["_target_"], path)
    named, anything = parameters(target)
    for name, value in node.items():
        if name.startswith("_"):
            if name == "_partial_" and type(value) is not bool:
                raise ConfigError(f"{path}._partial_={value}: true or false is expected")
            continue
        if name not in named and not anything:
            raise ConfigError(unknown(f"{path}.{name}", [n for n in named if n not in given]))
        if name in named:
            _check_value(named[name], value, path)
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in (*node, *given):
            if node.get("_partial_"):
                continue
            raise ConfigError(f"{path}.{name}: a value is missing, {node['_target_']} needs it")
    return target


def _check_value(parameter: inspect.Parameter, value: Any, path: str) -> None:
    # What torch and Lightning take without a word: any object for a switch, nothing for a number.
    annotation, default = parameter.annotation, parameter.default
    switch = type(default) is bool and annotation in (bool, "bool", parameter.empty)
    if switch and type(value) is not bool:
        raise ConfigError(f"{path}.{parameter.name}={value}: true or false is expected")
    optional = default in (None, parameter.empty) or re.search("None|Optional", str(annotation))
    if value is None and not optional:
        raise ConfigError(f"{path}.{parameter.name}=null: a value is expected")


def find(target: str, path: str) -> Callable[..., Any]:
    """Import what a dotted name stands for.

    Raises:
        ConfigError: There is nothing of that name that can be called.
    """
    try:
        found = resolve_name(target)
    except Exception as error:  # a module of the user's may raise anything when it is imported
        raise ConfigError(
            f"{path}={target}: cannot be built: {reason(error)}; check the name, and that Python "
            "can import it from the folder in which the command is started"
        ) from None
    if not callable(found):
        raise ConfigError(f"{path}={target}: it cannot be called, a class or function is expected")
    return found


def parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that have a name, and whether any other argument is taken too."""
    try:
        found = inspect.signature(target).parameters.values()
    except ValueError:  # some of Python's own tell nothing
        return {}, True
    named = {p.name: p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in found)


def trusted(target: str, trust: Collection[str]) -> str:
    """Return a class's name if it may be imported because of a checkpoint that names it.

    Raises:
        TrustError: It is not among those that the user trusts.
    """
    if target not in trust:
        raise TrustError(
            f"{target} is not a class of this project: it is imported, and so run, only if you say "
            f"so: --trust {target} (in Python trust=[{target!r}])"
        )
    return target


def build(
    node: Mapping[str, Any],
    path: str,
    given: tuple[str, ...] = (),
    also: Mapping[str, Any] | None = None,
) -> Any:
    """Check a node and build it.

    Args:
        node: Has a ``_target_``.
        path: Where it stands in the config.
        given: Parameters that are filled in later: what is returned is then still to be called.
        also: Arguments that it gets if its signature names them and the node does not.

    Raises:
        ConfigError: It cannot be built; the first line of the reason is in the message.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    target = check(node, path, (*given, *(also or {})))
    named, _ = parameters(target)
    filled = {
        name: value for name, value in (also or {}).items() if name in named and name not in node
    }
    partial = {"_partial_": True} if given else {}
    try:
        return instantiate({**node, **partial}, _convert_="all", **filled)
    except InstantiationException as error:
        words = reason(error.__cause__ or error)  # Hydra puts words of its own around it
        raise ConfigError(f"{path}={node['_target_']}: cannot be built: {words}") from None
