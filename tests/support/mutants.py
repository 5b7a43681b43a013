"""Plants small wrong changes in the decision core and asks the mirrored tests to notice them.

``python -m tests.support.mutants [--each N] [--seed S] [--jobs J] [--show] [FILE …]`` works on
copies of the checkout, so that an interruption leaves nothing behind. It prints each change that no
test noticed, and the share that was noticed, by file and in all; the exit code is 1 below 90%.

The tests of a file must pass without a change, and import the file. A change counts as noticed
where one of them fails, or hangs; ``--show`` prints which.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from .asking import ANEW, ask, noticed
from .mutations import places, planted

ROOT = Path(__file__).resolve().parents[2]
WANTED = 0.9

_ANSWERS = [
    "evaluation/test_handed_over.py",
    "evaluation/test_content.py",
    "evaluation/test_rules.py",
]
_PREFERENCES = ["objectives/test_dpo.py", "objectives/test_pairs.py", "objectives/test_trl.py"]

CORE = {
    "registry/rules.py": ["registry/test_rules.py", "registry/test_gate.py"],
    "registry/gate.py": ["registry/test_gate.py", "registry/test_rules.py"],
    "registry/entry.py": ["registry/test_ledger.py", "registry/test_rules.py"],
    "registry/ledger.py": ["registry/test_ledger.py"],
    "registry/alias_sync.py": ["registry/test_alias_moves.py", "registry/test_ledger.py"],
    "registry/sample_size.py": ["registry/test_sample_size.py", "registry/test_gate.py"],
    "evaluation/statistics.py": ["evaluation/test_statistics.py", "evaluation/test_comparison.py"],
    "evaluation/results.py": ["evaluation/test_results.py", "evaluation/test_content.py"],
    "evaluation/comparison.py": ["evaluation/test_comparison.py"],
    "evaluation/power.py": ["evaluation/test_power.py"],
    "evaluation/verdicts.py": ["evaluation/test_verdicts.py"],
    "evaluation/rationale.py": ["evaluation/test_rationale.py"],
    "evaluation/judges/content.py": _ANSWERS,
    "evaluation/judges/safe_completion.py": _ANSWERS,
    "evaluation/judges/rules.py": [
        "evaluation/test_rule_bounds.py",
        "evaluation/test_rules.py",
        "evaluation/test_content.py",
    ],
    "evaluation/degenerate.py": ["evaluation/test_degenerate.py", "evaluation/test_content.py"],
    "evaluation/contamination.py": ["evaluation/test_contamination.py"],
    "evaluation/respond.py": ["evaluation/test_respond.py", "evaluation/test_store.py"],
    "evaluation/store.py": ["evaluation/test_store.py"],
    "evaluation/comparison_key.py": ["evaluation/test_comparison_key.py"],
    "data/conclusions.py": ["reflection/test_conclusions.py"],
    "data/row_formats.py": ["data/test_row_formats.py"],
    "data/mix.py": ["data/test_mix.py", "data/test_sources.py"],
    "data/split.py": ["data/test_table.py", "data/test_mix.py"],
    "reflection/checks.py": ["reflection/test_planted.py", "reflection/test_collect.py"],
    "data/tokens.py": ["data/test_tokens.py", "data/test_think_format.py"],
    "data/think_format.py": ["data/test_think_format.py", "data/test_template_families.py"],
    "data/chat_template.py": ["data/test_think_format.py", "data/test_template_families.py"],
    "training/batches.py": ["training/test_batches.py"],
    "training/module.py": ["training/test_module.py"],
    "training/checkpoints.py": ["training/test_checkpoints.py"],
    "tuning/scheduling.py": ["tuning/test_scheduling.py"],
    "tuning/reuse.py": ["tuning/test_reuse.py"],
    "tracking/metric_spool.py": ["tracking/test_metric_spool.py"],
    "objectives/objective.py": ["objectives", "training/test_module.py"],
    "objectives/pairs.py": _PREFERENCES,
    "objectives/sft.py": ["objectives/test_sft.py", "objectives/test_trl.py"],
    "objectives/dpo.py": _PREFERENCES,
    "objectives/kto.py": _PREFERENCES,
    "objectives/simpo.py": _PREFERENCES,
    "objectives/orpo.py": _PREFERENCES,
    "models/likelihood.py": ["models/test_likelihood.py"],
    "models/export.py": ["models/test_export.py"],
    "models/digest.py": ["models/test_digest.py"],
    "models/decoding.py": ["models/test_decoding.py"],
    "models/lm_head.py": ["models/test_composite.py", "objectives/test_sft.py"],
    "models/endpoint.py": ["models/test_endpoint.py"],
    "serving/response.py": ["serving/test_response.py"],
    "serving/rollout.py": ["serving/test_rollout.py"],
}
"""Files of the core, and the tests that are to notice what is wrong in them."""


def _warm() -> None:
    """Import what the tests import and nothing of the product: each change starts from here."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in (
        "torch",
        "transformers.models.llama.modeling_llama",
        "lightning",
        "peft",
        "mlflow",
        "optuna",
        "datasets",
        "hydra",
        "scipy.stats",
        "statsmodels.stats.proportion",
        "sklearn.feature_extraction.text",
    ):
        importlib.import_module(name)
    loaded = [name for name in sys.modules if name.partition(".")[0] == "tbr_lightning"]
    assert not loaded, f"already imported, so that no change would be: {loaded[:3]}"


