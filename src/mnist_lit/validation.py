"""Check plain data against types: of a config, a checkpoint, a report or an argument.

Needs no torch.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le, Lt
from pydantic import ConfigDict, Strict, StringConstraints, TypeAdapter, ValidationError

from mnist_lit.errors import ConfigError, unknown
from mnist_lit.text import LONGEST, for_terminal

# For untrusted plain data: no unknown keys, no NaN. Each type below is strict itself, because a
# strict dataclass would refuse mappings.
PLAIN = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")
Switch = Annotated[bool, Strict()]
Probability = Annotated[float, Strict(), Ge(0), Lt(1)]
Share = Annotated[float, Strict(), Ge(0), Le(1)]
Seed = Annotated[int, Strict(), Ge(0), Lt(2**32)]
Positive = Annotated[int, Strict(), Ge(1), Lt(2**53)]
Number = Annotated[float, Strict(), Ge(-1e39), Le(1e39)]  # the range of 32-bit floats
Name = Annotated[str, Strict(), StringConstraints(pattern=r"\S")]
Target = Annotated[str, Strict(), StringConstraints(pattern=r"^[\w.]{1,200}$")]

# Words of pydantic, and plainer ones.
WORDS = {
    "Input ": "",
    "Value error, ": "",
    r"String should match pattern '\S'": "should be a name",
    "a valid boolean": "true or false",
    "valid dictionary": "mapping",
}


def validated(kind: Any, plain: Any, place: str = "") -> Any:
    """Make an instance of a type from plain data, which may be untrusted.

    Args:
        kind: A dataclass, a pydantic model or any other annotation.
        plain: The data.
        place: Its place, for the message.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or is out of bounds;
            the message names the first mistake.
    """
    try:
        return _adapter(kind).validate_python(plain)
    except ValidationError as mistakes:
        first = mistakes.errors(include_url=False, include_context=False)[0]
    place, kinds = _walk(kind, first["loc"], place)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        raise ConfigError(unknown(place, _names(kinds[-2])))
    if first["type"] in ("missing", "missing_argument"):
        raise ConfigError(f"{place}: a value is missing")
    value, words = first["input"], first["msg"].partition(" or instance")[0]
    for theirs, ours in WORDS.items():
        words = words.replace(theirs, ours)
    shown = value if isinstance(value, str) else reprlib.repr(value)
    raise ConfigError(f"{place}={for_terminal(shown)}: {words}")


@cache
def _adapter(kind: Any) -> Any:
    has_config = is_dataclass(kind) or hasattr(kind, "model_config")
    return TypeAdapter(kind, config=None if has_config else ConfigDict(strict=True))


def _walk(kind: Any, location: Sequence[int | str], place: str) -> tuple[str, list[Any]]:
    """Return a place extended by a location of pydantic, and the types along the location.

    The first type is the outermost. For a union the location also has the branch that pydantic
    tried; it is left out.
    """
    kinds = [_bare(kind)]
    for part in location:
        whole = kinds[-1]
        if get_origin(whole) in (Union, UnionType):
            continue
        place += f".{part}" if str(part).isidentifier() else f"[{reprlib.repr(part)}]"
        hints = get_type_hints(whole, include_extras=True) if _names(whole) else {}
        items = (Any, *get_args(whole))[-1]
        kinds.append(_bare(hints.get(str(part), items)))
    return place.removeprefix(".")[:LONGEST], kinds


def _bare(kind: Any) -> Any:
    """Return a type without ``Annotated`` and, if it is optional, without None."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not type(None)]
        return _bare(others[0]) if len(others) == 1 else kind
    return kind


def _names(kind: Any) -> list[str]:
    """Return the keys of a dataclass or a pydantic model, and none for any other type."""
    if is_dataclass(kind):
        return [one.name for one in fields(kind)]
    return list(getattr(kind, "model_fields", ()))
