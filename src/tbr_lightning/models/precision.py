"""The floating-point type in which a device computes fast, and what follows for weights."""

from __future__ import annotations

import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_AMPERE = 8.0  # compute capability from which NVIDIA's GPUs have bfloat16 units


@cache
def has_bfloat16_units(accelerator: str) -> bool:
    """Return whether products of bfloat16 matrices are faster here than those of float32.

    Processors without such units convert every operand, and are many times slower.

    Args:
        accelerator: ``cpu`` or ``gpu``.
    """
    if accelerator == "gpu":
        return _compute_capability() >= _AMPERE
    import torch

    found = torch.cpu.get_capabilities()
    if found.get("architecture") == "x86_64":
        # oneDNN takes any AVX-512 for support, and emulates what it lacks.
        units = found.get("avx512_bf16") or found.get("amx_bf16")
        return bool(units) and torch.backends.mkldnn.is_available()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _compute_capability() -> float:
    """Return the lowest compute capability of the GPUs, without starting CUDA: ranks fork later."""
    words = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
        return min(float(line) for line in done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return _AMPERE  # drivers that cannot say are older than most cards; training says which


def computed_in(saved: str, wanted: str = "auto", accelerator: str | None = None) -> str:
    """Return the type in which a model computes.

    Args:
        saved: Type of the saved weights: ``float32``, ``bfloat16`` or ``float16``.
        wanted: ``auto`` for that of the weights where the device has units for it and float32
            elsewhere, or a type.
        accelerator: ``cpu``, ``gpu``, or ``None`` for what this machine has.
    """
    if wanted != "auto":
        return wanted
    import torch

    where = accelerator or ("gpu" if torch.cuda.is_available() else "cpu")
    if saved == "float32" or (saved == "float16" and where == "gpu"):
        return saved
    return "bfloat16" if has_bfloat16_units(where) else "float32"


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a type as it is written in configs."""
    return str(dtype).removeprefix("torch.")


def convert(model: Any, dtype: str) -> None:
    """Turn a model's weights into another type, in place; a quantised one stays as it is.

    Not its buffers: rotary frequencies stay in float32, as when a model is loaded.
    """
    import torch

    if name_of(model.dtype) == dtype or getattr(model, "is_quantized", False):
        return
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
