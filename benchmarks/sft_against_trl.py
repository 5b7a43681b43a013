"""Supervised fine-tuning on the CPU: ours against TRL's SFTTrainer, side by side.

    python benchmarks/sft_against_trl.py [--rows 2000] [--repeats 3] [--quick]
    python benchmarks/sft_against_trl.py --model FOLDER|FILE.gguf [--only lora] [--steps 12]

The same model, ids, loss mask, batch of 8 rows, AdamW, rate and schedule; one process for each
measurement, ours and TRL's in turn. Ours takes `trainer.precision=auto`. TRL gets rows that are
tokenised already, with a completion mask, and is measured at the fastest of all its settings
(float32, and bfloat16 where the processor has units for it; padded, grouped by length,
padding-free, packed; with and without gradient checkpointing), which a few steps of each find. Its
defaults (bfloat16 and checkpointing) take up to half a minute a step on a core without such units,
so they are measured once, over a few steps. `--model` adds a real model, with LoRA and full.

Seconds are those of the call that trains, with everything that it does by default, ours a
checkpoint and a log in MLflow. The column of CPU seconds does not count the time that other
programs took on the cores. Exits with 1 if a goal is missed; a goal that needs bfloat16 units is
not judged without them.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from fits import asked, this_machine
from machine import Machine
from race import Contender, Goal, best_of_trl, head, run, steps_of, verdict
from trl_fits import FLOAT32, QUIET

STEPS_COMPARED = 20
# Of the small model, over TRL's best: bfloat16 is the faster for both where there are units.
SMALL_GOAL = {True: 2.0, False: 1.5}
REAL_GOAL, USE_GOAL = 1.3, 0.5
KINDS = ("small", "lora", "full")


def same_batches(folder: Path) -> float:
    """Return how far the losses of single steps are apart on the same rows, in float32."""
    options = {
        **FLOAT32,
        "logging_steps": 1,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
    }
    rows = asked("order", folder)["order"]
    words = ["trainer.precision=32-true"]
    mine = asked("ours", folder, steps=STEPS_COMPARED, words=words)["losses"]
    theirs = asked("trl", folder, steps=STEPS_COMPARED, options=options, order=rows)["losses"]
    pairs = list(zip(mine, theirs, strict=True))
    print(f"\nthe same batches: loss of step 1 {pairs[0][0]:.4f} and {pairs[0][1]:.4f},")
    print(f"of step {len(pairs)} {pairs[-1][0]:.4f} and {pairs[-1][1]:.4f}", flush=True)
    return max(abs(a - b) for a, b in pairs)


def learnt(folder: Path, steps: int, seeds: int) -> tuple[float, float]:
    """Return how far the held-out losses are apart, and how far seeds alone bring them apart."""
    mine, theirs = [], []
    for seed in range(seeds):
        settings = {"steps": steps, "seed": seed, "evaluate": True}
        mine.append(asked("ours", folder, **settings)["held_out"])
        theirs.append(asked("trl", folder, options={**FLOAT32, **QUIET}, **settings)["held_out"])
    print(f"\nheld-out loss after {steps} steps, by seed:")
    for name, losses in (("ours", mine), ("TRL", theirs)):
        print(f"  {name:5}{' '.join(f'{loss:.4f}' for loss in losses)}", flush=True)
    spread = max(max(losses) - min(losses) for losses in (mine, theirs))
    return statistics.mean(mine) - statistics.mean(theirs), spread


def small(machine: Machine, rows: int, repeats: int, seeds: int, *, quick: bool) -> list[Goal]:
    """Race the random model of 7 million parameters, and compare what both learn."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        facts = asked("prepare", folder, rows=rows)
        head(machine, facts, "random Llama, full")
        steps = steps_of(facts["rows"])
        few, rounds = (2, 1) if quick else (8, 2)
        best = best_of_trl(folder, facts, machine, kind="trl", steps=few, rounds=rounds)
        defaults = Contender("TRL: its defaults", "trl", {"steps": 2 if quick else 6}, repeats=1)
        best.options["steps"] = steps
        found = run(
            folder,
            facts,
            machine,
            [Contender("ours", "ours", {"steps": steps}), best, defaults],
            repeats,
        )
        apart = same_batches(folder)
        difference, spread = learnt(folder, min(steps, 20 if quick else 60), seeds)
    fast, slow = found[best.name].ratio, found[defaults.name].ratio
    wanted = SMALL_GOAL[machine.units]
    lean = found["ours"].median("peak_mib") <= found[best.name].median("peak_mib")
    return [
        Goal(f"at least {wanted:g} times the tokens/s of {best.name} ({fast:.2f})", fast >= wanted),
        Goal(f"faster than TRL's defaults ({slow:.1f})", slow > 1),
        Goal("at most its peak memory", lean),
        Goal(f"the losses of the same batches within 1e-3 ({apart:.1e})", apart <= 1e-3),
        Goal(
            f"held-out loss within the seeds' spread ({difference:+.4f} of {spread:.4f})",
            abs(difference) <= spread,
        ),
    ]


