"""General ability: what is asked, what its numbers are, and what the gate gets of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import questions
from tbr_lightning.evaluation.general import chances, measure
from tbr_lightning.evaluation.questions import Question, identity, prepare
from tbr_lightning.models.backbone import Backbone, load_backbone, load_folder

TASKS = ("arc_challenge", "gsm8k", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2")
COUNTS = {"mmlu": 2285, "arc_challenge": 1172, "truthfulqa_mc2": 817, "gsm8k": 1319}


def suite(*words: str) -> SuiteConfig:
    return compose_verb("evaluate", ["model=tiny", *words]).config.suite


def tiny(cache: Path) -> Backbone:
    words = ["model=qwen2_5_0_5b", "model.init=random", "model.scale=tiny", "model.tokenizer=bytes"]
    model = compose_verb("train", [*words, "data=microworld"]).config.model
    model.max_new_tokens = 8
    return load_backbone(model, data="microworld", rows=(), cache=cache, seed=0)


def test_microworld_questions_are_held_out_and_their_answers_spread() -> None:
    dev, test = (prepare(suite("suite=smoke", f"suite.half={h}")) for h in ("dev", "test"))
    assert not {q.text for q in dev} & {q.text for q in test}
    assert all(len(set(q.options)) == 4 for q in dev + test)
    places = [q.leaf.doc_to_target(q.leaf.eval_docs[q.number]) for q in test]
    assert all(places.count(place) > len(test) / 8 for place in range(4))


def accuracy_by_plain_transformers(backbone: Backbone, questions: Sequence[Question]) -> float:
    """Score each option in a forward pass of its own, after the prompt of a chat."""
    right = 0
    for question in questions:
        said = [{"role": "user", "content": question.text}]
        prompt = backbone.tokenizer.apply_chat_template(
            said, add_generation_prompt=True, tokenize=False
        )
        start = backbone.tokenizer.encode(prompt, add_special_tokens=False)
        scores = []
        for option in question.options:
            end = backbone.tokenizer.encode(option, add_special_tokens=False)
            with torch.no_grad():
                logits = backbone.model(torch.tensor([start + end])).logits[0].float()
            picked = logits[len(start) - 1 : -1].log_softmax(-1)
            scores.append(float(picked.gather(1, torch.tensor(end)[:, None]).sum()))
        doc = question.leaf.eval_docs[question.number]
        right += scores.index(max(scores)) == question.leaf.doc_to_target(doc)
    return right / len(questions)


def test_the_base_model_knows_the_micro_world(base_folder: Path) -> None:
    backbone = load_folder(base_folder, origin="base", thinks=True)
    config = suite("suite=smoke")
    found = measure(backbone, config, prepare(config))
    numbers = found.metrics()
    expected = accuracy_by_plain_transformers(backbone, prepare(config))
    assert numbers["general/microworld_choice"] == expected > 0.95
    assert numbers["general/microworld_choice_n"] == 228
    row = found.table()[0]
    assert row["answer"] in row["options"]
    assert len(row["scores"]) == 4


@pytest.mark.slow  # a process of its own
def test_the_harness_is_imported_where_it_is_used_alone() -> None:
    code = (
        "import sys, tbr_lightning.evaluation.pipeline, tbr_lightning.registry.evidence, "
        "tbr_lightning.tuning.pipeline; print('lm_eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_identity_is_that_of_earlier_tables_where_nothing_else_is_asked() -> None:
    (question,) = prepare(suite("suite=smoke", "suite.limit=1"))
    assert question.id == identity(question.task, question.text, question.options)
    assert question.id == "ce7b64a8f6c7c5c1"
    (plain,) = prepare(suite("suite=smoke", "suite.limit=1", "suite.lm_eval_chat=false"))
    assert plain.id != question.id


def test_examples_come_from_the_split_that_is_there(shared_data: Path) -> None:
    words = ("suite=standard", "suite.limit=1", f"suite.root={shared_data}")
    tasks = "suite.lm_eval=[mmlu,truthfulqa_mc2]"
    mmlu, truthful = prepare(suite(*words, tasks, "suite.lm_eval_shots=2"))
    assert (mmlu.how, truthful.how) == ("2 shots, chat template", "0 shots, chat template")


def test_what_guessing_gets_is_read_off_the_tasks_own_rule(tmp_path: Path) -> None:
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "ARC-Challenge-Test.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "question": f"What is {n}?",
                    "choices": {"text": [str(k) for k in range(n)], "label": list("ABCDE")[:n]},
                    "answerKey": "B",
                }
            )
            + "\n"
            for n in (3, 4, 5)
        )
    )
    (tmp_path / "truthfulqa").mkdir()
    (tmp_path / "truthfulqa" / "TruthfulQA.csv").write_text(
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        "A,Law,Is it?,Yes,Yes; It is; So it is,No,x\n"
    )
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "2+2?", "answer": "#### 4"}\n')
    words = ("suite=standard", f"suite.root={tmp_path}", "suite.half=all")
    tasks = "suite.lm_eval=[arc_challenge,truthfulqa_mc1,truthfulqa_mc2,gsm8k]"
    asked: dict[str, dict[str, float | None]] = {}
    for question in prepare(suite(*words, tasks)):
        asked.setdefault(question.task, {})[question.id] = question.chance
    assert sorted(asked["arc_challenge"].values()) == [1 / 5, 1 / 4, 1 / 3]
    assert chances(asked) == {
        "arc_challenge": pytest.approx((1 / 5 + 1 / 4 + 1 / 3) / 3),
        "truthfulqa_mc1": 1 / 2,  # the best answer against one wrong
        "truthfulqa_mc2": 3 / 4,  # three of four are true
    }


def test_questions_of_a_task_have_a_limit_of_their_own(shared_data: Path) -> None:
    words = ("suite=standard", f"suite.root={shared_data}", "suite.lm_eval=[arc_challenge]")
    assert len(prepare(suite(*words, "suite.limit=3"))) == 3
    assert len(prepare(suite(*words, "suite.limit=3", "suite.lm_eval_limit=7"))) == 7


def test_the_earlier_name_of_the_tasks_is_read() -> None:
    assert suite("suite=smoke", "suite.choices=[microworld]").lm_eval == ["microworld_choice"]
    assert prepare(suite("suite=full", "suite.choices=[]")) == []


@pytest.mark.parametrize("task", COUNTS)
def test_the_real_files(shared_data: Path, task: str) -> None:
    words = ("suite=standard", f"suite.root={shared_data}", f"suite.lm_eval=[{task}]")
    halves = [prepare(suite(*words, f"suite.half={half}")) for half in ("dev", "test")]
    whole = prepare(suite(*words, "suite.half=all"))
    assert sum(map(len, halves)) == len(whole) == COUNTS[task]
    assert not {q.text for q in halves[0]} & {q.text for q in halves[1]}
    assert all(0.45 < len(half) / len(whole) < 0.55 for half in halves)


def test_real_files_on_a_tiny_model(shared_data: Path, tmp_path: Path) -> None:
    chosen = f"suite.lm_eval=[{','.join(TASKS)}]"
    config = suite("suite=standard", "suite.limit=4", f"suite.root={shared_data}", chosen)
    found = measure(tiny(tmp_path), config, prepare(config))
    numbers = found.metrics()
    for task in TASKS:
        assert numbers[f"general/{task}_n"] == 4
        values = [numbers[f"general/{task}{end}"] for end in ("_lo", "", "_hi")]
        assert 0 <= values[0] <= values[1] <= values[2] <= 1, task
        assert values[0] < values[2]
    kinds = {row["task"]: (row["metric"], row["how"]) for row in found.harness_table()}
    assert kinds["arc_challenge"] == ("acc", "0 shots, chat template")
    assert kinds["gsm8k"] == ("exact_match", "0 shots, chat template")
    rows = json.loads(json.dumps(found.table()))
    assert [row["task"] for row in rows] == [q.question.task for q in found.rows]
    assert {row["right"] for row in rows} <= {True, False}


def test_a_question_beyond_the_context_is_counted_and_not_scored(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = tiny(tmp_path)
    words = ("suite=standard", "suite.limit=12", f"suite.root={shared_data}")
    config = suite(*words, "suite.lm_eval=[arc_challenge,gsm8k]")
    questions = prepare(config)
    lengths = [len(q.text) for q in questions if q.task == "arc_challenge"]
    backbone.model.config.max_position_embeddings = sorted(lengths)[6] + 100
    found = measure(backbone, config, questions)
    numbers = found.metrics()
    for task in ("arc_challenge", "gsm8k"):
        unasked = numbers[f"general/{task}_unasked"]
        assert 0 < unasked < 12
        assert numbers[f"general/{task}_n"] == 12 - unasked
        rows = [row for row in found.table() if row["task"] == task and row["right"] is None]
        assert len(rows) == unasked
    assert "questions of gsm8k are longer than the model's context" in capsys.readouterr().err


def test_a_task_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"q": f"What is {n}?", "o": [str(n), "0"], "r": 0}) for n in range(9))
    )
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/"
        "rows.jsonl}}\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{q}}'\n"
        "doc_to_choice: '{{o}}'\ndoc_to_target: r\nmetric_list: [{metric: acc}]\n"
    )
    own = ("suite=smoke", f"suite.tasks={{mine: {tmp_path}/mine.yaml}}", "suite.lm_eval=[mine]")
    halves = [prepare(suite(*own, f"suite.half={half}")) for half in ("dev", "test", "all")]
    assert len(halves[0]) + len(halves[1]) == len(halves[2]) == 9
    assert halves[2][3].options == ("3", "0")
    rolling = (
        (tmp_path / "mine.yaml").read_text().replace("multiple_choice", "loglikelihood_rolling")
    )
    (tmp_path / "mine.yaml").write_text(rolling.replace("metric: acc", "metric: byte_perplexity"))
    with pytest.raises(UserError, match=r"mine has no accuracy or exact match: leave it out"):
        prepare(suite(*own))
    with pytest.raises(UserError, match=r"suite\.tasks\.mine='absent\.yaml' is not a file"):
        prepare(suite("suite=smoke", "suite.tasks={mine: absent.yaml}", "suite.lm_eval=[mine]"))


def test_what_is_missing_is_reported_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("suite=standard", f"suite.root={tmp_path}", "suite.lm_eval=[mmlu,arc_challenge]")
    with pytest.raises(UserError) as told:
        prepare(suite(*words))
    assert len(str(told.value).splitlines()) == 2
    known = questions._known_tasks
    monkeypatch.setattr(questions, "_known_tasks", lambda *, every: known(every=False))
    with pytest.raises(UserError, match="did you mean 'arc_challenge'"):
        prepare(suite("suite=standard", "suite.lm_eval=[arc_chalenge]"))


@pytest.mark.slow  # the harness reads thousands of files
def test_every_task_of_the_harness_is_known() -> None:
    with pytest.raises(UserError, match=r"'hellasvag' is not known.*did you mean 'hellaswag'"):
        prepare(suite("suite=standard", "suite.lm_eval=[hellasvag]"))
