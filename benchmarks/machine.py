"""The machine that a benchmark runs on, measured, and the least time of a piece of work on it.

    python benchmarks/machine.py [--json]

The matrix rate is that of the best product of square matrices, the memory rate that of reading or
copying what no cache holds, whichever is larger. Both are of the threads that torch takes itself.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

DTYPES = ("float32", "bfloat16")
BYTES = {"float32": 4, "bfloat16": 2}
_SLOW = 2e10  # FLOPs per second; without units larger matrices take seconds, and are no faster


@dataclass(frozen=True)
class Machine:
    """What a figure has to be read with.

    Attributes:
        processor: Name of the processor.
        cores: Physical cores that may be used.
        threads: Threads that torch takes.
        units: Whether it has bfloat16 units.
        matrix: FLOPs per second of a large product, by type.
        memory: Bytes per second.
    """

    processor: str
    cores: int
    threads: int
    units: bool
    matrix: dict[str, float]
    memory: float

    def __str__(self) -> str:
        rates = ", ".join(f"{self.matrix[dtype] / 1e9:.0f} in {dtype}" for dtype in DTYPES)
        return (
            f"{self.processor}, {self.cores} cores, {self.threads} threads, "
            f"{'bfloat16' if self.units else 'no bfloat16'} units\n"
            f"matrix rate in GFLOP/s: {rates}; memory rate {self.memory / 1e9:.1f} GB/s"
        )

    def share(self, flops_per_second: float, dtype: str) -> float:
        """Return a speed as a share of the matrix rate in its own precision."""
        return flops_per_second / self.matrix[dtype]

    def floors(self, flops: float, moved: float, dtype: str) -> tuple[float, float]:
        """Return the seconds that these operations take at least, and these bytes."""
        return flops / self.matrix[dtype], moved / self.memory


def step_bytes(parameters: int, trained: int, dtype: str) -> float:
    """Return the bytes that a step of AdamW moves at least.

    Weights are read forward and backward, in the type of the products. What is trained has
    gradients (written, read), float32 weights and two moments (read, written). Activations may
    stay in a cache, so they are left out.
    """
    return 2.0 * BYTES[dtype] * parameters + 32.0 * trained


def measured(*, mebibytes: int = 256) -> Machine:
    """Measure this machine; takes some seconds.

    Args:
        mebibytes: Size of the tensor that is read and copied, beyond the caches.
    """
    import torch

    from tbr_lightning.models.precision import has_bfloat16_units
    from tbr_lightning.processes import cores

    return Machine(
        processor=_processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        units=has_bfloat16_units("cpu"),
        matrix={dtype: _matrix_rate(dtype) for dtype in DTYPES},
        memory=_memory_rate(mebibytes),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _matrix_rate(dtype: str) -> float:
    import torch

    best = 0.0
    for size in (192, 768, 2048):
        a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        best = max(best, 2.0 * size**3 / _least(lambda a=a, b=b: a @ b))
        if dtype != "float32" and best < _SLOW:
            break
    return best


def _memory_rate(mebibytes: int) -> float:
    import torch

    one = torch.ones(mebibytes * 2**18)
    other = torch.zeros_like(one)
    size = one.numel() * one.element_size()
    return max(size / _least(one.sum), 2 * size / _least(lambda: other.copy_(one)))


def _least(work: Callable[[], object], seconds: float = 0.6) -> float:
    """Return the least seconds of a call, of several for some time; the first only warms."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    # Else threads that spin while they wait would measure the neighbours on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(json.dumps(asdict(measured())) if sys.argv[1:] == ["--json"] else measured())
