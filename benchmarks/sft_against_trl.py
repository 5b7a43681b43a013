"""Supervised fine-tuning on the CPU: ours against TRL's SFTTrainer, side by side.

    python benchmarks/sft_against_trl.py [--rows 2000] [--repeats 3] [--quick]

The same random Llama, ids, loss mask, batch of 8 rows, AdamW, rate and schedule; one process for
each measurement, ours and TRL's in turn. TRL gets rows that are tokenised already, with a
completion mask, and is measured twice: with its defaults (bfloat16 and gradient checkpointing),
and at the fastest of the settings below. Its defaults take up to half a minute a step on a core
without bfloat16 units, so they are measured over a few steps only.

Tokens are those that are no padding; seconds are those of the call that trains, with everything
that it does by default, ours a checkpoint and a log in MLflow. The column of CPU seconds tells the
same without what other programs took of the cores. Exits with 1 if a goal is missed.
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

FLOAT32 = {"bf16": False, "gradient_checkpointing": False}
QUIET = {**FLOAT32, "logging_strategy": "no", "save_strategy": "no"}
# A packed line is about as long as 8 rows, so that a step sees as many tokens as ours.
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": QUIET,
    "float32, grouped by length": {**QUIET, "train_sampling_strategy": "group_by_length"},
    "float32, padding-free": {**QUIET, "padding_free": True, "max_length": None},
    "float32, packed": {
        **QUIET,
        "packing": True,
        "max_length": 768,
        "per_device_train_batch_size": 1,
    },
}
STEPS_COMPARED = 20


def rate(found: dict[str, Any], clock: str = "seconds") -> float:
    return float(found["tokens"] / found[clock])


def fastest(folder: Path, steps: int) -> str:
    """Return the name of the setting at which TRL is fastest."""
    speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(2):
        for name, options in SETTINGS.items():
            speeds[name].append(rate(asked("trl", folder, steps=steps, options=options)))
    for name, values in speeds.items():
        print(f"  TRL {name}: {max(values):.0f} tokens/s")
    return max(speeds, key=lambda name: max(speeds[name]))


def race(
    folder: Path, best: str, steps: int, default_steps: int, repeats: int
) -> tuple[float, float, bool]:
    """Print speed and memory; return both ratios of speed and whether ours takes no more memory."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "ours": ("ours", {"steps": steps}),
        "TRL, defaults": ("trl", {"steps": default_steps}),
        f"TRL, {best}": ("trl", {"steps": steps, "options": SETTINGS[best]}),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, (task, options) in kinds.items():
            found[name].append(asked(task, folder, **options))
    mine = found["ours"]
    ratios, memory = [], {}
    print(f"\n{'':32}{'tokens/s':>10}{'ours is':>10}{'by CPU s':>10}{'peak MiB':>10}")
    for name, runs in found.items():
        pairs = list(zip(mine, runs, strict=True))
        ratio = statistics.median(rate(a) / rate(b) for a, b in pairs)
        worked = statistics.median(
            rate(a, "cpu_seconds") / rate(b, "cpu_seconds") for a, b in pairs
        )
        memory[name] = statistics.median(run["peak_mib"] for run in runs)
        speed = statistics.median(rate(run) for run in runs)
        print(f"{name:32}{speed:10.0f}{ratio:9.2f}x{worked:9.2f}x{memory[name]:10.0f}")
        ratios.append(ratio)
    return ratios[1], ratios[2], memory["ours"] <= min(memory.values())


def same_batches(folder: Path) -> float:
    """Return how far the losses of single steps are apart on the same rows in the same order."""
    options = {
        **FLOAT32,
        "logging_steps": 1,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
    }
    rows = asked("order", folder)["order"]
    mine = asked("ours", folder, steps=STEPS_COMPARED)["losses"]
    theirs = asked("trl", folder, steps=STEPS_COMPARED, options=options, order=rows)["losses"]
    pairs = list(zip(mine, theirs, strict=True))
    print(f"\nthe same batches: loss of step 1 {pairs[0][0]:.4f} and {pairs[0][1]:.4f},")
    print(f"of step {len(pairs)} {pairs[-1][0]:.4f} and {pairs[-1][1]:.4f}")
    return max(abs(a - b) for a, b in pairs)


def learnt(folder: Path, steps: int, seeds: int) -> tuple[float, float]:
    """Return how far the held-out losses are apart, and how far seeds alone bring them apart."""
    mine, theirs = [], []
    for seed in range(seeds):
        settings = {"steps": steps, "seed": seed, "evaluate": True}
        mine.append(asked("ours", folder, **settings)["held_out"])
        theirs.append(asked("trl", folder, options=QUIET, **settings)["held_out"])
    print(f"\nheld-out loss after {steps} steps, by seed:")
    for name, losses in (("ours", mine), ("TRL", theirs)):
        print(f"  {name:5}{' '.join(f'{loss:.4f}' for loss in losses)}")
    spread = max(max(losses) - min(losses) for losses in (mine, theirs))
    return statistics.mean(mine) - statistics.mean(theirs), spread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few rows and steps, two repetitions")
    args = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed: run pip install -e '.[bench]'", file=sys.stderr)
        return 2
    rows, repeats = (160, 2) if args.quick else (args.rows, args.repeats)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        facts = asked("prepare", folder, rows=rows)
        print(f"{facts['rows']} rows, {facts['tokens']} tokens, {facts['parameters']} parameters")
        steps = -(-facts["rows"] // 8)
        best = fastest(folder, min(steps, 8))
        slow, fast, lean = race(folder, best, steps, 2 if args.quick else 6, repeats)
        apart = same_batches(folder)
        difference, spread = learnt(folder, min(steps, 20 if args.quick else 60), args.seeds)
    goals = {
        f"at least 5 times the tokens/s of TRL's defaults ({slow:.1f})": slow >= 5,
        f"at least 1.5 times those of its best setting ({fast:.2f})": fast >= 1.5,
        "at most TRL's peak memory": lean,
        f"the losses of the same batches within 1e-3 ({apart:.1e})": apart <= 1e-3,
        f"held-out loss within the seeds' spread ({difference:+.4f} of {spread:.4f})": abs(
            difference
        )
        <= spread,
    }
    print()
    for goal, met in goals.items():
        print(f"{'met   ' if met else 'MISSED'} {goal}")
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
