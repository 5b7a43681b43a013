"""Contrastive decoding (mitigation=contrast) against plain decoding: seconds for the same tokens.

    python benchmarks/contrastive_decoding.py [--model NAME] [--prompts FILE] [--quick]

Both decode the same prompts in our loop, turn by turn in one process with the same threads; no
token ends an answer, so that both write the same number. Contrast reads each prompt a second time
below a safety system prompt, which is longer than most prompts, and then two lines for each row.
The ratio is the median over the turns; the goal is at most 2.1. `to read` is the time to the first
token of all rows. Exit code 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.files import read_rows
from tbr_lightning.evaluation.respond import arm_prompts, load_model
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.decoding import Guidance, Rules, decode

GOAL = 2.1
DEFAULT = "../shared/data/xstest/xstest_prompts.csv"
WAYS = ("plain", "contrast")


def seconds_of(backbone: Backbone, texts: list[str], tokens: int, batch_size: int) -> float:
    """Return the seconds in which a model, guided or not, writes so many tokens to each prompt."""
    ids = arm_prompts(backbone, texts, "trained")
    pad = backbone.tokenizer.pad_token_id
    start = time.perf_counter()
    if backbone.guide is None:
        made = dict(decode(backbone.model, ids, Rules(tokens, (), pad), batch_size))
    else:
        with backbone.guide(backbone.model, ids) as guidance:
            assert isinstance(guidance, Guidance)
            rules = Rules(tokens, (), pad, guidance=guidance)
            made = dict(decode(backbone.model, ids, rules, batch_size))
    took = time.perf_counter() - start
    assert [len(made[n]) for n in range(len(texts))] == [tokens] * len(texts)
    return took


def measure(run: Callable[[str, int], float], tokens: int, repeats: int) -> float:
    """Print seconds of both ways; return the median ratio of their turns."""
    for way in WAYS:
        run(way, 2)  # warm-up
    whole: dict[str, list[float]] = {way: [] for way in WAYS}
    first: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            first[way].append(run(way, 1))
            whole[way].append(run(way, tokens))
    for way in WAYS:
        took, read = statistics.median(whole[way]), statistics.median(first[way])
        print(f"{way:9} {took:8.2f} s, of which to read {read:.2f} s")
    ratios = [b / a for a, b in zip(whole["plain"], whole["contrast"], strict=True)]
    ratio = statistics.median(ratios)
    print(f"contrast takes {ratio:.2f}x of plain [{min(ratios):.2f}, {max(ratios):.2f}]")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny", help="as model= of evaluate")
    parser.add_argument("--prompts", default=DEFAULT, help="a file with a column prompt")
    parser.add_argument("--count", type=int, default=16, help="prompts")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of each answer")
    parser.add_argument("--batch-size", type=int, default=8, help="rows decoded together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strength", type=float, default=1.5)
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--quick", action="store_true", help="one turn of fewer tokens, no goal")
    args = parser.parse_args()
    if not Path(args.prompts).is_file():
        parser.error(f"{args.prompts} is not there: name a file with --prompts")
    if args.threads:
        torch.set_num_threads(args.threads)
    texts = [row["prompt"] for _, row in read_rows(args.prompts, "--prompts")]
    texts = texts[:: max(len(texts) // args.count, 1)][: args.count]
    tokens, repeats = (32, 1) if args.quick else (args.tokens, args.repeats)
    words = ["mitigation=contrast", f"mitigation.strength={args.strength}"]
    words.append(f"paths.cache={os.environ.get('TBR_CACHE', '.tbr/cache')}")
    config = compose_verb("evaluate", [f"model={args.model}", *words]).config
    plain = load_model(args.model, config.paths).backbone
    guided = config.mitigation.apply(plain, config)
    models = {"plain": plain, "contrast": guided}
    print(
        f"{plain.origin}, {plain.model.dtype}: {len(texts)} prompts, {tokens} tokens each, "
        f"{args.batch_size} rows at a time, {torch.get_num_threads()} threads"
    )
    ratio = measure(
        lambda way, limit: seconds_of(models[way], texts, limit, args.batch_size), tokens, repeats
    )
    missed = ratio > GOAL and not args.quick
    print("missed" if missed else "met", f"(goal: at most {GOAL:g}x)")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
