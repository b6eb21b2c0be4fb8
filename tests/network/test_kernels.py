import os
import pwd
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_lit import folders
from mnist_lit.files import UNFINISHED
from mnist_lit.network import fused
from mnist_lit.network.compact import CompactCNN
from tests.conftest import needs_compiler

# Without one the operation is never used, and `test_without_a_compiler_torch_does_it` still runs.


def torchs(x: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    return F.relu(norm(F.max_pool2d(x, 2) if pool else x))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "pool"),
    [
        ((32, 12, 28, 28), True),
        ((16, 16, 14, 14), False),
        ((8, 5, 7, 7), True),  # the last row and column are in no window
        ((8, 3, 9, 6), True),
        ((4, 48, 7, 7), False),
        ((1, 1, 2, 2), False),
    ],
)
def test_it_computes_what_torch_does(
    shape: tuple[int, int, int, int], pool: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    nn.init.normal_(ours.weight, mean=1)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    # Whole numbers, so that windows have several maxima: the first one takes the gradient.
    x = torch.randint(-3, 6, shape).to(dtype).to(memory_format=torch.channels_last)
    x.requires_grad_()
    assert fused.usable(x, ours)
    one, other = fused.pool_norm_relu(x, ours, pool), torchs(x, theirs, pool)
    atol, rtol = (1e-4, 1e-4) if dtype == torch.float32 else (0.05, 0.02)
    torch.testing.assert_close(one, other, atol=atol, rtol=rtol)
    gradient = torch.randn(one.shape).to(dtype)
    gradients = [
        torch.autograd.grad(y, [x, norm.weight, norm.bias], gradient)
        for y, norm in ((one, ours), (other, theirs))
    ]
    for a, b in zip(*gradients, strict=True):
        error = (a.float() - b.float()).norm() / b.float().norm().clamp(min=0.1)
        assert error < (1e-3 if dtype == torch.float32 else 2e-2)
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=name)


@needs_compiler
def test_its_gradient_is_the_numerical_one() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    nn.init.constant_(norm.bias, 5)  # far from the corner of ReLU
    x = torch.randperm(2 * 3 * 4 * 4).view(2, 3, 4, 4).float().div(10).requires_grad_()
    weight = torch.randn(2, 3, 2, 2)

    def value(x: Tensor) -> Tensor:
        return (fused.pool_norm_relu(x, norm, pool=True) * weight).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    for position in ((0, 0, 1, 1), (1, 2, 3, 3), (0, 1, 2, 1)):
        step = torch.zeros_like(x)
        step[position] = 0.02
        numerical = (value(x + step) - value(x - step)) / 0.04
        assert gradient[position] == pytest.approx(numerical.item(), abs=2e-3)


@needs_compiler
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("channels", "kernel", "height", "width"),
    [(12, 3, 28, 28), (5, 1, 9, 6), (16, 5, 28, 28), (40, 3, 7, 7)],
)
def test_the_first_convolution_is_torchs(
    channels: int, kernel: int, height: int, width: int, autocast: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, channels, kernel, padding=kernel // 2, bias=False)
    # Small whole numbers are exact in either type, and windows have several maxima.
    x = torch.randint(-2, 4, (16, 1, height, width)).float()
    conv.weight.data = torch.randint(-2, 3, conv.weight.shape).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert fused.convolves(x, conv)
        one, other = fused.conv_pool(x, conv), F.max_pool2d(conv(x), 2)
    assert one.dtype == other.dtype
    assert torch.equal(one, other)
    gradient = torch.randint(-2, 3, one.shape).to(one.dtype)
    ours, theirs = (torch.autograd.grad(y, conv.weight, gradient)[0] for y in (one, other))
    # torch rounds it to bfloat16 under autocast; ours are exact.
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0.005 if autocast else 0)


def test_only_a_first_convolution_is_taken_over() -> None:
    images, maps = torch.zeros(2, 1, 28, 28), torch.zeros(2, 3, 28, 28)
    assert not fused.convolves(images, nn.Conv2d(1, 4, 3, padding=1))  # it has a bias
    assert not fused.convolves(maps, nn.Conv2d(3, 4, 3, padding=1, bias=False))
    wanted = torch.zeros(2, 1, 28, 28, requires_grad=True)
    assert not fused.convolves(wanted, nn.Conv2d(1, 4, 3, padding=1, bias=False))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_a_number_is_not_hidden(dtype: torch.dtype) -> None:
    x = torch.full((2, 4, 6, 6), torch.nan, dtype=dtype)
    assert fused.pool_norm_relu(x, nn.BatchNorm2d(4), pool=True).isnan().all()


def test_it_keeps_to_what_it_was_compiled_for() -> None:
    norm = nn.BatchNorm2d(4)
    assert not fused.usable(torch.zeros(1, 4, 2, 2, dtype=torch.float64), norm)
    assert not fused.usable(torch.zeros(1, 4, 2, 2, device="meta"), norm)
    without = nn.BatchNorm2d(4, track_running_stats=False)
    assert not fused.usable(torch.zeros(1, 4, 2, 2), without)


