"""Import a ``_target_``, check its arguments against its signature, and build it.

Building runs the code of the target: an untrusted config is an untrusted program.
"""

import inspect
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import FiniteFloat

from mnist_lit.errors import ConfigError, TrustError, UserError, reason, unknown
from mnist_lit.validation import Name, Positive, Probability, Share, validated

T = TypeVar("T")

_Above0 = Annotated[FiniteFloat, Gt(0)]
_From0 = Annotated[FiniteFloat, Ge(0)]
_Rate = Annotated[FiniteFloat, Gt(0), Le(1000)]
_Whole = Annotated[int, Ge(0), Lt(2**53)]
_Batches = Annotated[int | float, Gt(0)]  # a number, or a share of them
_Devices = Annotated[int, Le(1024)]
# Bounds that torch and Lightning do not check themselves, by the package of the target. Bounds of
# this project's parameters are in their signatures.
BOUNDS: dict[str, dict[str, Any]] = {
    "torch.optim": {
        **dict.fromkeys(("lr", "max_lr"), _Rate | list[_Rate]),
        **dict.fromkeys(("weight_decay",), Annotated[FiniteFloat, Ge(0), Le(1000)]),
        **dict.fromkeys(("momentum", "base_momentum", "max_momentum", "alpha", "rho"), Probability),
        **dict.fromkeys(("dampening", "factor", "start_factor", "end_factor"), Share),
        **dict.fromkeys(("eps", "eta_min", "threshold", "min_lr"), _From0 | list[_From0]),
        **dict.fromkeys(("div_factor", "final_div_factor"), _Above0),
        **dict.fromkeys(("patience", "cooldown", "total_iters"), _Whole),
        "betas": list[Probability],
        "gamma": Annotated[FiniteFloat, Gt(0), Le(10)],
        "pct_start": Annotated[float, Gt(0), Lt(1)],
        "step_size": Positive,
    },
    "torch.nn": {"label_smoothing": Probability},
    "pytorch_lightning.trainer": {
        **dict.fromkeys(("limit_train_batches", "limit_val_batches"), _Batches),
        **dict.fromkeys(("accumulate_grad_batches", "check_val_every_n_epoch"), Positive),
        "devices": _Devices | str | list[int],
        "num_nodes": _Devices,
        "max_epochs": Positive,
        "gradient_clip_val": _Above0,
        "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps"],
        "precision": Literal["auto", "32-true", "bf16-mixed", "16-mixed"],
        "strategy": Literal["auto", "ddp"],
    },
    "pytorch_lightning.callbacks": {"monitor": Name, "patience": _Whole, "min_delta": _From0},
    "pytorch_lightning.loggers": dict.fromkeys(
        ("project", "experiment_name", "tracking_uri"), Name
    ),
}


def check(node: Mapping[str, Any], path: str, given: Collection[str] = ()) -> Callable[..., Any]:
    """Check the arguments of a node against the signature of its target, and return the target.

    A value is checked against its annotation if that has only plain types, as ``int | None`` or
    ``Annotated[float, Ge(0)]``.

    Args:
        node: A node of the config, with a ``_target_``.
        path: Its place in the config.
        given: Parameters that ``build`` adds.

    Raises:
        ConfigError: There is no such target, or it does not take these arguments.
    """
    target = find(node.get("_target_"), path)
    named, anything = parameters(target)
    home = getattr(target, "__module__", "")
    bounds = next((rows for package, rows in BOUNDS.items() if home.startswith(package)), {})
    for name, value in node.items():
        if name == "_partial_" and type(value) is not bool:
            raise ConfigError(f"{path}._partial_={value}: true or false is expected")
        if name in named:
            _check_value(named[name], bounds.get(name), value, f"{path}.{name}")
        elif not (anything or name.startswith("_")):
            raise ConfigError(unknown(f"{path}.{name}", [n for n in named if n not in given]))
    if not node.get("_partial_"):
        for name, parameter in named.items():
            if parameter.default is parameter.empty and name not in (*node, *given):
                raise ConfigError(f"{path}.{name}: a value is missing, {node['_target_']} needs it")
    return target


