"""Ways to lay out rows on the CPU: tokens per second and peak memory, side by side.

    python benchmarks/batching.py [--rows 240] [--repeats 3]

The measurement behind `form_of` and `split_of` in training/fit.py. `padded` is what most trainers
do: the random rows of a batch, padded to the longest. Ratios are medians over repetitions, in each
of which all forms run in turn.
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
    speeds = {form: [run["tokens"] / run["seconds"] for run in found[form]] for form in FORMS}
    print(f"{'':10}{'tokens/s':>10}{'to padded':>12}{'peak MiB':>10}")
    for form in FORMS:
        pairs = zip(speeds[form], speeds["padded"], strict=True)
        ratio = statistics.median(mine / padded for mine, padded in pairs)
        peak = statistics.median(run["peak_mib"] for run in found[form])
        print(f"{form:10}{statistics.median(speeds[form]):10.0f}{ratio:11.2f}x{peak:10.0f}")


if __name__ == "__main__":
    main()
