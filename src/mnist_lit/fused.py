"""Max-pool, batch norm and ReLU in one operation, for training on a CPU.

torch runs them one after the other, each in passes of its own over the whole map, and in bfloat16
handles channels beyond a multiple of 16 one value at a time. ``fused.c`` does the same in two
passes forward and two backward. It is compiled when first needed, by the C compiler that ``CC``
names (``cc`` unless set), and kept in the user's cache; without a compiler torch's operations run.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SOURCE = Path(__file__).with_name("fused.c")
NAMES = {torch.bfloat16: "bf16", torch.float32: "f32"}
POSITION_TYPES = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def usable(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Say whether :func:`pool_norm_relu` can be used on a map."""
    return (
        x.device.type == "cpu"
        and x.dtype in NAMES
        and norm.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and library(norm.num_features) is not None
    )


def pool_norm_relu(
    x: Float[Tensor, "b c h w"], norm: nn.BatchNorm2d, pool: bool
) -> Float[Tensor, "b c i j"]:
    """Pool 2×2 if wanted, normalise by the batch's statistics, and cut off below 0.

    Args:
        x: A map for which :func:`usable` holds.
        norm: Gives scale and shift; its running statistics are updated as in training.
        pool: Whether to take the maximum of each 2×2 window first.
    """
    return _PoolNormReLU.apply(x, norm.weight, norm.bias, norm, pool)


class _PoolNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pool: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        y = _empty((n, c, h // 2, w // 2) if pool else (n, c, h, w), x.dtype)
        pooled = torch.empty_like(y) if pool else x
        positions = torch.empty_like(y, dtype=POSITION_TYPES[x.dtype]) if pool else None
        mean, var = torch.empty(c), torch.empty(c)
        _call(
            *("forward", x, x, pooled, positions, y, weight.detach(), bias.detach()),
            *(norm.eps, mean, var, n, h, w, pool),
        )
        count = y.numel() // c
        # What torch declares optional is there in a BatchNorm2d made with its defaults.
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (count / max(count - 1, 1)), norm.momentum)
        norm.num_batches_tracked += 1
        ctx.save_for_backward(y, pooled, positions, weight, mean, var)
        ctx.options = n, c, h, w, norm.eps, pool
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        y, pooled, positions, weight, mean, var = ctx.saved_tensors
        n, c, h, w, eps, pool = ctx.options
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = _empty((n, c, h, w), y.dtype), torch.empty(c), torch.empty(c)
        _call(
            *("backward", y, dy, y, pooled, positions, dx, weight, mean, var, eps),
            *(dweight, dbias, n, h, w, pool),
        )
        return dx, dweight, dbias, None, None


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _call(name: str, like: Tensor, *arguments: Tensor | float | int | None) -> None:
    loaded = library(like.shape[1])
    assert loaded is not None
    loaded[f"{name}_{NAMES[like.dtype]}"](
        *(
            ctypes.c_void_p(value.data_ptr())
            if isinstance(value, Tensor)
            else ctypes.c_float(value)
            if isinstance(value, float)
            else value
            for value in arguments
        )
    )


@cache
def library(channels: int) -> ctypes.CDLL | None:
    """Compile and load the operations for maps of so many channels; None if that cannot be done."""
    # The OpenMP that torch has loaded: with another, two sets of threads would fight for the cores.
    openmp = [str(file) for file in (Path(torch.__file__).parent / "lib").glob("libgomp*")]
    command = [
        *(os.environ.get("CC", "cc"), "-O3", "-march=native", "-fopenmp"),
        # Sums may be taken in any order, but not a number must stay what it is.
        *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
        *("-shared", "-fPIC", f"-DC={channels}", str(SOURCE), *openmp, "-lm"),
    ]
    try:
        # For this source, compiler call and processor; a home may be shared by several machines.
        parts = [SOURCE.read_text(), str(command), _processor()]
        name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mnist-lit"
        file = folder / f"fused-{name}.so"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                new = Path(unfinished) / file.name
                subprocess.run([*command, "-o", str(new)], check=True, capture_output=True)
                new.replace(file)
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("flags")), "")
