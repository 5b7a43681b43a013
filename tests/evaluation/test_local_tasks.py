"""The forms in which the files of general ability are published."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.local_tasks import local_tasks
from tbr_lightning.evaluation.questions import prepare

AUTHORS = (
    '{"question": {"stem": "What?", "choices": [{"text": "a", "label": "A"}, '
    '{"text": "b", "label": "B"}, {"text": "c", "label": "C"}]}, "answerKey": "C"}\n'
)
HUB = (
    '{"question": "What?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, '
    '"answerKey": "3"}\n'
)
ADAPTERS = (
    '{"instruction": "Please choose the correct answer to the question: What?\\n\\nAnswer1: a '
    'Answer2: b Answer3: c\\n\\nAnswer format: answer1/answer2/answer3", "answer": "answer3"}\n'
)


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize("text", [AUTHORS, HUB, ADAPTERS])
def test_arc_in_three_forms(tmp_path: Path, text: str) -> None:
    write(tmp_path, "arc/ARC-Challenge-Test.jsonl", text)
    ((file, splits),) = local_tasks("arc_challenge", str(tmp_path))
    (row,) = splits["test"]
    assert file == "arc/arc_challenge.yaml"
    assert (row["question"], row["choices"]["text"]) == ("What?", ["a", "b", "c"])
    assert row["choices"]["label"].index(row["answerKey"]) == 2


def test_mmlu_by_subject_with_its_examples(tmp_path: Path) -> None:
    write(tmp_path, "mmlu/test/virology_test.csv", "What?,a,b,c,d,C\n")
    write(tmp_path, "mmlu/dev/virology_dev.csv", '"Which, now?",a,b,c,d,0\n')
    write(tmp_path, "mmlu/test/marketing_test.csv", "Who?,a,b,c,d,A\n")
    found = dict(local_tasks("mmlu", str(tmp_path)))
    virology = found["mmlu/default/mmlu_virology.yaml"]
    assert virology["test"] == [{"question": "What?", "choices": list("abcd"), "answer": 2}]
    assert virology["dev"][0]["question"] == "Which, now?"
    assert set(found["mmlu/default/mmlu_marketing.yaml"]) == {"test"}


@pytest.mark.parametrize("answer", ["", "BC", "E"])
def test_an_answer_that_is_no_option_is_told(tmp_path: Path, answer: str) -> None:
    write(tmp_path, "mmlu/test/virology_test.csv", f"What?,a,b,c,d,{answer}\n")
    with pytest.raises(UserError, match=r"virology_test\.csv:1: "):
        list(local_tasks("mmlu", str(tmp_path)))


def test_truthfulqa_and_gsm8k(tmp_path: Path) -> None:
    header = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    write(
        tmp_path,
        "truthfulqa/TruthfulQA.csv",
        header + "Adversarial,Law,Is it?,Yes,Yes; It is; ,No; It is not,x\n",
    )
    ((_, splits),) = local_tasks("truthfulqa_mc2", str(tmp_path))
    (row,) = splits["validation"]
    assert row["mc1_targets"] == {"choices": ["Yes", "No", "It is not"], "labels": [1, 0, 0]}
    assert row["mc2_targets"]["labels"] == [1, 1, 0, 0]
    write(tmp_path, "gsm8k/test.jsonl", '{"question": "2+2?", "answer": "It is #### 4"}\n')
    ((_, splits),) = local_tasks("gsm8k", str(tmp_path))
    assert splits == {"test": [{"question": "2+2?", "answer": "It is #### 4"}]}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("What?,a,b,c,d\n", "5 columns"),
        ("What?,a,b,c,d,Z\n", "neither a letter nor a number"),
        ("What?,a,b,c,d,7\n", "4 options and answer 7: fix the row"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, line: str, told: str) -> None:
    write(tmp_path, "mmlu/test/x_test.csv", "Fine?,a,b,c,d,A\n" + line)
    with pytest.raises(UserError, match=rf"x_test\.csv:2: .*{told}"):
        list(local_tasks("mmlu", str(tmp_path)))


def test_a_limit_takes_of_every_subject(tmp_path: Path) -> None:
    """The first questions alone would be those of the first subject in the alphabet."""
    for subject in ("anatomy", "marketing", "virology"):
        rows = "".join(f"{subject} {n}?,a,b,c,d,C\n" for n in range(9))
        write(tmp_path, f"mmlu/test/{subject}_test.csv", rows)
    words = ["model=tiny", "suite.lm_eval=[mmlu]", f"suite.root={tmp_path}", "suite.half=all"]

    def subjects(*more: str) -> list[str]:
        config = compose_verb("evaluate", [*words, *more]).config.suite
        return [one.leaf.eval_docs[one.number]["question"].split()[0] for one in prepare(config)]

    assert (
        subjects("suite.lm_eval_limit=7") == ["anatomy"] * 3 + ["marketing"] * 2 + ["virology"] * 2
    )
    assert len(subjects()) == 27
