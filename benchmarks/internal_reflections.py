"""Internal reflections: length-sorted batches against `model.generate` one by one, in one run.

    python benchmarks/internal_reflections.py

Prints rows per second of both, their ratio, and how many greedy outputs differ; a difference counts
only where the two most likely tokens are more than 1e-4 apart at the first place that differs.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.sources import load
from tbr_lightning.models.backbone import Backbone, load_backbone
from tbr_lightning.models.generation import generate, reflection_prefix

NEW_TOKENS, TIE = 96, 1e-4


def one_by_one(backbone: Backbone, prompts: list[list[int]]) -> list[list[int]]:
    made = []
    for ids in prompts:
        with torch.inference_mode():
            out = backbone.model.generate(
                input_ids=torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False
            )
        made.append(out[0, len(ids) :].tolist())
    return made


def differs(backbone: Backbone, prompt: list[int], single: str, batched: str) -> bool:
    """Whether two outputs differ for another reason than a tie."""
    if single == batched:
        return False
    ids = [backbone.tokenizer.encode(text, add_special_tokens=False) for text in (single, batched)]
    same = next(n for n, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1])
    with torch.inference_mode():
        logits = backbone.model(input_ids=torch.tensor([prompt + ids[0][:same]])).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    return first - second > TIE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    cache = Path(os.environ.get("TBR_CACHE", ".tbr/cache"))
    config = compose_verb("reflect", [f"data.harmful={args.rows}", "data.general=0"]).config
    rows = load(config.data, 0, cache)
    backbone = load_backbone(config.model, data="microworld", rows=rows, cache=cache, seed=0)
    prompts = [reflection_prefix(backbone, row.prompt) for row in rows]
    one_by_one(backbone, prompts[:4])  # warm-up
    start = time.perf_counter()
    singles = one_by_one(backbone, prompts)
    single_seconds = time.perf_counter() - start
    start = time.perf_counter()
    settings = {"max_new_tokens": NEW_TOKENS, "batch_size": args.batch_size}
    batched = dict(generate(backbone, prompts, **settings))
    batch_seconds = time.perf_counter() - start
    wrong = sum(
        differs(
            backbone,
            prompts[n],
            backbone.tokenizer.decode(singles[n], skip_special_tokens=True),
            batched[n].text,
        )
        for n in range(len(prompts))
    )
    print(f"one by one: {len(rows) / single_seconds:.1f} rows/s")
    print(f"batches of {args.batch_size}: {len(rows) / batch_seconds:.1f} rows/s")
    print(f"ratio: {single_seconds / batch_seconds:.1f}; outputs that differ: {wrong}")


if __name__ == "__main__":
    main()
