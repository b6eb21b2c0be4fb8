"""A checkpoint read safely: a network from its description, and the facts of its data."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from mnist_lit.errors import CheckpointError, ConfigError, DataError, TrustError, reason
from mnist_lit.facts import MNIST, Facts
from mnist_lit.network.compact import CompactCNN
from mnist_lit.targets import check, trusted
from mnist_lit.validation import Target, validated

OURS = f"{CompactCNN.__module__}.{CompactCNN.__qualname__}"
MEGABYTE = 2**20
LARGEST = 512 * MEGABYTE  # of files: that of a network with 30 million parameters and its optimizer
LARGEST_DIRECTORY = 4 * MEGABYTE  # the names of a file's tensors
LARGEST_DESCRIPTION = 2 * MEGABYTE  # all but the numbers of the tensors; two seconds to read
# Calls that torch allows in a description, and that make gigabytes of a few bytes.
SWELLING = re.compile(rb"c(?:__builtin__|builtins)\nbytearray\n|c_codecs\nencode\n")


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
        described = known["network"]
        network = build_network(described, trust)
        _fill(network, weights(content))
        images = {"classes": len(facts.classes), "side": facts.side}
        if any(described.get(key, number) != number for key, number in images.items()):
            raise CheckpointError("its network is made for other images than it says")
    except TrustError as error:
        raise TrustError(f"{path}: its network's class {error}") from None
    except (CheckpointError, ConfigError, DataError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        raise CheckpointError(
            f"{path} is a checkpoint, but not one that this project's train.py wrote"
        ) from None
    return Trained(network.to(device).eval(), facts)


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, own in network.state_dict().items():
        if name in state and state[name].is_floating_point() != own.is_floating_point():
            raise CheckpointError(f"{name}: {state[name].dtype}, where {own.dtype} is expected")
    network.load_state_dict(dict(state))


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
    make = check(
        {"_target_": target if target == OURS else trusted(target, trust), **arguments}, "model"
    )
    try:
        with _float32():
            network = make(**arguments)
    except ConfigError:
        raise
    except Exception as error:  # whatever a class of the user's raises
        words = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise ConfigError(
            f"model={target}: cannot be built with {words or 'no arguments'}: {reason(error)}"
        ) from None
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model={target}: a torch.nn.Module is expected")
    if target != OURS:
        described = {"_target_": target, **arguments}
        network.description = described  # type: ignore[assignment]  # plain data, to torch no tensor
    return network


@contextmanager
def _float32() -> Iterator[None]:
    """Build in the arithmetic of this project, whatever the default of the caller's is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the network's own tensors of a checkpoint, by their names in the network.

    Raises:
        CheckpointError: One of them is no tensor, or has NaN in it.
        KeyError: There are none.
    """
    found: dict[str, Tensor] = {}
    for key, value in dict(content["state_dict"]).items():
        if str(key).startswith("network."):
            name = key.removeprefix("network.")
            plain = isinstance(value, Tensor) and value.layout is torch.strided
            if not plain or value.device.type != "cpu" or value.is_quantized:
                raise CheckpointError(f"{key!r:.100} is not an ordinary tensor")
            if count := int(value.isnan().sum()):
                raise CheckpointError(
                    f"{name}: {count:,} of its {value.numel():,} weights are not a number (NaN); "
                    "its training diverged: train again, with a lower learning rate"
                )
            found[name] = value
    return found


def read_file(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain data, onto the CPU; nothing in it is executed.

    Its size is bounded, and it is held against its own checksums, before anything is made of it.

    Raises:
        CheckpointError: There is no such file, or it is no checkpoint.
    """
    damaged = f"{path} is not a checkpoint, or a truncated or damaged one"
    try:
        if not path.is_file():
            there = "a folder without a checkpoint" if path.is_dir() else "there, but no file"
            kind = there if path.exists() else "not there"
            raise CheckpointError(
                f"{path} is {kind}; give the path of a checkpoint, as "
                "outputs/…/checkpoints/best.ckpt"
            )
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on what a stranger has put into the file
            if (words := _objection(file)) is not None:
                raise CheckpointError(f"{damaged}: {words}")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} carries Python objects, which could run code; it was not loaded. "
            "A checkpoint of this project holds only tensors and plain data"
        ) from None
    except Exception:  # a damaged archive raises whatever its first wrong byte leads to
        raise CheckpointError(damaged) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint of this project's train.py")
    return content


def _objection(file: IO[bytes]) -> str | None:
    """Say why an archive should not be read: too much to hold, or not what was written."""
    size = file.seek(0, os.SEEK_END)
    if size > LARGEST:
        return f"{size / MEGABYTE:,.0f} MB; at most {LARGEST // MEGABYTE} are read"
    file.seek(max(0, size - 22))
    end = file.read()
    if not end.startswith(b"PK\5\6"):
        return "it does not end as torch.save ends a file"
    if int.from_bytes(end[12:16], "little") > LARGEST_DIRECTORY:
        return "it has too many parts"
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        # torch compresses nothing.
        if any(p.compress_type for p in parts) or sum(p.file_size for p in parts) > size:
            return "it holds more than its size, which torch.save does not do"
        if (wrong := archive.testzip()) is not None:  # torch does not look at the checksums
            return f"{wrong!r:.100} in it does not have its checksum"
        for part in parts:
            if part.filename.endswith("data.pkl"):
                if part.file_size > LARGEST_DESCRIPTION:
                    return f"its description is larger than {LARGEST_DESCRIPTION // MEGABYTE} MB"
                if SWELLING.search(archive.read(part)):
                    return "its description holds bytes, and not only plain data"
    file.seek(0)
    return None