@needs_compiler
def test_evaluation_is_torchs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = CompactCNN([{"channels": 4, "pool": "after_conv"}]).eval()
    monkeypatch.setattr(fused, "pool_norm_relu", None)
    network(torch.zeros(1, 1, 28, 28))
    with pytest.raises(TypeError):
        network.train()(torch.zeros(2, 1, 28, 28))


@needs_compiler
def test_a_default_of_float64_changes_nothing() -> None:
    x = torch.randn(2, 1, 8, 8)
    conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    norm = nn.BatchNorm2d(4)

    def gradients() -> tuple[Tensor, ...]:
        y = fused.pool_norm_relu(fused.conv_pool(x, conv), norm, pool=False)
        return torch.autograd.grad(y.square().sum(), [conv.weight, norm.weight, norm.bias])

    wanted = gradients()
    torch.set_default_dtype(torch.float64)
    try:
        got = gradients()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.fixture
def operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an empty cache; nothing is loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fused, "_failures", [])
    monkeypatch.setattr(fused, "_compilers", [])
    fused.library.cache_clear()
    yield tmp_path / "mnist-lit" / "operations"
    fused.library.cache_clear()


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("false", "false: it failed with status 1"),
        ("no-such-cc -m64", "no-such-cc: no such C compiler; name one in CC"),
        ("cc 'x", "cc: no such C compiler; name one in CC"),
        ("true", "cannot be written: No such file"),
    ],
)
def test_without_a_compiler_torch_does_it_and_says_why(
    compiler: str, words: str, operations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    network = CompactCNN([{"channels": 4, "pool": "after_conv"}])
    network(torch.rand(2, 1, 28, 28)).sum().backward()
    assert fused.library(4) is None
    assert fused.describe().startswith("torch's operations, because ")
    assert words in fused.describe()
    assert not list(operations.iterdir()), "nothing half-made is left"


def test_a_compiler_that_hangs_is_ended(operations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LIMIT", 0.5)
    monkeypatch.setenv("CC", "sh -c 'exec sleep 600'")
    assert fused.library(4) is None
    assert fused.library(8) is None, "it is not tried again"
    assert "sh: it took more than 0.5 s; set CC" in fused.describe()
    assert not list(operations.iterdir())


@needs_compiler
def test_what_was_compiled_is_kept_and_what_a_killed_process_left_is_not(
    operations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "env cc")  # a compiler with an argument
    operations.mkdir(parents=True, mode=0o700)
    killed, running = (operations / f"{UNFINISHED}{name}" for name in ("0" * 8, "1" * 8))
    for litter in (killed, running):
        litter.touch()
    os.utime(killed, (0, 0))
    assert fused.library(4) is not None
    assert fused.describe().startswith("C operations: ")
    assert not killed.exists()
    running.unlink()  # was kept, because another process may be writing it
    (file,) = operations.iterdir()
    compiled = file.stat().st_mtime_ns
    fused.library.cache_clear()
    assert fused.library(4) is not None
    assert file.stat().st_mtime_ns == compiled
    assert fused.library(5) is not None
    assert len(list(operations.iterdir())) == 2


@needs_compiler
def test_two_may_compile_at_once(operations: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert None not in list(pool.map(fused.library, [4, 4]))
    assert len(list(operations.iterdir())) == 1


@needs_compiler
def test_nothing_is_loaded_from_a_folder_that_others_may_enter(operations: Path) -> None:
    assert fused.library(4) is not None
    assert operations.stat().st_mode & 0o777 == 0o700
    operations.chmod(0o777)
    fused.library.cache_clear()
    assert fused.library(4) is None
    assert f"because {operations} is open to other users" in fused.describe()
    if os.geteuid() == 0:
        operations.chmod(0o700)
        os.chown(operations, 65534, 65534)
        fused._failures.clear()
        fused.library.cache_clear()
        assert fused.library(4) is None


@needs_compiler
def test_a_damaged_file_is_named_and_torch_does_it(
    operations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fused.library(4) is not None
    (file,) = operations.iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    other = tmp_path / "other" / "mnist-lit" / "operations"
    other.mkdir(parents=True, mode=0o700)
    (other / file.name).write_bytes(file.read_bytes()[:100])
    fused.library.cache_clear()
    assert fused.library(4) is None
    assert f"torch's operations, because {other / file.name}: " in fused.describe()


def test_a_cache_is_found_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("", "cache", "~/cache"):  # not absolute
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert folders.cache() == Path.home() / ".cache" / "mnist-lit"

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert folders.cache() == Path(tempfile.gettempdir(), f"mnist-lit-{os.getuid()}")
