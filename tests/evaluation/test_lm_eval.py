"""Whole tasks of lm-eval from local files, answered by our engine and by its own `hf` model."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.evaluation.general import measure
from tbr_lightning.evaluation.questions import prepare
from tbr_lightning.models.architecture import context_length
from tbr_lightning.models.backbone import Backbone, load_folder

ROWS, TOKENS, CLOSE = 20, 24, 1e-3


@pytest.fixture(scope="module")
def backbone(base_folder: Path) -> Backbone:
    found = load_folder(base_folder, origin="base", thinks=True, dtype="float32")
    found.model.config.max_position_embeddings = 2048  # room for examples; positions are rotary
    return replace(found, think_format=replace(found.think_format, max_new_tokens=TOKENS))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that the base model was trained to answer, in the form of four published files."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("arc", "mmlu/test", "mmlu/dev", "truthfulqa", "gsm8k"):
        (folder / name).mkdir(parents=True)
    asked = prepare(compose_verb("evaluate", ["model=tiny", "suite=smoke"]).config.suite)
    facts = [
        (one.text, list(one.options), int(one.leaf.doc_to_target(one.leaf.eval_docs[one.number])))
        for one in asked[: ROWS + 5]
    ]
    rows, examples = facts[:ROWS], facts[ROWS:]
    with (folder / "arc" / "ARC-Challenge-Test.jsonl").open("w") as stream:
        for question, options, right in rows:
            choices = [{"text": t, "label": k} for t, k in zip(options, "ABCD", strict=True)]
            row = {"question": {"stem": question, "choices": choices}, "answerKey": "ABCD"[right]}
            stream.write(json.dumps(row) + "\n")
    for place, some in (("test/x_test.csv", rows), ("dev/x_dev.csv", examples)):
        with (folder / "mmlu" / place.replace("x_", "virology_")).open("w", newline="") as stream:
            csv.writer(stream).writerows([q, *o, "ABCD"[r]] for q, o, r in some)
    with (folder / "truthfulqa" / "TruthfulQA.csv").open("w", newline="") as stream:
        header = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
        table = csv.writer(stream)
        table.writerow(header)
        for n, (question, options, right) in enumerate(rows):
            wrong = [option for k, option in enumerate(options) if k != right]
            true = [options[right], *wrong[: n % 2]]
            table.writerow([question, true[0], "; ".join(true), "; ".join(wrong[n % 2 :])])
    with (folder / "gsm8k" / "test.jsonl").open("w") as stream:
        for n, (question, options, right) in enumerate(rows):
            row = {"question": question, "answer": f"{options[right]} #### {n}"}
            stream.write(json.dumps(row) + "\n")
    return folder


def suite(root: Path, task: str, shots: int | None) -> SuiteConfig:
    return SuiteConfig(
        name="t", half="all", root=str(root), lm_eval=[task], lm_eval_shots=shots, limit=ROWS
    )


def by_hf(backbone: Backbone, config: SuiteConfig) -> list[dict[str, Any]]:
    """Return what the harness makes of the same rows with its own model, one sample a row."""
    model = HFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        batch_size=4,
        max_length=context_length(backbone.model.config),
    )
    leaf = prepare(config)[0].leaf
    if leaf.OUTPUT_TYPE == "generate_until":
        leaf.set_config("generation_kwargs", {"max_gen_toks": TOKENS}, update=True)
    chat = {"apply_chat_template": True, "fewshot_as_multiturn": True}
    found = evaluate(model, {"tasks": {"t": leaf}}, limit=ROWS, bootstrap_iters=0, **chat)
    return list(found["samples"]["t"])


@pytest.mark.parametrize(
    ("task", "shots"),
    [("arc_challenge", None), ("mmlu", None), ("mmlu", 2), ("truthfulqa_mc2", None)],
)
def test_likelihood_tasks_equal_hf_row_by_row(
    backbone: Backbone, root: Path, task: str, shots: int | None
) -> None:
    config = suite(root, task, shots)
    ours, theirs = measure(backbone, config, prepare(config)).rows, by_hf(backbone, config)
    assert len(ours) == len(theirs) == ROWS
    decided = 0
    for mine, other in zip(ours, theirs, strict=True):
        scores = [float(score) for score, _ in other["filtered_resps"]]
        assert mine.scores == pytest.approx(scores, abs=CLOSE)
        best, second = sorted(scores)[:-3:-1]
        if best - second > 2 * CLOSE:  # rounding may turn a tie over
            decided += 1
            assert mine.value == pytest.approx(other["acc"], abs=CLOSE)
    assert decided > ROWS / 2
    assert len({mine.value for mine in ours}) > 1


def test_what_is_generated_equals_hf_row_by_row(backbone: Backbone, root: Path) -> None:
    config = suite(root, "gsm8k", None)
    ours, theirs = measure(backbone, config, prepare(config)).rows, by_hf(backbone, config)
    of_filter = [one for one in theirs if one["filter"] == "flexible-extract"]
    assert len(ours) == len(of_filter) == ROWS
    assert len({one["resps"][0][0] for one in of_filter}) > 1
    for mine, other in zip(ours, of_filter, strict=True):
        assert mine.chosen == str(other["filtered_resps"][0])
        assert mine.value == other["exact_match"]
