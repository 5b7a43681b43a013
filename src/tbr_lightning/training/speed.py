"""The share of the machine that a run uses: estimated FLOPs over the measured matrix peak."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Speed:
    """Converts tokens per second into utilisation.

    Attributes:
        flops_per_token: Estimated FLOPs of forward and backward for one token, without logits.
        flops_per_logits: FLOPs of the logits of one token, which only supervised tokens have.
        peak: Measured FLOPs per second of a large matrix product on this device.
    """

    flops_per_token: float
    flops_per_logits: float
    peak: float

    def utilisation(self, tokens: float, supervised: float) -> dict[str, float]:
        """Return tera-FLOPs per second and device, and their share of the peak.

        Args:
            tokens: Tokens per second and device.
            supervised: Those of them whose logits are computed.
        """
        flops = tokens * self.flops_per_token + supervised * self.flops_per_logits
        return {
            "train/tflops_per_second": flops / 1e12,
            "train/flop_utilisation": flops / self.peak,
        }


def compute_dtype(precision: str) -> torch.dtype:
    """Return the type of the matrix products under a precision of Lightning's."""
    kinds = {"bf16": torch.bfloat16, "16": torch.float16}
    return kinds.get(precision.partition("-")[0], torch.float32)


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs per second of a matrix product, the best of a few tries.

    Takes some tenths of a second.
    """
    if device.type == "cuda":
        return _rate(8192, device, dtype)
    # A processor without units for the type may need seconds for the larger one.
    small = _rate(192, device, dtype)
    return small if small < _SLOW else max(small, _rate(768, device, dtype))


_SLOW = 5e9  # FLOPs per second; any processor with vector units is faster


def _rate(size: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
