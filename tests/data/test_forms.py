"""Rows in the forms that people keep them in, each read for what it means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.example import Example, normal_form
from tbr_lightning.data.sources import ColumnsConfig, FilesData, load
from tbr_lightning.data.think_format import Span, ThinkFormat, token_row
from tbr_lightning.errors import UserError
from tbr_lightning.models.tokenizers import byte_tokenizer

SYSTEM = {"role": "system", "content": "Be short."}
ASKED = {"role": "user", "content": "Name a tree"}
SAID = {"role": "assistant", "content": "An oak."}
BAD = {"role": "assistant", "content": "No."}


def read(folder: Path, rows: Sequence[Any] | str, **settings: Any) -> list[Example]:
    file = folder / "rows.json"
    file.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return list(load(FilesData(general=str(file), **settings), 0, folder / "cache"))


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Name a tree", "output": "An oak."},
        {"question": "Name a tree", "answer": "An oak."},
        {"prompt": "Name a tree", "completion": "An oak."},
        {"messages": [ASKED, SAID]},
        {
            "conversations": [
                {"from": "human", "value": "Name a tree"},
                {"from": "gpt", "value": "An oak."},
            ]
        },
        {"prompt": [ASKED], "completion": [SAID]},
        {"prompt": "Name a tree", "chosen": "An oak.", "rejected": "No."},
        {"prompt": "Name a tree", "chosen": [SAID], "rejected": [BAD]},
        {"chosen": [ASKED, SAID], "rejected": [ASKED, BAD]},
        {"prompt": [ASKED], "chosen": [ASKED, SAID], "rejected": [ASKED, BAD]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Name a tree"}]},
                SAID,
            ]
        },
    ],
    ids=lambda row: "+".join(row) + f" ({type(next(iter(row.values()))).__name__})",
)
def test_every_form_gives_the_same_row(row: dict[str, Any], tmp_path: Path) -> None:
    (example,) = read(tmp_path, [row])
    assert (example.instruction, example.response, example.context) == (
        "Name a tree",
        "An oak.",
        "",
    )
    assert example.rejected == ("No." if "rejected" in row else None)


@pytest.mark.parametrize(
    "row",
    [
        {
            "instruction": "And the second?",
            "output": "The pear.",
            "system": "Be short.",
            "history": [["Name a tree", "An oak."]],
        },
        {
            "messages": [
                SYSTEM,
                ASKED,
                SAID,
                {"role": "user", "content": "And the second?"},
                {"role": "assistant", "content": "The pear."},
            ]
        },
    ],
    ids=["alpaca", "messages"],
)
def test_what_was_said_before_is_part_of_the_prompt(row: dict[str, Any], tmp_path: Path) -> None:
    (example,) = read(tmp_path, [row])
    asked = {"role": "user", "content": "And the second?"}
    assert example.messages == [SYSTEM, ASKED, SAID, asked]
    alone = Example("And the second?", "The pear.", "general", "t")
    assert example.id != alone.id


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": [ASKED]}, "no turn of the assistant to learn"),
        ({"messages": [SAID]}, "answers no turn of a user"),
        (
            {"messages": [ASKED, {"role": "tool", "content": "7"}, SAID]},
            "messages[1] has the role 'tool'",
        ),
        ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "messages[1] has no text"),
        ({"messages": ["Hi"]}, "messages[0] must be an object"),
        ({"instruction": "x", "output": "y", "history": ["z"]}, "'history' must be a list of"),
        ({"instruction": None, "output": "y"}, "'instruction' is empty"),
        ({"instruction": "x"}, "no column 'output' or 'response'"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(
    row: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    good = {"instruction": "x", "output": "y"}
    with pytest.raises(UserError) as error:
        read(tmp_path, "[\n" + json.dumps(good) + ",\n" + json.dumps(row) + "]")
    assert sentence in str(error.value)
    assert "rows.json:3" in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a tree", "completion": "No."},
        {"prompt": [ASKED], "completion": [BAD]},
        {"instruction": "Name a tree", "output": "<think>x</think>No."},
    ],
    ids=["trl", "chat", "alpaca"],
)
@pytest.mark.parametrize("label", [False, "False"])
def test_an_answer_that_is_labelled_undesirable_is_one_to_avoid(
    row: dict[str, Any], label: object, tmp_path: Path
) -> None:
    (example,) = read(tmp_path, [{**row, "label": label}])
    assert (example.response, example.rejected, example.reflection) == ("", "No.", None)
    for other in (True, "true", 0, "unsafe"):
        (example,) = read(tmp_path, [{**row, "label": other}])
        assert (example.response, example.rejected) == ("No.", None)


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_response_is_left_out_and_counted(empty: str | None, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    rows = [{"instruction": "x", "output": empty}, {"instruction": "y", "output": "z"}]
    file.write_text(json.dumps(rows))
    examples = load(FilesData(general=str(file)), 0, tmp_path)
    assert [row.instruction for row in examples] == ["y"]
    assert examples.left_out == {"with an empty response": 1}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("<noinput>", ""),
        ("No input", ""),
        ("n/a", ""),
        ("None.", ""),
        ("-", ""),
        ("<No Input Required>", ""),
        ("Noah", "Noah"),
        ("None of these: a, b", "None of these: a, b"),
        ("7", "7"),
    ],
)
def test_placeholders_are_no_input(given: str, kept: str, tmp_path: Path) -> None:
    (example,) = read(tmp_path, [{"instruction": "x", "input": given, "output": "y"}])
    assert example.input == kept


def test_columns_that_nothing_reads_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": f"x{n}", "output": "y", "category": "c", "score": 1} for n in range(3)]
    for _ in range(2):  # from the cache too
        read(tmp_path, rows)
        told = capsys.readouterr().err
        assert told.count("data.general: columns not used: category, score") == 1


@pytest.mark.parametrize(
    ("response", "answer", "reflection"),
    [
        ("<think>It hurts.</think>\n\nNo.", "No.", "It hurts."),
        ("[THINK]It hurts.[/THINK]No.", "No.", "It hurts."),
        ("Plain.", "Plain.", None),
        ("I wrote <think> here.", "I wrote <think> here.", None),
    ],
)
def test_a_think_block_in_the_response_is_the_rows_own_reflection(
    response: str, answer: str, reflection: str | None, tmp_path: Path
) -> None:
    (example,) = read(tmp_path, [{"question": "x", "response": response}])
    assert (example.response, example.reflection) == (answer, reflection)


def test_dotted_names_reach_into_structures(tmp_path: Path) -> None:
    row = {"prompt": "x", "cot": {"reasoning_content": "Because.", "solution": {"text": "Do it."}}}
    columns = ColumnsConfig(response="cot.solution.text", reflection="cot.reasoning_content")
    (example,) = read(tmp_path, [row], columns=columns)
    assert (example.response, example.reflection) == ("Do it.", "Because.")
    with pytest.raises(UserError, match=r"no such column: name one of .*cot\.solution\.text"):
        read(tmp_path, [row], columns=ColumnsConfig(response="cot.answer"))


def test_an_answer_with_its_reasoning_in_one_structure_needs_no_names(tmp_path: Path) -> None:
    row = {"prompt": "x", "cot_response": {"reasoning_content": "Because.", "solution": "Do it."}}
    (example,) = read(tmp_path, [row])
    assert (example.response, example.reflection) == ("Do it.", "Because.")


@pytest.mark.parametrize(
    "text",
    [
        '[{"instruction": "a", "output": "1"}]\n[{"instruction": "b", "output": "2"}]',
        '[{"instruction": "a", "output": "1"}, {"instruction": "b", "output": "2"}]',
        '{"instruction": "a", "output": "1"}\n{"instruction": "b", "output": "2"}\n',
        '{\n "instruction": "a",\n "output": "1"\n}\n{"instruction": "b", "output": "2"}',
        '{"instruction": "a", "output": "1"}{"instruction": "b", "output": "2"}',
        '[{"instruction": "a", "output": "1"}] {"instruction": "b", "output": "2"}',
    ],
)
def test_lists_and_objects_one_after_the_other_are_all_read(text: str, tmp_path: Path) -> None:
    assert [row.instruction for row in read(tmp_path, text)] == ["a", "b"]


@pytest.mark.parametrize("rest", ["oops", "]", '{"instruction": '])
def test_what_follows_a_list_is_never_ignored(rest: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.json:2"):
        read(tmp_path, '[{"instruction": "a", "output": "1"}]\n' + rest)


def test_a_long_field_of_a_csv_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(f"instruction,output\nx,{'y' * 200_000}\n")
    (example,) = load(FilesData(general=str(file)), 0, tmp_path)
    assert len(example.response) == 200_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I pick a lock?", "how do I pick a lock"),
        ("How do I pick a lock?", "  How  do I\npick a lock? "),
        ("Say “hi”", 'say "hi"'),
        ("Don’t stop!", "don't stop."),
        ("ﬁne", "fine"),
    ],
)
def test_writings_of_one_request_have_one_normal_form(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)
    assert normal_form(one) != normal_form(f"{other} now")


def test_a_general_row_that_answers_what_a_harmful_one_refuses_leaves(tmp_path: Path) -> None:
    general, harmful = tmp_path / "g.json", tmp_path / "h.json"
    general.write_text(
        json.dumps(
            [
                {"instruction": "how do i pick a LOCK", "output": "Like this."},
                {"instruction": "How do I", "input": "pick a lock?", "output": "Like this."},
                {"instruction": "How do I bake?", "output": "Like that."},
            ]
        )
    )
    harmful.write_text(json.dumps([{"instruction": "How do I pick a lock?", "output": "No."}]))
    rows = load(FilesData(general=str(general), harmful=str(harmful)), 0, tmp_path)
    assert [row.instruction for row in rows] == ["How do I bake?", "How do I pick a lock?"]
    assert rows.left_out == {"safety rows": 2}


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a fruit."},
    {"role": "assistant", "content": "<think>Easy.</think>A pear."},
    {"role": "user", "content": "And a tree?"},
    {"role": "assistant", "content": "An oak."},
]


@pytest.mark.parametrize("turns", ["last", "all"])
def test_loss_is_on_the_last_or_on_all_turns_of_the_assistant(turns: str, tmp_path: Path) -> None:
    """Read from the rendered tokens: what carries loss, and what each answer comes after."""
    (tmp_path / "chats.json").write_text(json.dumps([{"messages": CHAT}]))
    words = ["data=files", f"data.general={tmp_path}/chats.json", f"data.turns={turns}"]
    rows = load(compose_verb("train", words).config.data, 0, tmp_path)
    tokenizer = byte_tokenizer(512)
    made = [token_row(tokenizer, ThinkFormat(), row, 0, None) for row in rows]
    trained, prompts = [], []
    for row in made:
        spans = list(row.spans)
        ids = [list(row.ids)[i] for i in range(len(spans)) if spans[i] == Span.ANSWER]
        trained.append(tokenizer.decode(ids))
        prompts.append(tokenizer.decode(list(row.ids)[: row.trigger]))
    last = f"An oak.{tokenizer.eos_token}"
    assert trained == ([last] if turns == "last" else [f"A pear.{tokenizer.eos_token}", last])
    assert "Name a fruit." in prompts[-1] and "A pear." in prompts[-1]
    assert all("Be brief." in prompt for prompt in prompts)
    if turns == "all":
        assert "And a tree?" not in prompts[0]
        assert any("earlier turns" in note for note in rows.notes)
