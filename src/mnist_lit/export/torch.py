"""A program of ``torch.export``."""

import io

import torch

from mnist_lit.export.source import FromPixels, Run, Source

RELEASE = ".".join(torch.__version__.split(".")[:2])  # earlier releases may refuse the file
NEEDED = {"val", "nn_module_stack"}  # to run a program, and to unflatten it into modules


def make(source: Source, int8: bool) -> bytes:
    """Return the file, with its metadata and without data of the machine that made it."""
    side = source.facts.side
    example = (torch.zeros(2, 1, side, side, dtype=torch.uint8),)
    batch = torch.export.Dim("batch")
    program = torch.export.export(FromPixels(source), example, dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta = {key: node.meta[key] for key in NEEDED & node.meta.keys()}
    about = {**source.about, "pytorch": f"{RELEASE} or later"}
    text = "\n".join(f"{key}: {value}" for key, value in about.items())
    # torch would write a path into the archive.
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"about.txt": text})
    return file.getvalue()


def load(content: bytes, source: Source) -> tuple[Run, list[str]]:
    """Open the file in torch."""
    module = torch.export.load(io.BytesIO(content)).module()
    run = torch.inference_mode()(lambda pixels: module(torch.from_numpy(pixels)).numpy())
    return run, [f"needs PyTorch {RELEASE} or later"]
