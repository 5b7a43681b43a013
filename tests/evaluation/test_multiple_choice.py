"""Multiple choice: the batched scores against a direct computation, and what files give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.data.think_format import prompt_ids
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.choices import load_questions
from tbr_lightning.evaluation.general import measure, prepare
from tbr_lightning.evaluation.multiple_choice import Question, Scored, accuracies, score
from tbr_lightning.models.backbone import Backbone, load_backbone, load_folder

QUESTIONS = [
    Question("a", "What is it?", ("yes", "no, not at all in any way", "perhaps"), 0),
    Question(
        "a", "A much longer question, with more than one clause, is asked here?", ("x", "y"), 1
    ),
    Question("b", "And?", ("one", "two", "a third"), 2),
    Question("b", "Pick.", ("A", "B"), 0),
]


def suite(*words: str) -> SuiteConfig:
    return compose_verb("evaluate", ["model=tiny", *words]).config.suite


def direct(backbone: Backbone, question: Question) -> list[float]:
    """One option at a time, without batch, padding or cache."""
    start = prompt_ids(backbone.tokenizer, question.text)
    sums = []
    for option in question.options:
        ids = backbone.tokenizer.encode(option, add_special_tokens=False)
        with torch.inference_mode():
            logits = backbone.model(input_ids=torch.tensor([start + ids])).logits[0].float()
        likely = logits.log_softmax(-1)[len(start) - 1 : -1]
        sums.append(float(likely.gather(1, torch.tensor(ids)[:, None]).sum()))
    return sums


@pytest.mark.parametrize("name", ["mistral", "gemma2_2b", "qwen3_0_6b", "phi3_mini", "falcon_7b"])
def test_batched_scores_are_the_direct_ones(name: str, tmp_path: Path) -> None:
    words = [f"model={name}", "model.init=random", "model.scale=tiny", "model.tokenizer=bytes"]
    # In bfloat16 another kernel, hence another processor, changes a sum by more than a bound
    # could tell from a fault.
    words.append("model.dtype=float32")
    model = compose_verb("train", [*words, "data=microworld"]).config.model
    backbone = load_backbone(model, data="microworld", rows=(), cache=tmp_path, seed=0)
    found = dict(score(backbone, QUESTIONS, batch_size=5))
    assert sorted(found) == list(range(len(QUESTIONS)))
    for number, question in enumerate(QUESTIONS):
        assert found[number].scores == pytest.approx(direct(backbone, question), abs=1e-4)


def test_a_short_option_has_no_head_start_per_byte() -> None:
    question = Question("t", "?", ("no", "a long answer that is right"), 1)
    rates = accuracies([Scored(question, (-4.0, -9.0))])
    assert (rates["t"].count, rates["t_norm"].count, rates["t"].n) == (0, 1, 1)


def test_microworld_questions_are_held_out_and_their_answers_spread() -> None:
    dev, test = (load_questions(suite("suite=smoke", f"suite.half={h}")) for h in ("dev", "test"))
    assert not {q.text for q in dev} & {q.text for q in test}
    assert all(len(set(q.options)) == 4 for q in dev + test)
    places = [q.right for q in test]
    assert all(places.count(place) > len(test) / 8 for place in range(4))


def test_the_base_model_knows_the_micro_world(base_folder: Path) -> None:
    backbone = load_folder(base_folder, origin="base", thinks=True)
    config = suite("suite=smoke", "suite.limit=60")
    found = measure(backbone, config, prepare(config), 64)
    numbers = found.metrics()
    assert numbers["general/microworld_choice_n"] == 60
    assert numbers["general/microworld_choice_lo"] > 0.5  # four options: chance is 0.25
    row = found.table()[0]
    assert row["answer"] in row["options"]
    assert len(row["scores"]) == 4


COUNTS = {"mmlu": 2285, "arc_challenge": 1172, "truthfulqa_mc1": 817}


@pytest.mark.parametrize("task", COUNTS)
def test_the_real_files(shared_data: Path, task: str) -> None:
    words = ("suite=standard", f"suite.root={shared_data}", f"suite.choices=[{task}]")
    halves = [load_questions(suite(*words, f"suite.half={half}")) for half in ("dev", "test")]
    whole = load_questions(suite(*words, "suite.half=all"))
    assert sum(map(len, halves)) == len(whole) == COUNTS[task]
    assert not {q.text for q in halves[0]} & {q.text for q in halves[1]}
    assert all(0.45 < len(half) / len(whole) < 0.55 for half in halves)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mmlu/test/x_test.csv", "What?,a,b,c,d,C\n"),
        (
            "arc/ARC-Challenge-Test.jsonl",
            '{"question": {"stem": "What?", "choices": [{"text": "a", "label": "A"}, '
            '{"text": "b", "label": "B"}, {"text": "c", "label": "C"}]}, "answerKey": "C"}\n',
        ),
    ],
)
def test_the_authors_own_forms(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    task = "mmlu" if "mmlu" in name else "arc_challenge"
    words = ("suite=standard", "suite.half=all", f"suite.root={tmp_path}")
    (question,) = load_questions(suite(*words, f"suite.choices=[{task}]"))
    assert question.right == 2
    assert question.text.startswith("What?")


def test_what_is_missing_is_told_together(tmp_path: Path) -> None:
    words = ("suite=standard", f"suite.root={tmp_path}", "suite.choices=[mmlu,arc_challenge]")
    with pytest.raises(UserError) as told:
        prepare(suite(*words))
    assert len(str(told.value).splitlines()) == 2
    with pytest.raises(UserError, match="did you mean 'arc_challenge'"):
        prepare(suite("suite=standard", "suite.choices=[arc_chalenge]"))
