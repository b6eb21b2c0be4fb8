"""Max-pool, batch norm and ReLU fused in C, for training on a CPU.

torch runs max-pool, batch norm and ReLU one after the other, each in passes of its own over the
whole map, and in bfloat16 handles channels beyond a multiple of 16 one value at a time. ``fused.c``
does the same in two passes forward and two backward, and never writes the first convolution's map,
the largest of all, where a max-pool follows it. It is compiled when first needed, by the C compiler
that ``CC`` names (``cc`` unless set), and kept in a private folder of the user's cache. Where that
fails torch's operations run, and :func:`describe` says why.
"""

import ctypes
import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mnist_lit import folders
from mnist_lit.errors import reason
from mnist_lit.files import whole

SOURCE = Path(__file__).with_name("fused.c")
NAMES = {torch.bfloat16: "bf16", torch.float32: "f32"}
POSITION_TYPES = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
LIMIT = 60.0  # seconds that a compiler may take
_compilers: list[str] = []  # of the operations that were loaded
_failures: list[str] = []  # why others were not


def usable(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Say whether :func:`pool_norm_relu` can be used on a map."""
    return (
        x.device.type == "cpu"
        and x.dtype in NAMES
        and norm.weight.dtype == torch.float32
        and norm.running_mean is not None
        and norm.momentum is not None
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
        kept = torch.empty(4, c, dtype=torch.float32)
        # torch declares it optional; it is there where running statistics are.
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
        running = norm.running_mean, norm.running_var, norm.momentum
        maps = x, pooled, positions, y
        _call("forward", x, *maps, weight, bias, *running, norm.eps, kept, n, h, w, pool)
        ctx.save_for_backward(pooled, positions, kept)
        ctx.options = n, h, w, pool
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        pooled, positions, kept = ctx.saved_tensors
        n, h, w, pool = ctx.options
        c = pooled.shape[1]
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = _empty((n, c, h, w), dy.dtype)
        dweight, dbias = (torch.empty(c, dtype=torch.float32) for _ in range(2))
        maps = dy, pooled, positions, dx
        _call("backward", pooled, *maps, kept, dweight, dbias, n, h, w, pool)
        return dx, dweight, dbias, None, None


def convolves(x: Tensor, conv: nn.Conv2d) -> bool:
    """Say whether :func:`conv_pool` can be used on images."""
    return (
        x.device.type == "cpu"
        and x.shape[1] == 1
        and not x.requires_grad
        and x.dtype == conv.weight.dtype == torch.float32
        and conv.bias is None
        and conv.padding[0] == conv.kernel_size[0] // 2
        and _computed() in NAMES
        and not torch.compiler.is_compiling()
        and library(conv.out_channels) is not None
    )


def conv_pool(x: Float[Tensor, "b 1 h w"], conv: nn.Conv2d) -> Float[Tensor, "b c i j"]:
    """Convolve images of one channel and take the maximum of each 2×2 window.

    Args:
        x: Images for which :func:`convolves` holds.
        conv: Square, with stride 1 and zeros around the image that keep its size.
    """
    return _ConvPool.apply(x, conv.weight)


class _ConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.contiguous(), weight.detach().contiguous()
        (n, _, h, w), (c, _, _, size) = x.shape, weight.shape
        pooled = _empty((n, c, h // 2, w // 2), _computed())
        positions = torch.empty_like(pooled, dtype=POSITION_TYPES[pooled.dtype])
        _call("conv_pool_forward", pooled, x, weight, pooled, positions, n, h, w, size)
        ctx.save_for_backward(x, positions)
        ctx.shape = weight.shape
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        x, positions = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dweight = torch.empty(ctx.shape, dtype=torch.float32)
        n, _, h, w = x.shape
        size = ctx.shape[-1]
        _call("conv_pool_backward", gradient, gradient, x, positions, dweight, n, h, w, size)
        return None, dweight


def _computed() -> torch.dtype:
    autocast = torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if autocast else torch.float32


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _call(name: str, like: Tensor, *arguments: Tensor | float | int | None) -> None:
    function = getattr(library(like.shape[1]), f"{name}_{NAMES[like.dtype]}")
    function(*map(_for_c, arguments))


def _for_c(argument: Tensor | float | int | None) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else argument


@cache
def library(channels: int) -> ctypes.CDLL | None:
    """Compile and load the operations for maps of so many channels; None if that cannot be done.

    Once it could not be done it is not tried again.
    """
    if _failures:
        return None
    try:
        file = _compiled(channels)
        loaded = ctypes.CDLL(str(file))
    except (CompileError, OSError) as error:
        _failures.append(reason(error))
        return None
    # Compilers write their name and version into their files.
    made_by = re.search(rb"(GCC|clang)(?:: \([^)\0]*\)| version) ([\d.]+)", file.read_bytes())
    _compilers.append(b" ".join(made_by.groups()).decode().lower() if made_by else "compiled")
    return loaded


def describe() -> str:
    """Say which operations train on a CPU and, where they are torch's, why."""
    if not _compilers and not _failures:
        library(12)  # as good as any other: the first block of `final` has so many
    words = [f"C operations: {_compilers[-1]}"] if _compilers else []
    words += [f"torch's operations, because {why}" for why in _failures]
    return "; in part ".join(words)


def _compiled(channels: int) -> Path:
    """Return the path of the library, which is compiled unless the cache has it.

    Raises:
        CompileError: It cannot be compiled.
        OSError: The cache cannot be written to, or others than the user may enter it.
    """
    if sys.platform != "linux":
        raise OSError("they are compiled on Linux alone")
    folder = folders.cache() / "operations"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise OSError(f"{folder} is not this user's alone (mode 700); remove it")
    # The OpenMP that torch has loaded: with another, two sets of threads would fight for the cores.
    openmp = [str(file) for file in (Path(torch.__file__).parent / "lib").glob("libgomp*")]
    # Sums may be taken in any order, but without -ffinite-math-only: NaN must propagate.
    options = (
        "-O3 -march=native -fopenmp -fassociative-math -fno-signed-zeros -fno-trapping-math "
        f"-fno-math-errno -shared -fPIC -DC={channels}"
    ).split()
    options += [str(SOURCE), *openmp, "-lm"]
    # A home may be shared by several machines: the processor's features are part of the name.
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = [SOURCE.read_text(), str([os.environ.get("CC"), *options]), features]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    file = folder / f"fused-{name}.so"
    if not file.exists():
        # Processes that compile at once write to files of their own; the last one's stays.
        with whole(file) as draft:
            compile_c([*options, "-o", str(draft)])
    return file


class CompileError(Exception):
    """The C compiler has not done its work; the message is a line."""


def compile_c(options: Sequence[str], text: str = "") -> None:
    """Run the C compiler that ``CC`` names, in the words of a shell.

    Args:
        options: What it is to do.
        text: What it finds on its standard input.

    Raises:
        CompileError: There is none, it fails, or it takes more than :data:`LIMIT`.
    """
    named = os.environ.get("CC", "").strip() or "cc"
    compiler = named.split()[0]
    try:
        command = [*shlex.split(named), *options]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=LIMIT
        )
    except (OSError, ValueError):  # the second: no words of a shell
        raise CompileError(f"{compiler}: no such C compiler; name one in CC") from None
    except subprocess.TimeoutExpired:
        raise CompileError(f"{compiler}: it took more than {LIMIT:g} s; see CC") from None
    if done.returncode:
        lines = done.stderr.splitlines() or [f"it failed with status {done.returncode}"]
        line = next((line for line in lines if "error" in line), lines[0])
        raise CompileError(f"{compiler}: {line.strip()}")
