"""Choose the device and the precision."""

from typing import Any

import torch

from mnist_lit.errors import ConfigError, reason


def pick_device(name: str) -> torch.device:
    """Resolve a device's name; ``auto`` is the GPU when there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails on torch's `meta`, which has no values
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name}: not available here ({reason(error)})") from None
    return device


def pick_precision(name: str, accelerator: str) -> Any:
    """Resolve a precision in Lightning's terms.

    ``auto`` is ``bf16-mixed`` if the hardware computes in bfloat16, else ``32-true``.
    """
    if name != "auto":
        return name
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        in_hardware = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        in_hardware = accelerator in ("auto", "cpu") and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return "bf16-mixed" if in_hardware else "32-true"


def describe(device: torch.device) -> str:
    """Name a device for a report."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        instructions = torch.backends.cpu.get_cpu_capability()
        return f"cpu ({threads} thread{'s' if threads > 1 else ''}, {instructions})"
    return str(device)
