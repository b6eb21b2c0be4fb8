"""A checkpoint read safely: a network from its description, and the facts of its data."""

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
LARGEST = 2**29  # bytes: those of a network with 30 million parameters and its optimizer
MOST = f"at most {LARGEST // 2**20} MB are read"
MOST_PARTS = 50_000  # of a checkpoint: a tensor each
TEXTS = str | bytes | bytearray
METADATA = "mnist-lit"  # the key under which a file of safetensors has network and facts, as JSON


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Attributes:
        network: In evaluation mode; maps normalised ``float32 [B, 1, side, side]`` to logits
            ``[B, classes]``.
        facts: Of the images that it was trained on.
    """

    network: nn.Module
    facts: Facts


def read(path: Path, device: Any = "cpu", trust: Collection[str] = ()) -> Trained:
    """Rebuild a network from a checkpoint. Nothing in the file is executed, whoever wrote it.

    Args:
        path: Of the file.
        device: Where the network is put.
        trust: Classes that may be imported, beside those of this project.

    Raises:
        CheckpointError: There is no such file, or it is not a checkpoint of this project.
        TrustError: Its network is of a class that is not trusted.
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
    """Make a network from plain data: its class, unless it is ours, and the arguments.

    It gets an attribute ``description``, which is what a checkpoint keeps.

    Raises:
        ConfigError: The class cannot be imported, does not take these arguments, or is no network.
        TrustError: It is a class that is not trusted.
    """
    arguments = {key: value for key, value in description.items() if not key.startswith("_")}
    target = description.get("_target_", OURS)
    validated(Target, target, "model._target_")
    node = {"_target_": target, **arguments}
    if target != OURS:
        trusted(target, trust)
    make = check(node, "model")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # whatever the caller's is
    try:
        network = make(**arguments)
    except ConfigError:
        raise
    except Exception as error:  # whatever a class of the user's raises
        raise ConfigError(f"model={target}: cannot be built: {reason(error)}") from None
    finally:
        torch.set_default_dtype(before)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model={target}: a torch.nn.Module is expected")
    if target != OURS:
        network.description = node  # type: ignore[assignment]  # plain data, to torch no tensor
    return network


def weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the network's own tensors of a checkpoint, by their names in the network.

    Raises:
        CheckpointError: One of them has NaN in it.
        KeyError: There are none.
        TypeError: One of them is no tensor.
        RuntimeError: One of them has no numbers.
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
    """Read a checkpoint or a file of safetensors; see :func:`unpacked`.

    Raises:
        CheckpointError: There is no such file, or it is neither.
        OSError: It may not be read.
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
    """Read a checkpoint or a file of safetensors, onto the CPU; nothing in it is executed.

    Args:
        file: Its content.

    Raises:
        CheckpointError: It is neither, or too large; the message begins with a verb.
    """
    try:
        if len(file) > LARGEST:
            raise CheckpointError(f"it is too large: {MOST}")
        if file[8:9] == b"{":
            return _from_safetensors(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on what a stranger has put into the file
            content = torch.load(_checked(file), map_location="cpu", weights_only=True)
        # Tensors may share their numbers, and one may repeat a single number.
        if sum(math.prod(t.shape) * t.itemsize for t in _tensors(content)) > LARGEST:
            raise CheckpointError(f"its tensors are too large: {MOST}")
        return content
    except pickle.UnpicklingError:
        words = "tensors and plain data (numbers, text, lists, mappings) are loaded, and no more"
        raise CheckpointError(f"carries Python objects, which could run code: {words}") from None
    except Exception as error:  # a damaged archive raises whatever its first wrong byte leads to
        words = f": {error}" if isinstance(error, CheckpointError) else ""
        raise CheckpointError(f"is not a checkpoint, or truncated or damaged{words}") from None


def _from_safetensors(file: bytes) -> dict[str, Any]:
    """Return the content in the form of a checkpoint."""
    length = int.from_bytes(file[:8], "little")  # of the header, in JSON
    if length > 2**20:
        raise CheckpointError("its header is larger than 1 MB")
    tensors = {f"network.{name}": tensor for name, tensor in load(file).items()}
    header = json.loads(file[8 : 8 + length])
    about = json.loads(header.get("__metadata__", {}).get(METADATA, "{}"))
    return {"hyper_parameters": about, "state_dict": tensors}


def _checked(file: bytes) -> BytesIO:
    """Return the archive that torch reads: the parts that have their checksums, packed anew.

    torch looks at no checksum, and another reader may find other parts in the same file.
    """
    if file.count(b"PK\1\2") > MOST_PARTS:  # how the directory names each
        raise CheckpointError("it has too many parts")
    packed = BytesIO()
    with ZipFile(BytesIO(file)) as archive, ZipFile(packed, "w") as again:
        if sum(part.file_size for part in archive.infolist()) > len(file):
            raise CheckpointError("it holds more than its size, which torch.save does not do")
        for part in archive.infolist():
            again.writestr(part.filename, archive.read(part))
    packed.seek(0)
    return packed


def _tensors(content: Any) -> Iterator[Tensor]:
    found, seen = [content], set()
    for one in found:  # which grows
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, Collection) and not isinstance(one, TEXTS) and id(one) not in seen:
            seen.add(id(one))
            found.extend(one)
            found.extend(one.values() if isinstance(one, Mapping) else ())
