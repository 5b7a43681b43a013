"""Direct preference optimisation on the CPU: ours against TRL's DPOTrainer, side by side.

    python benchmarks/dpo_against_trl.py [--rows 400] [--repeats 3] [--quick]
    python benchmarks/dpo_against_trl.py --model FOLDER|FILE.gguf [--adapter lora] [--rows 64]

The same model, ids, batch of 8 pairs, beta, AdamW, rate and schedule; one process for each
measurement, ours and TRL's in turn. Ours takes `trainer.precision=auto`. TRL gets pairs that are
tokenised already, and is measured at the fastest of its settings (float32, and bfloat16 where the
processor has units for it; padded or grouped by length; with and without gradient checkpointing;
reference before or beside), which a few steps of each find. Ours computes the log-probabilities
under the starting weights before the steps that are timed, and so does TRL where its reference
comes before.

Tokens are those that are no padding, of both responses with their prompts; seconds are those of the
call that trains, with everything that it does by default, ours a checkpoint and a log in MLflow.
The column of CPU seconds leaves out the time that other programs took on the cores, but counts
our reference too. Exits with 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

from fits import asked, this_machine
from race import Contender, Goal, best_of_trl, head, run, steps_of, verdict

GOAL = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400, help="pairs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder, or a GGUF file")
    parser.add_argument("--adapter", choices=("none", "lora"), default="none")
    parser.add_argument("--quick", action="store_true", help="few rows and steps, one repetition")
    args = parser.parse_args()
    if args.model is not None and not args.model.exists():
        parser.error(f"--model {args.model} is not there: give a folder or a GGUF file")
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed: run pip install -e '.[bench]'", file=sys.stderr)
        return 2
    rows, repeats = (80, 1) if args.quick else (args.rows, args.repeats)
    machine = this_machine()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        facts = asked(
            "prepare",
            folder,
            rows=rows,
            pairs=True,
            model=None if args.model is None else str(args.model.resolve()),
            words=[f"adapter={args.adapter}"],
        )
        how = "full" if args.adapter == "none" else args.adapter
        what = "random Llama" if args.model is None else args.model.name
        head(machine, facts, f"{what}, {how}, pairs")
        steps = steps_of(facts["rows"])
        best = best_of_trl(
            folder, facts, machine, kind="trl_dpo", steps=min(steps, 4), rounds=min(repeats, 2)
        )
        best.options["steps"] = steps
        found = run(
            folder, facts, machine, [Contender("ours", "ours", {"steps": steps}), best], repeats
        )
    ratio = found[best.name].ratio
    return verdict(
        [Goal(f"at least {GOAL:g} times the tokens/s of {best.name} ({ratio:.2f})", ratio >= GOAL)]
    )


if __name__ == "__main__":
    sys.exit(main())
