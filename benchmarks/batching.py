"""Ways to lay out rows on the CPU: tokens per second and peak memory, side by side.

    python benchmarks/batching.py [--rows 240] [--repeats 3]

The measurement behind training/batch_layout.py. `padded` is what most trainers
do: the random rows of a batch, padded to the longest. Ratios are medians over repetitions, in each
of which all forms run in turn; CPU seconds leave out what other programs took of the cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from fits import asked

FORMS = ("padded", "bucketed", "packed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as made:
        facts = asked("prepare", Path(made), rows=args.rows)
        steps = -(-facts["rows"] // 8)
        for _ in range(args.repeats):
            for form in FORMS:
                words = [f"trainer.batching={form}"]
                found[form].append(asked("ours", Path(made), steps=steps, words=words))
    print(f"{'':10}{'tokens/s':>10}{'to padded':>11}{'by CPU s':>10}{'peak MiB':>10}")
    for form in FORMS:
        speed = statistics.median(run["tokens"] / run["seconds"] for run in found[form])
        peak = statistics.median(run["peak_mib"] for run in found[form])
        ratios = [
            # The same steps, so the same tokens.
            statistics.median(
                padded[clock] / run[clock]
                for padded, run in zip(found["padded"], found[form], strict=True)
            )
            for clock in ("seconds", "cpu_seconds")
        ]
        print(f"{form:10}{speed:10.0f}{ratios[0]:10.2f}x{ratios[1]:9.2f}x{peak:10.0f}")


if __name__ == "__main__":
    main()
