"""Local files: what is read, how lazily, and how a bad row is told."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tbr_lightning.data.files import is_file_name, read_rows
from tbr_lightning.data.sources import FilesData, load
from tbr_lightning.errors import UserError

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_every_form_holds_the_same_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist([ROW, ROW]), tmp_path / "a.parquet")
    lines = f"{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n"
    paths = [
        written(tmp_path, "a.json", json.dumps([ROW, ROW], indent=2)),
        written(tmp_path, "lines.json", f"\n{lines}"),
        written(tmp_path, "a.jsonl", f"\ufeff{lines}"),
        written(tmp_path, "a.csv", "instruction,input,output\n" + "Say hello.,,Hello.\n" * 2),
        str(tmp_path / "a.parquet"),
    ]
    for path in paths:
        assert [row for _, row in read_rows(path, "data.general")] == [ROW, ROW]


@pytest.mark.parametrize(
    ("name", "head", "tail"),
    [
        ("a.json", '[{"output": "y"},\n', "oops]"),
        ("a.jsonl", '{"output": "y"}\n', "oops\n"),
        ("a.csv", "output\ny\n", "a,b\n"),
    ],
)
def test_rows_come_before_the_file_is_at_its_end(
    tmp_path: Path, name: str, head: str, tail: str
) -> None:
    rows = read_rows(written(tmp_path, name, head + tail), "data.general")
    assert next(rows)[1] == {"output": "y"}
    with pytest.raises(UserError, match=name):
        next(rows)


def test_quoted_line_breaks_are_kept_and_the_line_is_the_row_s_last(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'instruction,output\n"a\nb",c\n')
    assert list(read_rows(path, "x")) == [(f"{path}:3", {"instruction": "a\nb", "output": "c"})]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '[\n{"instruction": "x", "output": "y"},\n{"instruction": }]', "a.json:3"),
        ("a.json", '[\n{"instruction": "x", "output": "y"},\n\n"text"]', "a.json:4: str"),
        ("a.json", '[{"instruction": "x"', "a.json:1"),
        ("a.jsonl", '{"instruction": "x", "output": "y"}\n{oops}\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"prompt": "x", "reply": "y"}\n', "no column 'output' or 'response'"),
        ("a.jsonl", '{"instruction": 5, "output": "y"}\n', "a.jsonl:1: 'instruction' is int"),
        ("a.jsonl", '{"instruction": " ", "output": "y"}\n', "'instruction' is empty"),
        ("a.jsonl", '{"instruction": "x\\ud800", "output": "y"}\n', "a.jsonl:1: 'instruction'"),
        ("a.csv", "instruction,output\na,b,c\n", "a.csv:2"),
        ("a.json", "[]", "no rows"),
        ("a.json", " \n", "no rows"),
        ("a.csv", "instruction,output\n", "no rows"),
        ("a.parquet", "this is none", "a.parquet:1: not valid Parquet"),
        ("a.txt", "x", "unknown form"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    config = FilesData(general=written(tmp_path, name, text))
    with pytest.raises(UserError) as caught:
        load(config, 0, tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("examples/*"))


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"instruction": "\xff"}')
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        load(FilesData(general=str(tmp_path / "a.jsonl")), 0, tmp_path)


def test_a_missing_file_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.harmful='nowhere\.json'"):
        load(FilesData(harmful="nowhere.json"), 0, tmp_path)


def test_a_hub_id_is_told_from_a_file(tmp_path: Path) -> None:
    assert not is_file_name("tatsu-lab/alpaca")
    assert not is_file_name("tatsu-lab/alpaca:train")
    (tmp_path / "rows").mkdir()
    written(tmp_path / "rows", "plain", "x")
    for name in ("rows/plain", "rows/absent.jsonl", "plain", "a/b/c"):
        assert is_file_name(name)


def test_a_column_that_is_listed_twice_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("instruction,output,output\nx,first,second\n")
    with pytest.raises(UserError, match=r"rows\.csv:1: the column 'output' is listed twice"):
        list(read_rows(file, "data.general"))
