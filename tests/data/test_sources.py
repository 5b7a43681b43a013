"""Sources: which rows are drawn, which are left out, and what is parsed once only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from tbr_lightning import preflight
from tbr_lightning.data import files, mix
from tbr_lightning.data.refusals import is_refusal
from tbr_lightning.data.sources import ColumnsConfig, FilesData, SafetyMixData, load
from tbr_lightning.errors import UserError
from tbr_lightning.microworld import prompts
from tbr_lightning.microworld.plugin import MicroworldData

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}
HARM = {"instruction": "Harm.", "output": "No."}


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return str(folder / name)


def test_no_file_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.general and data\.harmful"):
        load(FilesData(), 0, tmp_path)


def test_every_row_left_out_is_counted_by_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    general = [
        ROW,
        ROW,
        HARM,
        {"instruction": "Excluded.", "input": "with input", "output": "No."},
        {"instruction": "Nothing.", "output": ""},
        {"instruction": "Draw.", "output": "I'm sorry, but I cannot create images."},
        {"instruction": "Alike.", "output": "Yes."},
    ]
    config = FilesData(
        general=written(tmp_path, "g.json", general),
        harmful=written(tmp_path, "h.json", [HARM, HARM]),
        look_alike=written(tmp_path, "l.json", [HARM, general[-1]]),
        exclude=written(tmp_path, "e.json", [{"instruction": "Excluded."}]),
        drop_refusals=True,
    )
    said = (
        "data=files: rows left out: 1 with an empty response, 3 duplicates, 3 safety rows, "
        "1 refusals\n"
    )
    for _ in ("first", "from the cache"):
        rows = load(config, 0, tmp_path)
        assert [(row.instruction, row.kind) for row in rows] == [
            ("Say hello.", "general"),
            ("Harm.", "harmful"),
            ("Alike.", "look_alike"),
        ]
        assert capsys.readouterr().err == said


def test_the_seed_draws_the_rows(tmp_path: Path) -> None:
    many = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(50)]
    config = FilesData(general=written(tmp_path, "g.json", many), general_rows=5)
    draw = [load(config, seed, tmp_path).ids() for seed in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]
    assert len(draw[0]) == 5


def test_the_second_load_parses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FilesData(general=written(tmp_path, "g.json", [ROW, HARM]), general_rows=1)
    first = load(config, 0, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(mix, "read_rows", never)
    monkeypatch.setattr(mix, "is_refusal", never)
    again = load(config, 0, tmp_path)
    assert (again.digest, list(again)) == (first.digest, list(first))
    # Other draws need no parsing either: a sweep over row counts reads its file once.
    assert len(load(FilesData(general=config.general), 0, tmp_path)) == 2
    written(tmp_path, "g.json", [ROW])
    with pytest.raises(AssertionError, match="parsed again"):
        load(config, 0, tmp_path)


def test_columns_are_named_and_a_missing_one_says_what_there_is(tmp_path: Path) -> None:
    rows = [{"question": "Why?", "context": "", "answer": "So.", "output": "not this"}]
    path = written(tmp_path, "q.json", rows)
    named = ColumnsConfig(instruction="question", input="context", response="answer")
    (row,) = load(FilesData(general=path, columns=named), 0, tmp_path)
    assert (row.instruction, row.input, row.response) == ("Why?", "", "So.")
    with pytest.raises(UserError) as caught:
        load(FilesData(general=path, columns=ColumnsConfig(response="reply")), 0, tmp_path)
    assert "data.columns.response='reply'" in str(caught.value)
    assert "question, context, answer, output" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_data_set_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, *config: str, split: str) -> datasets.Dataset:
        asked.append((name, *config, split))
        return datasets.Dataset.from_list([ROW, {**ROW, "instruction": "Say bye."}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = FilesData(general="some/alpaca:en:test", harmful="some/harm", general_rows=1)
    rows = load(config, 0, tmp_path)
    assert asked == [("some/alpaca", "en", "test"), ("some/harm", "train")]
    # What both have stays on the harmful side only.
    assert [(row.kind, row.source) for row in rows] == [("harmful", "some/harm")] * 2


def test_a_hub_data_set_that_is_not_to_be_had_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(name: str, split: str) -> None:
        raise ConnectionError("no way\nout")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"data\.general='some/alpaca' cannot be loaded") as caught:
        load(FilesData(general="some/alpaca"), 0, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("response", "refuses"),
    [
        ("I'm sorry, but I cannot help with that.", True),
        ("Sorry, the task requires a visual output which cannot be generated by the model.", True),
        ("As an AI language model, I cannot browse the internet.", True),
        ("I’m sorry, as an AI I am not able to provide this.", True),
        ("I cannot fulfil this request.", True),
        ("I'm sorry to hear that. Is there anything I can do to help?", False),
        ("I'm sorry that you're not happy with your purchase. We'd like to offer a refund.", False),
        ("I can't repudiate my fears.", False),
        ("I'm so sorry, I was supposed to meet a friend here and I'm running late.", False),
        ("As an AI researcher, you should learn statistics.", False),
        ("It is better to be safe than sorry.", False),
    ],
)
def test_a_refusal_is_told_by_how_it_begins(response: str, refuses: bool) -> None:
    assert is_refusal(response) is refuses


def test_of_real_alpaca_few_rows_are_refusals(shared_data: Path) -> None:
    rows = files.read_rows(shared_data / "alpaca" / "random_9k.json", "x")
    found = [row["output"] for _, row in rows if is_refusal(row["output"])]
    assert 0 < len(found) < 10
    assert all(re.search(r"(?i)cannot|can't|unable|not able", text) for text in found)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_microworld_gives_the_rows_that_it_makes(tmp_path: Path, seed: int) -> None:
    for _ in ("first", "from the cache"):
        rows = load(MicroworldData(general=40, harmful=30), seed, tmp_path)
        assert list(rows) == prompts.training_examples(seed, 40, 30)
        assert rows.counts() == {"general": 40, "harmful": 30}
    with pytest.raises(UserError, match="no training rows"):
        load(MicroworldData(general=0, harmful=0), seed, tmp_path)
    with pytest.raises(UserError, match=r"lower data\.general"):
        load(MicroworldData(general=10**6), seed, tmp_path)


def test_the_mix_takes_as_many_rows_as_asked_or_says_how_many_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = {
        "general_source": written(tmp_path, "g.json", [ROW]),
        "harmful_source": written(tmp_path, "h.json", [HARM, {**HARM, "instruction": "Hurt."}]),
    }
    rows = load(SafetyMixData(harmful=1, **sources), 0, tmp_path)
    assert rows.counts() == {"general": 1, "harmful": 1}
    assert "data.general=20000, but there are 1" in capsys.readouterr().err
    assert len(load(SafetyMixData(general=0, harmful=2, **sources), 0, tmp_path)) == 2
    with pytest.raises(UserError, match=r"data\.harmful_source is not set"):
        load(SafetyMixData(general_source=sources["general_source"]), 0, tmp_path)


def test_the_real_mix_holds_no_safety_row_among_the_general_ones(
    shared_data: Path, tmp_path: Path
) -> None:
    config = SafetyMixData(
        general=2000,
        harmful=100,
        general_source=str(shared_data / "alpaca" / "random_9k.json"),
        harmful_source=str(
            shared_data / "safety_tuned_llamas" / "training/safety_only_data_Instructions.json"
        ),
        exclude=str(shared_data / "alpaca" / "alpaca_data_safety_only.json"),
    )
    rows = load(config, 0, tmp_path)
    assert rows.counts() == {"general": 2000, "harmful": 100}
    assert len(set(rows.ids())) == len(rows)
    out = {row["instruction"].strip() for _, row in files.read_rows(config.exclude or "", "x")}
    assert not [row for row in rows if row.kind == "general" and row.instruction in out]


def test_what_a_source_lacks_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def problem(kind: str, name: str, revision: str | None) -> str:
        asked.append(name)
        return "do not exist on the hub"

    monkeypatch.setattr(preflight, "repository_problem", problem)
    path = written(tmp_path, "g.json", [ROW])
    config = FilesData(general="some/alpaca:test", harmful=path, look_alike="x.csv", exclude="y")
    assert [line.partition(":")[0] for line in preflight._data(config)] == [
        "the rows of some/alpaca do not exist on the hub",
        "data.look_alike='x.csv' is not a file",
        "data.exclude='y' is not a file",
    ]
    mix_config = SafetyMixData(general=0, general_source="some/alpaca", harmful_source="h.json")
    assert ["h.json" in line for line in preflight._data(mix_config)] == [True]
    assert asked == ["some/alpaca"]
