"""What is kept of a mix: under another key where its rows would be others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.split import split
from tbr_lightning.data.table import Examples


def instructions(cache: Path, *words: str) -> set[str]:
    given = ["model=tiny", "data=files", "data.general=g.json", *words]
    data = compose_verb("train", given).config.data
    return {row.instruction for row in data.load(0, cache)}


@pytest.mark.parametrize(
    ("words", "left"),
    [([], {"a", "b", "c"}), (["data.drop_refusals=true"], {"a", "b"}),
     (["data.exclude=x.json"], {"a", "c"})],
)  # fmt: skip
def test_another_setting_gives_other_rows_from_one_cache(
    tmp_path: Path, words: list[str], left: set[str]
) -> None:
    rows = [("a", "Yes."), ("b", "Sure."), ("c", "I'm sorry, but I can't help with that.")]
    table = [{"instruction": asked, "output": said} for asked, said in rows]
    Path("g.json").write_text(json.dumps(table))
    Path("x.json").write_text(json.dumps([table[1]]))
    assert instructions(tmp_path) == {"a", "b", "c"}
    assert instructions(tmp_path, *words) == left
    assert instructions(tmp_path) == {"a", "b", "c"}


def test_the_contents_of_the_excluded_file_count(tmp_path: Path) -> None:
    table = [{"instruction": asked, "output": "Yes."} for asked in "abc"]
    Path("g.json").write_text(json.dumps(table))
    for number in range(2):
        Path("x.json").write_text(json.dumps([table[number]]))
        left = {"a", "b", "c"} - {table[number]["instruction"]}
        assert instructions(tmp_path, "data.exclude=x.json") == left


def test_every_field_of_a_mix_is_in_its_key() -> None:
    from tbr_lightning.data.mix import Mix

    base = Mix(None, None, None, 1, 2, None, drop_refusals=False, instruction=None, seed=0)
    changes = {"general_rows": 3, "harmful_rows": 3, "drop_refusals": True, "seed": 1}
    changes |= {"instruction": "other"}
    keys = {base.key} | {Mix(**{**vars(base), k: v}).key for k, v in changes.items()}
    assert len(keys) == len(changes) + 1
    assert set(changes) < set(asdict(base))


def test_a_general_request_is_there_once_in_whatever_writing(tmp_path: Path) -> None:
    asked = ("Name a tree.", "name a  tree", "Name a tree!", "Name a bird.")
    Path("g.json").write_text(json.dumps([{"instruction": a, "output": "Yes."} for a in asked]))
    assert instructions(tmp_path) == {"Name a tree.", "Name a bird."}


def loaded(cache: Path, rows: list[dict[str, object]], *words: str) -> Examples:
    Path("g.json").write_text(json.dumps(rows))
    found: Examples = compose_verb(
        "train", ["model=tiny", "data=files", "data.general=g.json", *words]
    ).config.data.load(0, cache)
    return found


def test_single_answers_to_one_request_are_kept_on_both_sides(tmp_path: Path) -> None:
    said = [("good", True), ("bad", False), ("good too", True), ("bad too", False)]
    rows = [{"prompt": "p", "completion": text, "label": label} for text, label in said]
    found = loaded(tmp_path, rows)
    assert [(row.response, row.rejected) for row in found] == [("good", None), ("", "bad")]
    assert found.left_out == {"duplicates": 2}
    Path("h.json").write_text(json.dumps([{"instruction": "P!", "output": "No."}]))
    mixed = loaded(tmp_path, rows, "data.harmful=h.json")
    assert [row.response for row in mixed] == ["No."]


def test_a_pair_whose_sides_answer_different_requests_is_left_out(tmp_path: Path) -> None:
    def chat(*texts: str) -> list[dict[str, str]]:
        return [
            {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
        ]

    found = loaded(
        tmp_path,
        [
            {"chosen": chat("A", "B"), "rejected": chat("A", "C")},
            {"chosen": chat("A", "B", "C", "D"), "rejected": chat("A", "X", "Y", "Z")},
            {
                "chosen": "\n\nHuman: Q\n\nAssistant: R",
                "rejected": "\n\nHuman: Q\n\nAssistant: S\n\nHuman: T\n\nAssistant: U",
            },
        ],
    )
    assert [(row.instruction, row.response, row.rejected) for row in found] == [("A", "B", "C")]
    assert found.left_out == {"pairs whose sides answer different requests": 2}


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_rows_of_one_conversation_are_held_out_together(
    tmp_path: Path, system: list[dict[str, str]]
) -> None:
    turns = [{"role": r, "content": f"{r} {n}"} for n in range(4) for r in ("user", "assistant")]
    chats = [
        [{**turn, "content": f"{turn['content']} of {k}"} for turn in turns] for k in range(20)
    ]
    rows = [{"messages": [*system, *chat]} for chat in chats]
    examples = loaded(tmp_path, rows, "data.turns=all")
    assert len(examples) == 80
    sides = [{row.instruction.split()[-1] for row in side} for side in split(examples, 0.5)]
    assert all(sides)
    assert not sides[0] & sides[1]
