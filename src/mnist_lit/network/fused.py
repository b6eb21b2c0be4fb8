"""Max-pool, batch norm and ReLU fused in C, for training on a CPU.

torch runs max-pool, batch norm and ReLU one after the other, each in its own passes over the whole
map. In bfloat16 it handles channels beyond a multiple of 16 one value at a time. ``fused.c``
computes the same in two passes forward and two backward. It never writes the largest map, the
output of the first convolution, if a max-pool follows. The C compiler in ``CC`` (default: ``cc``)
compiles it on first use, into a private folder of the user's cache. If that fails, torch's
operations run instead, and ``describe`` gives the reason.
"""

import ctypes
import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache, partial
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
LIMIT = 60.0  # seconds, for a compiler
_compilers: list[str] = []  # of the loaded libraries
_failures: list[str] = []  # why others could not be loaded


def usable(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Return whether ``pool_norm_relu`` supports this map and this batch norm."""
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
    """Max-pool 2×2 if ``pool``, then apply batch norm by the batch's statistics, and ReLU.

    Args:
        x: A map that ``usable`` accepts.
        norm: The batch norm; its running statistics are updated.
        pool: Whether to max-pool first.
    """
    return _PoolNormReLU.apply(x, norm.weight, norm.bias, norm, pool)


class _PoolNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pool: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        y = _empty((n, c, h // 2, w // 2) if pool else (n, c, h, w), dtype=x.dtype)
        pooled = torch.empty_like(y) if pool else x
        positions = torch.empty_like(y, dtype=POSITION_TYPES[x.dtype]) if pool else None
        kept = torch.empty(4, c, dtype=torch.float32)
        # Optional in torch's types; it exists if running statistics do.
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
        dx = _empty((n, c, h, w), dtype=dy.dtype)
        dweight, dbias = (torch.empty(c, dtype=torch.float32) for _ in range(2))
        maps = dy, pooled, positions, dx
        _call("backward", pooled, *maps, kept, dweight, dbias, n, h, w, pool)
        return dx, dweight, dbias, None, None


def convolves(x: Tensor, conv: nn.Conv2d) -> bool:
    """Return whether ``conv_pool`` supports these images and this convolution."""
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
    """Convolve images of one channel, then max-pool 2×2.

    Args:
        x: Images that ``convolves`` accepts.
        conv: A convolution with a square kernel, stride 1, and zero padding that keeps the size.
    """
    return _ConvPool.apply(x, conv.weight)


class _ConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.contiguous(), weight.detach().contiguous()
        (n, _, h, w), (c, _, _, size) = x.shape, weight.shape
        pooled = _empty((n, c, h // 2, w // 2), dtype=_computed())
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


_empty = partial(torch.empty, memory_format=torch.channels_last)


def _call(name: str, like: Tensor, *arguments: Tensor | float | int | None) -> None:
    function = getattr(library(like.shape[1]), f"{name}_{NAMES[like.dtype]}")
    function(*map(_for_c, arguments))


def _for_c(argument: Tensor | float | int | None) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else argument


@cache
def library(channels: int) -> ctypes.CDLL | None:
    """Compile and load the operations for maps of ``channels`` channels; None if that fails.

    After a failure it does not try again.
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
    """Name the operations for training on a CPU, with the reason if they are torch's."""
    if not _compilers and not _failures:
        library(12)  # any number shows it; the first block of `final` has 12
    words = [f"C operations: {_compilers[-1]}"] if _compilers else []
    words += [f"torch's operations, because {why}" for why in _failures]
    return "; in part ".join(words)


def _compiled(channels: int) -> Path:
    """Return the path of the library, after compiling it if the cache does not have it.

    Raises:
        CompileError: It cannot be compiled.
        OSError: The cache is not writable, or other users have access to it.
    """
    if sys.platform != "linux":
        raise OSError("they are compiled only on Linux")
    folder = folders.cache() / "operations"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise OSError(f"{folder} is open to other users (mode 700 is not set); remove it")
    # Link torch's own OpenMP: another one would start a second set of threads on the same cores.
    openmp = [str(file) for file in (Path(torch.__file__).parent / "lib").glob("libgomp*")]
    # Allow reassociation of sums but not -ffinite-math-only: NaN must propagate.
    options = (
        "-O3 -march=native -fopenmp -fassociative-math -fno-signed-zeros -fno-trapping-math "
        f"-fno-math-errno -shared -fPIC -DC={channels}"
    ).split()
    options += [str(SOURCE), *openmp, "-lm"]
    # Machines may share a home folder: the name depends on the processor's features.
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = [SOURCE.read_text(), str([os.environ.get("CC"), *options]), features]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    file = folder / f"fused-{name}.so"
    if not file.exists():
        # Processes that compile at the same time write separate drafts; the last one stays.
        with whole(file) as draft:
            compile_c([*options, "-o", str(draft)])
    return file


class CompileError(Exception):
    """The C compiler failed; the message is one line."""


def compile_c(options: Sequence[str]) -> None:
    """Run the C compiler in ``CC``, which is split as in a shell.

    Args:
        options: Its options, with the file to compile.

    Raises:
        CompileError: There is no compiler, it fails, or it takes longer than ``LIMIT``.
    """
    named = os.environ.get("CC", "").strip() or "cc"
    compiler = named.split()[0]
    try:
        command = [*shlex.split(named), *options]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
        )
    except (OSError, ValueError):  # ValueError: CC has an unclosed quote
        raise CompileError(f"{compiler}: no such C compiler; name one in CC") from None
    except subprocess.TimeoutExpired:
        raise CompileError(f"{compiler}: it took more than {LIMIT:g} s; set CC") from None
    if done.returncode:
        lines = done.stderr.splitlines() or [f"it failed with status {done.returncode}"]
        line = next((line for line in lines if "error" in line), lines[0])
        raise CompileError(f"{compiler}: {line.strip()}")
