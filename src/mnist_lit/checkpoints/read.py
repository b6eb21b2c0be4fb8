"""Read a checkpoint safely: its network, rebuilt from a description, and its facts."""

import json
import math
import pickle
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors.torch import load
from torch import Tensor, nn

from mnist_lit.errors import CheckpointError, ConfigError, TrustError, reason
from mnist_lit.facts import MNIST, Facts
from mnist_lit.network.compact import CompactCNN
from mnist_lit.targets import check, trusted
from mnist_lit.validation import Target, validated

OURS = f"{CompactCNN.__module__}.{CompactCNN.__qualname__}"
LARGEST = 2**29  # bytes: a network with 30 million parameters and its optimizer's state
MOST = f"at most {LARGEST // 2**20} MB are read"
MOST_PARTS = 50_000  # of a checkpoint; each tensor is one
TEXTS = str | bytes | bytearray
METADATA = "mnist-lit"  # metadata key of a safetensors file: network and facts, as JSON


@dataclass(frozen=True)
class Trained:
    """A trained network and its facts.

    Attributes:
        network: In evaluation mode; maps normalised ``float32 [B, 1, side, side]`` to logits
            ``[B, classes]``.
        facts: Facts of its training images.
    """

    network: nn.Module
    facts: Facts


def read(path: Path, device: Any = "cpu", trust: Collection[str] = ()) -> Trained:
    """Rebuild a network from a checkpoint. No code in the file is executed.

    Args:
        path: The checkpoint.
        device: Device of the network.
        trust: Classes of other packages that may be imported.

    Raises:
        CheckpointError: There is no such file, or it is not a checkpoint of this project.
        TrustError: The class of its network is not trusted.
    """
    content = read_file(path)
    try:
        known = content["hyper_parameters"]
        facts = Facts.of(known["facts"]) if "facts" in known else MNIST
        network = build_network(known["network"], trust)
        network.load_state_dict(weights(content))
    except TrustError as error:
        raise TrustError(f"{path}: its network's class {error}") from None
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        raise CheckpointError(f"{path}: not one that this project's train.py wrote") from None
    return Trained(network.to(device).eval(), facts)


def build_network(description: Mapping[str, Any], trust: Collection[str] = ()) -> nn.Module:
    """Build a network from its description: a class (default: ``CompactCNN``) and its arguments.

    The network has an attribute ``description``, which checkpoints contain.

    Raises:
        ConfigError: The class cannot be imported, does not take these arguments, or is no network.
        TrustError: The class is not trusted.
    """
    arguments = {key: value for key, value in description.items() if not key.startswith("_")}
    target = description.get("_target_", OURS)
    validated(Target, target, "model._target_")
    node = {"_target_": target, **arguments}
    if target != OURS:
        trusted(target, trust)
    make = check(node, "model")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # whatever the caller has set
    try:
        network = make(**arguments)
    except ConfigError:
        raise
    except Exception as error:  # a user's class may raise anything
        raise ConfigError(f"model={target}: cannot be built: {reason(error)}") from None
    finally:
        torch.set_default_dtype(before)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model={target}: a torch.nn.Module is expected")
    if target != OURS:
        network.description = node  # type: ignore[assignment]  # torch expects a tensor or a module
    return network


def weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the network's tensors from a checkpoint, by their names in the network.

    Raises:
        CheckpointError: A tensor contains NaN.
        KeyError: The checkpoint has no ``state_dict``.
        TypeError: A value is no tensor.
        RuntimeError: torch cannot read a tensor's values.
    """
    found: dict[str, Tensor] = {}
    for key, value in dict(content["state_dict"]).items():
        if str(key).startswith("network."):
            name = key.removeprefix("network.")
            if count := int(torch.isnan(value).sum()):
                many = f"{count:,} of its {value.numel():,} weights are not a number (NaN)"
                words = "its training diverged: train again, with a lower learning rate"
                raise CheckpointError(f"{name}: {many}; {words}")
            found[name] = value
    return found


def read_file(path: Path) -> dict[str, Any]:
    """Read a checkpoint or a file of safetensors; see ``unpacked``.

    Raises:
        CheckpointError: There is no such file, or it is neither.
        OSError: The file is not readable.
    """
    try:
        if not path.is_file():
            kind = "a folder without a checkpoint" if path.is_dir() else "not there"
            raise CheckpointError(f"is {kind}; give a checkpoint, as outputs/…/best.ckpt")
        with path.open("rb") as file:
            content = unpacked(file.read(LARGEST + 1))
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint of this project's train.py")
    return content


def unpacked(file: bytes) -> Any:
    """Load a checkpoint or a file of safetensors onto the CPU; no code in it is executed.

    Args:
        file: The content of the file.

    Raises:
        CheckpointError: The file is neither, or too large; the message begins with a verb.
    """
    try:
        if len(file) > LARGEST:
            raise CheckpointError(f"it is too large: {MOST}")
        if file[8:9] == b"{":
            return _from_safetensors(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about odd content
            content = torch.load(_checked(file), map_location="cpu", weights_only=True)
        # A small file can hold large tensors: they share memory, or expand a single value.
        if sum(math.prod(t.shape) * t.itemsize for t in _tensors(content)) > LARGEST:
            raise CheckpointError(f"its tensors are too large: {MOST}")
        return content
    except pickle.UnpicklingError:
        words = "only tensors and plain data (numbers, text, lists, mappings) are loaded"
        raise CheckpointError(f"contains Python objects, which could run code: {words}") from None
    except Exception as error:  # a damaged archive may raise anything
        words = f": {error}" if isinstance(error, CheckpointError) else ""
        raise CheckpointError(f"is not a checkpoint, or truncated or damaged{words}") from None


def _from_safetensors(file: bytes) -> dict[str, Any]:
    """Return the content in the layout of a checkpoint."""
    length = int.from_bytes(file[:8], "little")  # of the header, in JSON
    if length > 2**20:
        raise CheckpointError("its header is larger than 1 MB")
    tensors = {f"network.{name}": tensor for name, tensor in load(file).items()}
    header = json.loads(file[8 : 8 + length])
    about = json.loads(header.get("__metadata__", {}).get(METADATA, "{}"))
    return {"hyper_parameters": about, "state_dict": tensors}


def _checked(file: bytes) -> BytesIO:
    """Check the checksums of the archive's parts, and return the parts in a new archive for torch.

    torch ignores the checksums, and may find other parts in the same file than ``zipfile`` does.
    """
    if file.count(b"PK\1\2") > MOST_PARTS:  # the signature of a directory entry
        raise CheckpointError("it has too many parts")
    packed = BytesIO()
    with ZipFile(BytesIO(file)) as archive, ZipFile(packed, "w") as again:
        if sum(part.file_size for part in archive.infolist()) > len(file):
            raise CheckpointError("its parts are compressed or overlap, unlike torch.save's")
        for part in archive.infolist():
            again.writestr(part.filename, archive.read(part))
    packed.seek(0)
    return packed


def _tensors(content: Any) -> Iterator[Tensor]:
    found, seen = [content], set()
    for one in found:  # the list grows in the loop
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, Collection) and not isinstance(one, TEXTS) and id(one) not in seen:
            seen.add(id(one))
            found.extend(one)
            found.extend(one.values() if isinstance(one, Mapping) else ())