def real(machine: Machine, model: Path, kind: str, steps: int, repeats: int) -> list[Goal]:
    """Race a real model, with LoRA or full."""
    words = ["adapter=lora"] if kind == "lora" else []
    name = f"{model.name}, {kind}"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        facts = asked("prepare", folder, rows=8 * steps, model=str(model.resolve()), words=words)
        print()
        head(machine, facts, name)
        few = max(1, min(steps // 2, 3))
        best = best_of_trl(folder, facts, machine, kind="trl", steps=few, rounds=1)
        best.options["steps"] = steps
        found = run(
            folder, facts, machine, [Contender("ours", "ours", {"steps": steps}), best], repeats
        )
    mine, theirs = found["ours"], found[best.name]
    judged = machine.units

    def goal(text: str, *, met: bool) -> Goal:
        why = "" if judged else ": without bfloat16 units this is as it comes"
        return Goal(f"{name}: {text}{why}", met if judged else None)

    peaks = mine.median("peak_mib"), theirs.median("peak_mib")
    return [
        goal(
            f"at least {REAL_GOAL:g} times the tokens/s of {best.name} ({theirs.ratio:.2f})",
            met=theirs.ratio >= REAL_GOAL,
        ),
        goal(
            f"at most its peak memory ({peaks[0]:.0f} of {peaks[1]:.0f} MiB)",
            met=peaks[0] <= peaks[1],
        ),
        goal(
            f"at least {USE_GOAL:.0%} of the matrix rate ({mine.share:.0%})",
            met=mine.share >= USE_GOAL,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000, help="of the small model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder, or a GGUF file")
    parser.add_argument("--steps", type=int, help="of the real model; default 12, 4 with --quick")
    parser.add_argument("--only", choices=KINDS, action="append", help="default: all that apply")
    parser.add_argument("--quick", action="store_true", help="few rows, steps and repetitions")
    args = parser.parse_args()
    kinds: Any = args.only or (KINDS if args.model else KINDS[:1])
    if args.model is None and set(kinds) != {"small"}:
        parser.error("--only lora and --only full need --model FOLDER|FILE.gguf")
    if args.model is not None and not args.model.exists():
        parser.error(f"--model {args.model} is not there: give a folder or a GGUF file")
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed: run pip install -e '.[bench]'", file=sys.stderr)
        return 2
    machine, goals = this_machine(), []
    if "small" in kinds:
        rows, repeats = (160, 2) if args.quick else (args.rows, args.repeats)
        goals += small(machine, rows, repeats, args.seeds, quick=args.quick)
    for kind in [kind for kind in kinds if kind != "small"]:
        steps, repeats = (4, 1) if args.quick else (12, args.repeats)
        goals += real(machine, args.model, kind, args.steps or steps, repeats)
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
