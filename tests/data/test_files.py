"""Local files: what is read, and how a bad row is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tbr_lightning.config.schema import FilesData, MicroworldData, SafetyMixData
from tbr_lightning.data.files import read_rows
from tbr_lightning.data.sources import load
from tbr_lightning.errors import UserError

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_json_jsonl_and_csv_hold_the_same_rows(tmp_path: Path) -> None:
    listed = written(tmp_path, "a.json", json.dumps([ROW, ROW], indent=2))
    lines = written(tmp_path, "a.jsonl", f"{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n")
    table = written(tmp_path, "a.csv", "instruction,input,output\nSay hello.,,Hello.\n" * 1)
    for path, count in ((listed, 2), (lines, 2), (table, 1)):
        assert [row for _, row in read_rows(path, "data.general")] == [ROW] * count


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '[\n{"instruction": "x", "output": "y"},\n{"instruction": }]', "a.json:3"),
        ("a.json", '[\n{"instruction": "x", "output": "y"},\n\n"text"]', "a.json:4: str"),
        ("a.json", '[{"instruction": "x"', "a.json:1"),
        ("a.jsonl", '{"instruction": "x", "output": "y"}\n{oops}\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"prompt": "x", "answer": "y"}\n', "no column 'output' or 'response'"),
        ("a.jsonl", '{"instruction": 5, "output": "y"}\n', "a.jsonl:1: 'instruction' is int"),
        ("a.jsonl", '{"instruction": " ", "output": "y"}\n', "'instruction' is empty"),
        ("a.csv", "instruction,output\na,b,c\n", "a.csv:2"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "instruction,output\n", "no rows"),
        ("a.txt", "x", "unknown form"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    config = FilesData(general=written(tmp_path, name, text))
    with pytest.raises(UserError) as caught:
        load(config, 0)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_key() -> None:
    with pytest.raises(UserError, match=r"data\.harmful='nowhere\.json'"):
        load(FilesData(harmful="nowhere.json"), 0)


def test_no_file_at_all_is_told() -> None:
    with pytest.raises(UserError, match=r"data\.general and data\.harmful"):
        load(FilesData(), 0)


def test_safety_rows_and_duplicates_leave_the_general_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    general = [
        ROW,
        ROW,
        {"instruction": "Harm.", "output": "No."},
        {"instruction": "Excluded.", "input": "with input", "output": "No."},
        {"instruction": "Nothing.", "output": ""},
    ]
    config = FilesData(
        general=written(tmp_path, "g.json", json.dumps(general)),
        harmful=written(tmp_path, "h.json", json.dumps([general[2]])),
        exclude=written(tmp_path, "e.json", json.dumps([{"instruction": "Excluded."}])),
    )
    rows = load(config, 0)
    assert [(row.instruction, row.kind) for row in rows] == [
        ("Say hello.", "general"),
        ("Harm.", "harmful"),
    ]
    assert "1 rows have an empty output" in capsys.readouterr().err


def test_the_seed_draws_the_rows(tmp_path: Path) -> None:
    many = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(50)]
    path = written(tmp_path, "g.json", json.dumps(many))
    draw = [[r.id for r in load(FilesData(general=path, general_rows=5), s)] for s in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]
    assert len(draw[0]) == 5


def test_the_microworld_and_the_mix_load_by_their_targets(tmp_path: Path) -> None:
    kinds = [row.kind for row in load(MicroworldData(general=4, harmful=3), 0)]
    assert (kinds.count("general"), kinds.count("harmful")) == (4, 3)
    with pytest.raises(UserError, match="no training rows"):
        load(MicroworldData(general=0, harmful=0), 0)
    alpaca = written(tmp_path, "g.json", json.dumps([ROW]))
    harm = written(tmp_path, "h.json", json.dumps([{"instruction": "Harm.", "output": "No."}]))
    mix = SafetyMixData(general_source=alpaca, harmful_source=harm)
    assert len(load(mix, 0)) == 2
    with pytest.raises(UserError, match=r"data\.harmful_source is not set"):
        load(SafetyMixData(general_source=alpaca), 0)
