"""Prompts answered by a small model: ours, transformers' pipeline and `generate`, and lm_eval.

    python benchmarks/evaluation_speed.py [--quick] [--model FOLDER|FILE.gguf] [--prompts FILE.csv]

All decode greedily what the same chat template lays out, in the same type, turn by turn in one
process, with the same threads; the medians of the turns are compared, by the clock and, to tell
what other programs took, by the seconds of the cores. The pipeline and lm_eval's
`hf` backend have batch size 8 (goal: at least 3 times their prompts per second), `generate` has
batches of 32 prompts of similar length (goal: 1.3 times). Ours takes its own default. Outputs must
be identical: a difference counts only where the two likeliest tokens are further apart than
rounding explains (1e-4 in float32, 0.5 in bfloat16) at the first place that differs. Where
`generation.dtype=auto` is bfloat16, ours in float32 is measured beside (goal: 4 times).

Prompts are XSTest's, or those of the micro-world where XSTest is not at hand. The default model is
the micro-world's base: its answers end by themselves, at varying lengths. Exits with 1 if a goal is
missed; what this machine cannot tell is said.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rows as source
from machine import BYTES, Machine, measured
from race import Goal, verdict

PIPELINE_BATCH, GENERATE_BATCH = 8, 32
TIES = {"float32": 1e-4, "bfloat16": 0.5}
GOALS = {"pipeline": 3.0, "lm_eval hf": 3.0, "generate": 1.3, "ours, float32": 4.0}
Answer = Callable[[], list[str]]


def ours(backbone: Any, texts: list[str], limit: int) -> Answer:
    from tbr_lightning.data.chat_template import prompt_ids
    from tbr_lightning.models.generation import generate

    def run() -> list[str]:
        prompts = [prompt_ids(backbone.tokenizer, text) for text in texts]
        made = dict(generate(backbone, prompts, max_new_tokens=limit))
        return [made[n].text for n in range(len(texts))]

    return run


def transformers_pipeline(backbone: Any, texts: list[str], limit: int) -> Answer:
    from transformers import pipeline

    pipe = pipeline("text-generation", model=backbone.model, tokenizer=backbone.tokenizer)
    chats = [[{"role": "user", "content": text}] for text in texts]

    def run() -> list[str]:
        made = pipe(chats, batch_size=PIPELINE_BATCH, max_new_tokens=limit, do_sample=False)
        return [one[0]["generated_text"][-1]["content"] for one in made]

    return run


def transformers_generate(backbone: Any, texts: list[str], limit: int) -> Answer:
    import torch

    from tbr_lightning.data.chat_template import prompt_ids

    tokenizer, model = backbone.tokenizer, backbone.model

    def run() -> list[str]:
        prompts = [prompt_ids(tokenizer, text) for text in texts]
        order = sorted(range(len(texts)), key=lambda n: len(prompts[n]))
        found = [""] * len(texts)
        for start in range(0, len(order), GENERATE_BATCH):
            some = order[start : start + GENERATE_BATCH]
            batch = tokenizer.pad(
                {"input_ids": [prompts[n] for n in some]}, padding_side="left", return_tensors="pt"
            )
            with torch.inference_mode():
                out = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=limit,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            new = out[:, batch["input_ids"].shape[1] :]
            made = tokenizer.batch_decode(new, skip_special_tokens=True)
            for n, text in zip(some, made, strict=True):
                found[n] = text
        return found

    return run


def lm_eval_hf(backbone: Any, texts: list[str], limit: int) -> Answer:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        batch_size=PIPELINE_BATCH,
        add_bos_token=False,
        max_length=512,
    )
    until = {"until": [backbone.tokenizer.eos_token], "max_gen_toks": limit}

    def run() -> list[str]:
        rendered = [lm.apply_chat_template([{"role": "user", "content": t}]) for t in texts]
        asked = [
            Instance("generate_until", {}, (text, {**until, "do_sample": False}), n)
            for n, text in enumerate(rendered)
        ]
        return list(lm.generate_until(asked, disable_tqdm=True))

    return run


def differs(backbone: Any, text: str, one: str, other: str) -> bool:
    """Whether two outputs differ for another reason than a tie."""
    import torch

    from tbr_lightning.data.chat_template import prompt_ids
    from tbr_lightning.models.precision import name_of

    one, other = one.strip(), other.strip()
    if one == other:
        return False
    ids = [backbone.tokenizer.encode(part, add_special_tokens=False) for part in (one, other)]
    pairs = zip(*ids, strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(map(len, ids)))
    prompt = prompt_ids(backbone.tokenizer, text)
    with torch.inference_mode():
        logits = backbone.model(input_ids=torch.tensor([prompt + ids[0][:same]])).logits[0, -1]
    first, second = logits.float().topk(2).values.tolist()
    return bool(first - second > TIES[name_of(backbone.model.dtype)])


def load(model: Path | None) -> tuple[Any, str]:
    """Return the model in the type that `generation.dtype=auto` takes, and its name."""
    from tbr_lightning.models.backbone import load_folder
    from tbr_lightning.models.gguf import folder_of, is_gguf
    from tbr_lightning.models.precision import computed_in, convert, name_of

    cache = Path(os.environ.get("TBR_CACHE", ".tbr/cache"))
    if model is None:
        from tbr_lightning.microworld.base import base_model

        folder, name = base_model(cache), "the micro-world's base"
    else:
        folder, name = folder_of(model, cache) if is_gguf(model) else model, model.name
    backbone = load_folder(folder, origin=name, thinks=True)
    convert(backbone.model, computed_in(name_of(backbone.model.dtype), "auto", "cpu"))
    return backbone, name


def in_float32(backbone: Any) -> Any:
    """Return a copy of the model in float32."""
    from dataclasses import replace

    from tbr_lightning.models.precision import convert

    model = copy.deepcopy(backbone.model)
    convert(model, "float32")
    return replace(backbone, model=model)


def prompts(file: str | None) -> tuple[list[str], str]:
    """Return the prompts, and a word on where they are from."""
    from tbr_lightning.data.files import read_rows
    from tbr_lightning.microworld.prompts import evaluation_prompts

    place = file or source.shared("xstest", "xstest_prompts.csv")
    if place is not None:
        origin = "XSTest" if Path(place).name == "xstest_prompts.csv" else Path(place).name
        return [row["prompt"] for _, row in read_rows(str(place), "--prompts")], origin
    made = evaluation_prompts("test", 150)
    return [one.text for one in made], "the micro-world (xstest/xstest_prompts.csv not found)"


@dataclass
class Timed:
    """Seconds of each turn, by the clock and of the cores, and the last turn's outputs."""

    outputs: list[str]
    seconds: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)


