"""Weights as safetensors, with description and facts; the other commands read such files."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save

from mnist_lit.checkpoints.read import METADATA, read
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.export.source import Run, Source


def make(source: Source, int8: bool) -> bytes:
    """Return the file; it has one key of metadata, because the order of several is random."""
    about = {"network": source.network.description, "facts": source.facts.plain()}
    # Copies, because safetensors refuses tensors that share memory.
    state, usual = source.network.state_dict(), torch.contiguous_format
    tensors = {name: tensor.clone(memory_format=usual) for name, tensor in state.items()}
    return save(tensors, {METADATA: json.dumps(about, allow_nan=False)})


def load(content: bytes, source: Source) -> tuple[Run, list[str]]:
    """Read the file as every command does."""
    trust = [str(vars(source.network)["description"].get("_target_"))]
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "network").write_bytes(content)
        there = read(file, trust=trust)
    return lambda x: classify(there.network, torch.from_numpy(x), there.facts).numpy(), []
