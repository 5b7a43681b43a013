"""XSTest's 450 prompts answered by a small model on CPU: ours, transformers' pipeline, lm_eval.

    python benchmarks/evaluation_speed.py [--quick] [--prompts xstest_prompts.csv] [--model FOLDER]

All three decode greedily what the same chat template lays out, turn by turn in one process, with
the same threads; the medians of the turns are compared. The pipeline has batch size 8 (goal: at
least 3 times its prompts per second); so has lm_eval's `hf` backend (same goal). Ours takes its
own default. Outputs must be identical: a difference counts only where the two likeliest tokens are
more than 1e-4 apart at the first place that differs. Exit code 1 if a goal is missed.

The default model is the micro-world's base: its answers end by themselves, at varying lengths.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline
from transformers.utils import logging as transformers_logging

from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.data.files import read_rows
from tbr_lightning.models.backbone import Backbone, load_folder
from tbr_lightning.models.generation import generate

NEW_TOKENS, THEIR_BATCH, TIE, GOAL = 96, 8, 1e-4, 3.0
DEFAULT = "../shared/data/xstest/xstest_prompts.csv"
Answer = Callable[[], list[str]]


def ours(backbone: Backbone, texts: list[str]) -> Answer:
    def run() -> list[str]:
        prompts = [prompt_ids(backbone.tokenizer, text) for text in texts]
        made = dict(generate(backbone, prompts, max_new_tokens=NEW_TOKENS))
        return [made[n].text for n in range(len(texts))]

    return run


def transformers_pipeline(backbone: Backbone, texts: list[str]) -> Answer:
    pipe = pipeline("text-generation", model=backbone.model, tokenizer=backbone.tokenizer)
    chats = [[{"role": "user", "content": text}] for text in texts]

    def run() -> list[str]:
        made = pipe(chats, batch_size=THEIR_BATCH, max_new_tokens=NEW_TOKENS, do_sample=False)
        return [one[0]["generated_text"][-1]["content"] for one in made]

    return run


def lm_eval_hf(backbone: Backbone, texts: list[str]) -> Answer:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        batch_size=THEIR_BATCH,
        add_bos_token=False,
        max_length=512,
    )
    until = {"until": [backbone.tokenizer.eos_token], "max_gen_toks": NEW_TOKENS}

    def run() -> list[str]:
        rendered = [lm.apply_chat_template([{"role": "user", "content": t}]) for t in texts]
        asked = [
            Instance("generate_until", {}, (text, {**until, "do_sample": False}), n)
            for n, text in enumerate(rendered)
        ]
        return list(lm.generate_until(asked, disable_tqdm=True))

    return run


def differs(backbone: Backbone, text: str, one: str, other: str) -> bool:
    """Whether two outputs differ for another reason than a tie."""
    one, other = one.strip(), other.strip()
    if one == other:
        return False
    ids = [backbone.tokenizer.encode(part, add_special_tokens=False) for part in (one, other)]
    pairs = zip(*ids, strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(map(len, ids)))
    prompt = prompt_ids(backbone.tokenizer, text)
    with torch.inference_mode():
        logits = backbone.model(input_ids=torch.tensor([prompt + ids[0][:same]])).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    return first - second > TIE


def load(model: Path | None) -> Backbone:
    if model is not None:
        return load_folder(model, origin=str(model), thinks=True, dtype="float32")
    from tbr_lightning.microworld.base import base_model

    folder = base_model(Path(os.environ.get("TBR_CACHE", ".tbr/cache")))
    return load_folder(folder, origin=folder.name, thinks=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", default=DEFAULT, help="xstest_prompts.csv")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder with a chat template")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of all; default: torch's choice")
    parser.add_argument("--quick", action="store_true", help="60 prompts, two turns, no goal")
    args = parser.parse_args()
    if not Path(args.prompts).is_file():
        parser.error(f"{args.prompts} is not there: name XSTest's prompts with --prompts")
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    texts = [row["prompt"] for _, row in read_rows(args.prompts, "--prompts")]
    repeats = 2 if args.quick else args.repeats
    texts = texts[:: len(texts) // 60] if args.quick else texts
    backbone = load(args.model)
    ways: dict[str, Answer] = {
        "ours": ours(backbone, texts),
        f"pipeline, {THEIR_BATCH}": transformers_pipeline(backbone, texts),
        f"lm_eval hf, {THEIR_BATCH}": lm_eval_hf(backbone, texts),
    }
    return report(backbone, texts, measure(ways, repeats), quick=args.quick)


Measured = dict[str, tuple[list[float], list[str]]]


def measure(ways: dict[str, Answer], repeats: int) -> Measured:
    """Run all ways in turns; return seconds and outputs of each."""
    outputs: dict[str, Any] = {name: run() for name, run in ways.items()}  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            outputs[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return {name: (seconds[name], outputs[name]) for name in ways}


def report(backbone: Backbone, texts: list[str], measured: Measured, *, quick: bool) -> int:
    own_seconds, own = measured["ours"]
    missed = False
    print(f"{len(texts)} prompts, {torch.get_num_threads()} threads")
    for name, (seconds, outputs) in measured.items():
        line = f"{name:14} {len(texts) / statistics.median(seconds):7.1f} prompts/s"
        if name != "ours":
            ratios = [a / b for a, b in zip(seconds, own_seconds, strict=True)]
            ratio = statistics.median(ratios)
            wrong = sum(map(differs, [backbone] * len(texts), texts, outputs, own))
            line += f"   ours {ratio:.2f}x [{min(ratios):.2f}, {max(ratios):.2f}]"
            line += f"   outputs that differ: {wrong}"
            missed |= wrong > 0 or (ratio < GOAL and not quick)
        print(line)
    print("missed" if missed else "met", f"(goal: {GOAL:g}x, identical outputs)")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