def measure(ways: dict[str, Answer], repeats: int) -> dict[str, Timed]:
    """Run all ways in turns."""
    found: dict[str, Timed] = {}
    for name, run in ways.items():
        found[name] = Timed(run())  # warm-up
        print(f"  warmed up: {name}", file=sys.stderr, flush=True)
    for _ in range(repeats):
        for name, run in ways.items():
            start, worked = time.perf_counter(), time.process_time()
            found[name].outputs = run()
            found[name].seconds.append(time.perf_counter() - start)
            found[name].worked.append(time.process_time() - worked)
    return found


def report(
    machine: Machine, backbone: Any, texts: list[str], limit: int, found: dict[str, Timed]
) -> list[Goal]:
    """Print the table, and return what was met and missed."""
    from tbr_lightning.data.chat_template import prompt_ids
    from tbr_lightning.models.precision import name_of

    tokenizer, auto = backbone.tokenizer, name_of(backbone.model.dtype)
    asked = sum(len(prompt_ids(tokenizer, text)) for text in texts)
    used = sum(weight.numel() for weight in backbone.model.parameters())
    weights = used
    if not backbone.model.config.tie_word_embeddings:  # looked up, not multiplied
        used -= backbone.model.get_input_embeddings().weight.numel()
    mine, goals = found["ours"], []
    print(
        f"\n{'':15}{'type':>9}{'batch':>7}{'prompts/s':>10}{'new tokens/s':>13}"
        f"{'of matrix rate':>15}{'ours is':>9}{'':16}{'by CPU s':>9}{'differ':>8}"
    )
    batches = {"pipeline": PIPELINE_BATCH, "lm_eval hf": PIPELINE_BATCH, "generate": GENERATE_BATCH}
    for name, one in found.items():
        dtype = "float32" if name == "ours, float32" else auto
        seconds = statistics.median(one.seconds)
        made = tokenizer(one.outputs, add_special_tokens=False)["input_ids"]
        new = [min(len(ids) + 1, limit) for ids in made]  # with the end token
        share = machine.share(2.0 * used * (asked + sum(new)) / seconds, dtype)
        line = (
            f"{name:15}{dtype:>9}{batches.get(name, 'own'):>7}{len(texts) / seconds:10.2f}"
            f"{sum(new) / seconds:13.0f}{share:15.1%}"
        )
        if name == "ours":
            # Each step reads the weights once, if all prompts are answered at once.
            floors = machine.floors(
                2.0 * used * (asked + sum(new)), max(new) * weights * BYTES[dtype], dtype
            )
            took = seconds
        else:
            ratios = [a / b for a, b in zip(one.seconds, mine.seconds, strict=True)]
            ratio, wanted = statistics.median(ratios), GOALS[name]
            worked = statistics.median(a / b for a, b in zip(one.worked, mine.worked, strict=True))
            line += f"{ratio:8.2f}x {f'[{min(ratios):.2f}, {max(ratios):.2f}]':15}{worked:8.2f}x"
            goals.append(Goal(f"at least {wanted:g} times {name} ({ratio:.2f})", ratio >= wanted))
        if name not in ("ours", "ours, float32"):
            pairs = zip(texts, one.outputs, mine.outputs, strict=True)
            wrong = sum(differs(backbone, *pair) for pair in pairs)
            line += f"{wrong:8}"
            goals.append(Goal(f"the same answers as {name} but for ties ({wrong})", wrong == 0))
        print(line, flush=True)
    print(
        f"ours took {took:.3g} s; least by operations {floors[0]:.3g} s, by bytes (weights, once "
        f"for each token of the longest answer) {floors[1]:.3g} s"
    )
    return goals


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", help="a file in the form of xstest_prompts.csv")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder, or a GGUF file")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of all; default: torch's choice")
    parser.add_argument("--quick", action="store_true", help="60 prompts, two turns")
    args = parser.parse_args()
    for option, place in (("--prompts", args.prompts), ("--model", args.model)):
        if place is not None and not Path(place).exists():
            parser.error(f"{option} {place} is not there")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
    import torch
    from transformers.utils import logging as transformers_logging

    if args.threads:
        torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    machine = measured()
    texts, origin = prompts(args.prompts)
    texts = texts[:: len(texts) // 60] if args.quick else texts
    backbone, name = load(args.model)
    print(machine)
    print(f"{len(texts)} prompts of {origin}, answered by {name}, at most {args.tokens} tokens")
    ways: dict[str, Answer] = {
        "ours": ours(backbone, texts, args.tokens),
        "pipeline": transformers_pipeline(backbone, texts, args.tokens),
        "generate": transformers_generate(backbone, texts, args.tokens),
    }
    unjudged: list[Goal] = []
    try:
        ways["lm_eval hf"] = lm_eval_hf(backbone, texts, args.tokens)
    except ImportError as error:
        unjudged.append(Goal(f"lm_eval hf: lm_eval is not installed ({error})", None))
    if backbone.model.dtype == torch.float32:
        why = "the weights are float32" if machine.units else "no bfloat16 units"
        wanted = GOALS["ours, float32"]
        text = f"at least {wanted:g} times ours in float32: that is what auto takes here ({why})"
        unjudged.append(Goal(text, None))
    else:
        ways["ours, float32"] = ours(in_float32(backbone), texts, args.tokens)
    found = measure(ways, 2 if args.quick else args.repeats)
    return verdict([*report(machine, backbone, texts, args.tokens, found), *unjudged])


if __name__ == "__main__":
    sys.exit(main())
