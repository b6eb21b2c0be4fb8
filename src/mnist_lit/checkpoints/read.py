"""A checkpoint read safely: a network from its description, and the facts of its data."""

import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mnist_lit.errors import CheckpointError, ConfigError, DataError, TrustError, reason
from mnist_lit.facts import MNIST, Facts
from mnist_lit.network.compact import CompactCNN
from mnist_lit.targets import check, trusted

OURS = f"{CompactCNN.__module__}.{CompactCNN.__qualname__}"


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
    content = read_file(path, device)
    try:
        known = content["hyper_parameters"]
        facts = Facts.of(known["facts"]) if "facts" in known else MNIST
        network = build_network(known["network"], trust)
        network.load_state_dict(weights(content))
    except TrustError as error:
        raise TrustError(f"{path}: its network's class {error}") from None
    except ConfigError as error:
        if known["network"].get("_target_", OURS) == OURS:
            raise _foreign(path) from None
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, DataError):
        raise _foreign(path) from None
    return Trained(network.to(device).eval(), facts)


def _foreign(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a checkpoint, but not one that this project's train.py wrote"
    )


def build_network(description: Mapping[str, Any], trust: Collection[str] = ()) -> nn.Module:
    """Make a network from plain data: its class, unless it is ours, and the arguments.

    It gets an attribute ``description``, which is what a checkpoint keeps.

    Raises:
        ConfigError: The class cannot be imported, does not take these arguments, or is no network.
        TrustError: It is a class that is not trusted.
    """
    arguments = {key: value for key, value in description.items() if not key.startswith("_")}
    target = description.get("_target_", OURS)
    if target == OURS:
        return CompactCNN(**arguments)
    make = check({"_target_": trusted(target, trust), **arguments}, "model")
    try:
        network = make(**arguments)
    except Exception as error:  # whatever a class of the user's raises
        words = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise ConfigError(
            f"model={target}: cannot be built with {words or 'no arguments'}: {reason(error)}"
        ) from None
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model={target}: a torch.nn.Module is expected")
    # torch types a module's attributes as tensors and modules; this one is plain data.
    network.description = {"_target_": target, **arguments}  # type: ignore[assignment]
    return network


def weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's own tensors of a checkpoint, by their names in the network."""
    state: dict[str, Any] = content["state_dict"]
    return {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}


def read_file(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """Read a file of tensors and plain data; nothing in it is executed.

    Raises:
        CheckpointError: There is no such file, or it is no checkpoint.
    """
    if not path.is_file():
        kind = "a folder, not a file" if path.is_dir() else "not there"
        raise CheckpointError(
            f"{path} is {kind}; give the path of a checkpoint, as outputs/…/checkpoints/best.ckpt"
        )
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except PermissionError:
        raise CheckpointError(f"{path} cannot be read: permission denied") from None
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() and path.read_bytes()[:2] == b"PK":
            raise CheckpointError(
                f"{path} carries Python objects, which could run code; it was not loaded. "
                "A checkpoint of this project holds only tensors and plain data"
            ) from None
        raise CheckpointError(f"{path} is not a checkpoint") from None
    except Exception:  # a damaged archive raises whatever its first wrong byte leads to
        raise CheckpointError(
            f"{path} is not a checkpoint, or a truncated or damaged one"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint of this project's train.py")
    return content
