"""Rows that people labelled join the rows of any data config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.sources import FilesData, load
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError


def write(name: str, *rows: dict) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def files(cache: Path, **settings: object) -> Examples:
    return load(FilesData(**settings), 0, cache)  # type: ignore[arg-type]


LABELLED = {"instruction": "How do I kill a process?", "response": "Use kill.", "kind": "general"}


def test_labelled_rows_come_last_and_replace_the_same_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    general = write(
        "general.jsonl",
        {"instruction": "How do I kill a process", "output": "No."},
        {"instruction": "Name a tree.", "output": "An oak."},
    )
    labelled = write("labelled.jsonl", {**LABELLED, "rejected": "No.", "source": "labelled/tr-1"})
    found = list(files(tmp_path, general=general, labelled=labelled))
    assert [(row.instruction, row.response) for row in found] == [
        ("Name a tree.", "An oak."),
        ("How do I kill a process?", "Use kill."),
    ]
    assert (found[1].rejected, found[1].source) == ("No.", "labelled/tr-1")
    assert "1 replaced by labelled rows" in capsys.readouterr().err


def test_they_may_be_all_there_is_and_the_later_of_two_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    path = write(
        "labelled.jsonl",
        {**LABELLED, "response": "An older answer."},
        {**LABELLED, "messages": talk},
        LABELLED,
    )
    found = list(files(tmp_path, labelled=path))
    assert [(row.response, len(row.messages)) for row in found] == [
        ("Use kill.", 3),
        ("Use kill.", 1),
    ]
    assert "1 labelled before" in capsys.readouterr().err


def test_any_data_config_takes_them(tmp_path: Path) -> None:
    path = write("labelled.jsonl", LABELLED)
    words = ["model=tiny", "data.general=3", "data.harmful=2", f"data.labelled={path}"]
    config = compose_verb("train", words).config
    found = load(config.data, 0, tmp_path)
    assert len(found) == 6
    assert found[5].response == "Use kill."


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**LABELLED, "kind": "nice"}, "labelled.jsonl:1: kind='nice' is not known"),
        ({**LABELLED, "rejected": "Use kill."}, "'rejected' is the response"),
        ({"instruction": "x", "response": "y"}, "no column 'kind'"),
        ({**LABELLED, "messages": "Hi."}, "'messages' must be a list"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(row: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        files(tmp_path, labelled=write("labelled.jsonl", row))


def test_a_missing_file_is_told_before_anything_begins() -> None:
    from tbr_lightning.preflight import missing_for

    for words in (["data=files"], []):
        config = compose_verb("train", ["model=tiny", *words, "data.labelled=none.jsonl"]).config
        said = missing_for(config.model, config.data, config.reflection)
        assert any(one.startswith("data.labelled='none.jsonl' is not a file") for one in said)
