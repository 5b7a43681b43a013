"""Direct preference optimisation on the CPU: ours against TRL's DPOTrainer, side by side.

    python benchmarks/dpo_against_trl.py [--rows 400] [--repeats 3] [--quick]

The same random Llama, ids, batch of 8 pairs, beta, AdamW, rate and schedule, in float32; one
process for each measurement, ours and TRL's in turn. TRL gets pairs that are tokenised already. It
is measured at the fastest of the settings below; ours computes the log-probabilities under the
starting weights before the steps that are timed, and so does TRL where a setting says so.

Tokens are those that are no padding, of both responses with their prompts; seconds are those of the
call that trains, with everything that it does by default, ours a checkpoint and a log in MLflow.
The column of CPU seconds leaves out the time that other programs took on the cores, but counts
our reference too. Exits with 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from fits import asked

QUIET = {
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_strategy": "no",
    "save_strategy": "no",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "reference before": {**QUIET, "precompute_ref_log_probs": True},
    "reference before, grouped by length": {
        **QUIET,
        "precompute_ref_log_probs": True,
        "train_sampling_strategy": "group_by_length",
    },
    "reference beside": QUIET,
}
GOAL = 1.0
OURS = ("objective=dpo",)


def rate(found: dict[str, Any], clock: str = "seconds") -> float:
    return float(found["tokens"] / found[clock])


def fastest(folder: Path, steps: int, repeats: int) -> str:
    """Return the name of the setting at which TRL is fastest."""
    speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(repeats):
        for name, options in SETTINGS.items():
            speeds[name].append(rate(asked("trl_dpo", folder, steps=steps, options=options)))
    for name, values in speeds.items():
        print(f"  TRL, {name}: {max(values):.0f} tokens/s", flush=True)
    return max(speeds, key=lambda name: max(speeds[name]))


def race(folder: Path, best: str, steps: int, repeats: int) -> float:
    """Print speed and memory; return the median ratio of speeds."""
    mine: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(repeats):
        mine.append(asked("ours", folder, steps=steps, words=OURS))
        theirs.append(asked("trl_dpo", folder, steps=steps, options=SETTINGS[best]))
    print(f"\n{'':32}{'tokens/s':>10}{'by CPU s':>10}{'peak MiB':>10}")
    for name, runs in (("ours", mine), (f"TRL, {best}", theirs)):
        speed = statistics.median(rate(run) for run in runs)
        worked = statistics.median(rate(run, "cpu_seconds") for run in runs)
        memory = statistics.median(run["peak_mib"] for run in runs)
        print(f"{name:32}{speed:10.0f}{worked:10.0f}{memory:10.0f}")
    pairs = list(zip(mine, theirs, strict=True))
    worked = statistics.median(rate(a, "cpu_seconds") / rate(b, "cpu_seconds") for a, b in pairs)
    ratio = statistics.median(rate(a) / rate(b) for a, b in pairs)
    print(f"ours is {ratio:.2f}x by the clock, {worked:.2f}x by CPU seconds")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few rows and steps, one repetition")
    args = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed: run pip install -e '.[bench]'", file=sys.stderr)
        return 2
    rows, repeats = (80, 1) if args.quick else (args.rows, args.repeats)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        facts = asked("prepare", folder, rows=rows, pairs=True)
        print(
            f"{facts['rows']} pairs, {facts['tokens']} tokens, {facts['parameters']} parameters",
            flush=True,
        )
        steps = -(-facts["rows"] // 8)
        best = fastest(folder, min(steps, 6), min(repeats, 2))
        ratio = race(folder, best, steps, repeats)
    met = ratio >= GOAL
    print(f"\n{'met   ' if met else 'MISSED'} at least {GOAL:g} times TRL's tokens/s ({ratio:.2f})")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
