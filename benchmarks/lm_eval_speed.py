"""Tasks of lm-eval on our decoder against its own `hf` model: same answers, how much faster.

    python benchmarks/lm_eval_speed.py --model FOLDER|FILE.gguf [--root DIR] [--rows N]

Both score the same requests of `arc_challenge`, `mmlu` (without and with five examples),
`truthfulqa_mc2` and `gsm8k` with the same weights in float32, turn by turn in one process, with
the same threads; the medians of the turns are compared. `hf` has for each task the batch size that
is fastest over some of its rows (`--batch N` fixes it), ours takes its own default. Goal: at least
3 times as fast over the likelihood tasks. Per task it says how far scores are apart at most, and in
how many questions another option is the likeliest; such a question must be a tie (two options
within 1e-3), and a generated answer may differ only from a token on whose two likeliest candidates
are within 1e-3. Exit code 1 if answers differ or the goal is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.evaluation.lm_eval_model import EngineLM
from tbr_lightning.evaluation.questions import Question, prepare
from tbr_lightning.models.backbone import Backbone, load_folder

TIE, GOAL = 1e-3, 3.0
BATCHES = (1, 4, 8, 16, 32)
TASKS = (("arc_challenge", 0), ("mmlu", 0), ("mmlu", 5), ("truthfulqa_mc2", 0), ("gsm8k", 0))


def requests_of(questions: list[Question], lm: Any) -> list[Any]:
    """The requests of some questions, as the harness lays them out through the chat template."""
    leaves: dict[str, list[Question]] = {}
    for question in questions:
        leaves.setdefault(question.leaf.task_name, []).append(question)
    found: list[Any] = []
    for of_leaf in leaves.values():
        leaf = of_leaf[0].leaf
        leaf.build_all_requests(
            samples=[one.number for one in of_leaf],
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=lm.apply_chat_template,
            tokenizer_name=lm.tokenizer_name,
        )
        found += leaf.instances
    return found


def spread(questions: list[Question], rows: int) -> list[Question]:
    """As many rows, from all subjects alike."""
    return questions[:: max(len(questions) // rows, 1)][:rows]


def best_batch(lm: Any, requests: list[Any]) -> int:
    """The batch size at which `hf` is fastest over a part of a task; the first call only warms."""
    part = requests[:: max(len(requests) // 64, 1)]
    lm.loglikelihood(part[:4], disable_tqdm=True)
    seconds = {}
    for size in BATCHES:
        lm.batch_size_per_gpu = size
        start = time.perf_counter()
        lm.loglikelihood(part, disable_tqdm=True)
        seconds[size] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)


def load(model: Path) -> Backbone:
    if model.suffix == ".gguf":
        from tbr_lightning.models.gguf import folder_of

        model = folder_of(model, Path(".tbr/cache"))
    return load_folder(model, origin=str(model), thinks=True, dtype="float32")


def by_question(requests: list[Any], scores: list[Any]) -> list[list[float]]:
    found: dict[tuple[str, int], list[float]] = {}
    for request, score in zip(requests, scores, strict=True):
        found.setdefault((request.task_name, request.doc_id), []).append(score[0])
    return list(found.values())


def wrong_choices(requests: list[Any], ours: list[Any], theirs: list[Any]) -> tuple[int, int]:
    """How many questions get another likeliest option, and how many of them without a tie."""
    other = untied = 0
    for one, two in zip(by_question(requests, ours), by_question(requests, theirs), strict=True):
        a, b = one.index(max(one)), two.index(max(two))
        other += a != b
        untied += a != b and two[b] - two[a] > TIE
    return other, untied


def diverges(backbone: Backbone, context: str, one: str, other: str) -> bool:
    """Whether two answers differ for another reason than a tie."""
    if one.strip() == other.strip():
        return False
    tokenizer = backbone.tokenizer
    ids = [tokenizer.encode(part, add_special_tokens=False) for part in (one, other)]
    same = next(
        (n for n, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids))
    )
    prompt = tokenizer.encode(context, add_special_tokens=False)
    with torch.inference_mode():
        logits = backbone.model(input_ids=torch.tensor([prompt + ids[0][:same]])).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    return bool(first - second > TIE)


def main() -> int:
    from lm_eval.models.huggingface import HFLM

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, required=True, help="a Hugging Face folder, or a GGUF file"
    )
    parser.add_argument("--root", default="../shared/data", help="folder with arc, mmlu, …")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--batch", type=int, help="of hf; without it the fastest of some")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer to gsm8k")
    parser.add_argument("--only", help="one task")
    given = parser.parse_args()
    backbone = load(given.model)
    ours = EngineLM(backbone)
    theirs = HFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        batch_size=given.batch or 8,
        max_length=ours.max_length,
    )
    print(
        f"{given.model.name}, float32, {torch.get_num_threads()} threads, {given.rows} rows a task"
    )
    print(
        f"{'task':20}{'ours s':>9}{'hf s':>9}{'batch':>6}{'ratio':>8}{'apart':>10}{'other':>7}"
        f"{'no tie':>8}"
    )
    sums, failed = [0.0, 0.0], False
    for task, shots in TASKS:
        if given.only not in (None, task):
            continue
        suite = SuiteConfig(
            name="b", half="all", root=given.root, lm_eval=[task], lm_eval_shots=shots
        )
        questions = spread(prepare(suite), given.rows)
        requests = requests_of(questions, ours)
        writes = requests[0].request_type == "generate_until"
        for request in requests if writes else ():
            request.arguments[1]["max_gen_toks"] = given.tokens
        if given.batch is None and not writes:
            theirs.batch_size_per_gpu = best_batch(theirs, requests)
        seconds: list[list[float]] = [[], []]
        found: list[list[Any]] = [[], []]
        for _ in range(1 if writes else given.repeats):
            for side, lm in enumerate((ours, theirs)):
                start = time.perf_counter()
                found[side] = getattr(lm, requests[0].request_type)(requests, disable_tqdm=True)
                seconds[side].append(time.perf_counter() - start)
        medians = [statistics.median(one) for one in seconds]
        if writes:
            apart = 0.0
            pairs = list(zip(requests, *found, strict=True))
            other = sum(one.strip() != two.strip() for _, one, two in pairs)
            untied = sum(diverges(backbone, r.args[0], one, two) for r, one, two in pairs)
        else:
            apart = max(abs(a[0] - b[0]) for a, b in zip(*found, strict=True))
            other, untied = wrong_choices(requests, *found)
            sums = [total + median for total, median in zip(sums, medians, strict=True)]
        failed |= untied > 0
        name = f"{task}, {shots} shots"
        ratio = medians[1] / medians[0]
        print(
            f"{name:20}{medians[0]:9.2f}{medians[1]:9.2f}{theirs.batch_size_per_gpu:6}{ratio:8.2f}"
            f"{apart:10.1e}{other:7}{untied:8}",
            flush=True,
        )
    if sums[0]:
        reached = sums[1] / sums[0] >= GOAL
        print(
            f"likelihood tasks together: {sums[1] / sums[0]:.2f} times as fast as hf at its best "
            f"batch size (goal {GOAL:.0f}: {'met' if reached else 'missed'})"
        )
        failed |= not reached
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