def _copied(folder: Path) -> Path:
    """Copy the checkout, and the base models that it has made."""
    copy, bases = folder / "checkout", ROOT / ".tbr" / "cache"
    left = (".git", ".venv", ".tbr", ".*_cache", "mlruns", "mlartifacts", "*.db")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*left))
    for base in bases.glob("microworld-base-*"):
        shutil.copytree(base, copy / ".tbr" / "cache" / base.name)
    return copy


def _asked(job: int, jobs: int, args: argparse.Namespace) -> dict[str, tuple[int, int]]:
    """Plant every ``jobs``-th change in a copy; return how many, and how many were noticed."""
    counts: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = _copied(Path(folder))
        for file in args.files:
            path = copy / "src" / "tbr_lightning" / file
            source = path.read_text()
            try:
                counts[file] = _of_file(path, file, (job, jobs), args)
            except ValueError as error:
                print(f"NOT MEASURED  {file}: {error}", flush=True)
            path.write_text(source)
    return counts


def _of_file(
    path: Path, file: str, share: tuple[int, int], args: argparse.Namespace
) -> tuple[int, int]:
    """Return how many changes of a file were planted, and how many were noticed.

    Raises:
        ValueError: Its tests fail without a change, or do not read the file.
    """
    copy, tests, begun = path.parents[file.count("/") + 2], CORE[file], time.monotonic()
    tree, seen, anew = ast.parse(path.read_text()), 0, 0
    every = places(tree)
    drawn = random.Random(args.seed).sample(every, min(args.each, len(every)))
    changes = [planted(tree, place) for place in drawn[share[0] :: share[1]]]
    answers = ask(copy, tests, path, changes)
    for change, answer in zip(changes, answers, strict=True):
        told = answer
        if told == ANEW:
            path.write_text(ast.unparse(change.tree))
            told = noticed(copy, tests)
            anew += 1
        seen += bool(told)
        if not told:
            print(f"NOT NOTICED  {file}:{change.line}  {change.what}", flush=True)
        elif args.show or told == "TIMED OUT":
            print(f"noticed  {file}:{change.line}  {change.what}  BY  {told}", flush=True)
    print(
        f"{file}: {seen} of {len(changes)} noticed, of {len(every)} places ({anew} by a fresh "
        f"import, {time.monotonic() - begun:.0f} s)",
        flush=True,
    )
    return len(changes), seen


def main() -> int:
    """Plant, ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=8, help="changes of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="changes tested at once")
    parser.add_argument("--show", action="store_true", help="also what noticed each change")
    parser.add_argument("files", nargs="*", default=list(CORE))
    args = parser.parse_args()
    if unknown := set(args.files) - set(CORE):
        parser.error(f"not in the core: {', '.join(sorted(unknown))}")
    os.environ.setdefault("TBR_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    _warm()
    found, seen, lost = Counter[str](), Counter[str](), set[str]()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("fork")) as pool:
        for counts in pool.map(_asked, range(args.jobs), repeat(args.jobs), repeat(args)):
            lost |= set(args.files) - set(counts)
            for file, (of_file, noticed_in_it) in counts.items():
                found[file] += of_file
                seen[file] += noticed_in_it
    for file in found:
        print(f"{seen[file]:4} of {found[file]:4}  {file}")
    share = seen.total() / found.total() if found.total() else 0.0
    print(f"{seen.total()} of {found.total()} changes were noticed ({100 * share:.1f}%)")
    if lost:
        print(f"not measured: {', '.join(sorted(lost))}")
    return 0 if share >= WANTED and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