def _check_value(parameter: inspect.Parameter, bound: Any, value: Any, place: str) -> None:
    annotation, default = parameter.annotation, parameter.default
    # The text of pydantic's constraints contains `=None`, which does not make a type optional.
    text = str(annotation)
    optional = default in (None, parameter.empty) or re.search("(?<!=)None|Optional", text)
    if value is None and not optional:
        raise ConfigError(f"{place}=null: a value is expected")
    if value is None or (isinstance(value, Mapping) and "_target_" in value):
        return  # Hydra builds a nested node
    kind = annotation if bound is None else bound
    if kind is parameter.empty and type(default) is bool:
        kind = bool
    if _is_plain(kind):
        validated(kind, value, place)


def _is_plain(annotation: Any) -> bool:
    """Return whether a type consists of numbers, strings, and lists and mappings of these."""
    inner, origin = get_args(annotation), get_origin(annotation)
    if origin in (Annotated, Literal):
        return True  # the annotation has bounds or values
    if origin in (tuple, type, Callable):
        return False  # YAML has no tuples
    if inner:
        texts = [get_args(one)[0] if get_origin(one) is Annotated else one for one in inner]
        return all(_is_plain(one) or (one is Path and str in texts) for one in inner)
    return annotation in (int, float, bool, str, type(None), list, dict)


def find(target: Any, path: str) -> Callable[..., Any]:
    """Import the class or function of a dotted name, if need be from the working folder.

    Raises:
        ConfigError: The target is no string, cannot be imported, or cannot be called.
    """
    if not isinstance(target, str):
        raise ConfigError(f"{path}: a mapping with `_target_`, a class or function, is expected")
    package = target.partition(".")[0]
    try:
        # Only for a class that is nowhere else, because Hydra and torch import optional modules by
        # name. The folder stays on the path for later imports, also those of worker processes.
        if package not in sys.modules and find_spec(package) is None and "" not in sys.path:
            sys.path.append("")
        found = resolve_name(target)
    except Exception as error:  # the import of a user's module may raise anything
        words = f"cannot be built: {reason(error)}; can Python import it from this folder?"
        raise ConfigError(f"{path}={target}: {words}") from None
    if not callable(found):
        raise ConfigError(f"{path}={target}: it cannot be called, a class or function is expected")
    return found


def parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the named parameters, and whether the target takes ``**kwargs``."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except ValueError:  # some built-in classes have no signature
        return {}, True
    except Exception:  # an annotation that only a type checker can evaluate
        signature = inspect.signature(target)
    found = signature.parameters.values()
    named = {p.name: p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in found)


def trusted(target: str, trust: Collection[str]) -> str:
    """Return the name of a class in a checkpoint if the user trusts it.

    Raises:
        TrustError: The user does not trust it.
    """
    if target not in trust:
        words = "is not a class of this project, and importing it runs its code; if you trust it,"
        raise TrustError(f"{target} {words} give --trust {target} (in Python trust=[{target!r}])")
    return target


def build(
    node: Mapping[str, Any],
    path: str,
    later: Sequence[str] = (),
    kind: type[T] | None = None,
    **known: Any,
) -> T:
    """Check a node and build it, as ``hydra.utils.instantiate`` does.

    Args:
        node: A node of the config, with a ``_target_``.
        path: Its place in the config.
        later: Parameters that the caller adds later; the node is built with ``_partial_: true``.
        kind: The class that the result must be an instance of.
        known: Arguments that it gets if its signature has them and the node does not.

    Raises:
        ConfigError: It cannot be built; the message has the first line of the reason.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    target = check(node, path, (*later, *known))
    named, _ = parameters(target)
    filled = {name: value for name, value in known.items() if name in named and name not in node}
    # Hydra imports the targets of nested nodes, but not from the working folder.
    for nested in re.findall(r"'_target_': '([\w.]+)'", str(node)):
        find(nested, path)
    try:
        # Hydra would copy the objects in `filled`.
        built = instantiate({**node, "_partial_": True}, _convert_="all")
        if not (later or node.get("_partial_")):
            built = built(**filled)
    except UserError:
        raise
    except Exception as error:  # a class may raise anything, and Hydra wraps it
        hydras = isinstance(error, InstantiationException) and error.__cause__
        words = reason(error.__cause__ if hydras and error.__cause__ else error)
        raise ConfigError(f"{path}={node['_target_']}: cannot be built: {words}") from error
    if kind is not None and not isinstance(built, kind):
        raise ConfigError(f"{path}={node['_target_']}: a {kind.__name__} is expected")
    return cast(T, built)
