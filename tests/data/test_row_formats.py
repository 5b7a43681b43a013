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
        {"messages": json.dumps([ASKED, SAID])},
        {"conversations": {"from": ["human", "gpt"], "value": ["Name a tree", "An oak."]}},
        {"prompt": [ASKED], "response": "An oak."},
        {"prompt": "Name a tree", "chosen": SAID, "rejected": BAD},
        {"conversations": [ASKED], "chosen": SAID, "rejected": BAD},
        {
            "prompt": json.dumps([ASKED]),
            "chosen": json.dumps([SAID]),
            "rejected": json.dumps([BAD]),
        },
        {
            "chosen": "\n\nHuman: Name a tree\n\nAssistant: An oak.",
            "rejected": "\n\nHuman: Name a tree\n\nAssistant: No.",
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
        {
            "system": "Be short.",
            "conversations": [
                ASKED,
                {"role": "assistant", "content": "<think>Easy.</think>An oak."},
                {"role": "user", "content": "And the second?"},
                {"role": "assistant", "content": "The pear."},
            ],
        },
        {
            "prompt": "And the second?",
            "system_prompt": "Be short.",
            "history": [ASKED, {**SAID, "reasoning_content": "Easy."}],
            "chosen": "The pear.",
            "rejected": "No.",
        },
        {
            "instruction": "And the second?",
            "output": "The pear.",
            "system": "Be short.",
            "history": json.dumps([["Name a tree", "An oak."]]),
        },
    ],
    ids=["alpaca", "messages", "system beside a chat", "history of messages", "history as text"],
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
        ({"instruction": "x", "output": "y", "history": [["q", None]]}, "'history' must be a list"),
        ({"messages": [ASKED, {**SAID, "tool_calls": [{"id": 1}]}]}, "messages[1] has tool_calls"),
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
        ("Not applicable.", ""),
        ("[NO INPUT]", ""),
        ("No additional input required", ""),
        ("nan", ""),
        ("Keine Eingabe", ""),
        ("无输入", ""),
        ("Nan bread", "Nan bread"),
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
        ("It hurts.</think>\n\nNo.", "No.", "It hurts."),
        ("It hurts.\n</think>No.", "No.", "It hurts."),
        ("<think>It</think>\n<think>hurts.</think>No.", "No.", "It\n\nhurts."),
        ("<think>It <think>really</think> hurts.</think>No.", "No.", "It really hurts."),
        ("Well.\n<think>It hurts.</think>No.", "Well.\n\nNo.", "It hurts."),
        ("<THINK>It hurts.</THINK>No.", "No.", "It hurts."),
        ("◁think▷It hurts.◁/think▷No.", "No.", "It hurts."),
        ("<reasoning>It hurts.</reasoning><answer>No.</answer>", "No.", "It hurts."),
        (
            "<|begin_of_thought|>It hurts.<|end_of_thought|>"
            "<|begin_of_solution|>No.<|end_of_solution|>",
            "No.",
            "It hurts.",
        ),
        (
            "<|channel|>analysis<|message|>It hurts.<|end|><|start|>assistant<|channel|>final"
            "<|message|>No.<|return|>",
            "No.",
            "It hurts.",
        ),
        ("Here is my thought process:\nIt hurts.\nHere is my response:\nNo.", "No.", "It hurts."),
        ("Here is my response: yes.", "Here is my response: yes.", None),
        ("Close it with </think> in the end.", "Close it with </think> in the end.", None),
        ("A tag:\n<reason>x</reason>", "A tag:\n<reason>x</reason>", None),
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
        ("How do I pick a lock?", "How, do I (pick) a lock?!"),
        ("How do I pick a lock?", "- How do I pick\u200b a lock"),
        ("e-mail it", "e\u2011mail it"),
        ("¿Cómo abro la puerta?", "Cómo abro la puerta"),
    ],
)
def test_writings_of_one_request_have_one_normal_form(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)
    assert normal_form(one) != normal_form(f"{other} now")


@pytest.mark.parametrize(
    ("one", "other"), [("C++ code", "C# code"), ("1.5 kg", "15 kg"), ("5-3", "5 3")]
)
def test_marks_within_words_and_numbers_count(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


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


def test_reasoning_in_a_message_is_the_rows_own(tmp_path: Path) -> None:
    for number, key in enumerate(("reasoning_content", "reasoning", "thinking")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (example,) = read(folder, [{"messages": [ASKED, {**SAID, key: "Easy."}]}])
        assert (example.response, example.reflection) == ("An oak.", "Easy.")


def test_thoughts_of_earlier_turns_are_counted_and_kept_for_their_own_rows(tmp_path: Path) -> None:
    first = {**SAID, "thinking": "Easy."}
    chat = [ASKED, first, {"role": "user", "content": "And?"}, {**SAID, "content": "An elm."}]
    rows = load(FilesData(general=_file(tmp_path, [{"messages": chat}]), turns="all"), 0, tmp_path)
    assert [(row.response, row.reflection) for row in rows] == [
        ("An oak.", "Easy."),
        ("An elm.", None),
    ]
    assert "Easy." not in rows[1].context
    assert any("1 think blocks of earlier turns left out" in note for note in rows.notes)


def test_an_answer_that_is_json_stays_text(tmp_path: Path) -> None:
    answer = json.dumps([{"role": "admin", "content": "x"}])
    (example,) = read(tmp_path, [{"instruction": "Make JSON", "output": answer}])
    assert example.response == answer


def test_a_structure_in_a_text_of_json_is_reached_into(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    cot = json.dumps({"reasoning_content": "Because.", "solution": "Do it."}).replace('"', '""')
    file.write_text(f'prompt,cot_response\nx,"{cot}"\n')
    (example,) = load(FilesData(general=str(file)), 0, tmp_path)
    assert (example.response, example.reflection) == ("Do it.", "Because.")


@pytest.mark.parametrize("key", ["weight", "name"])
def test_keys_of_messages_that_nothing_reads_are_named(key: str, tmp_path: Path) -> None:
    rows = load(FilesData(general=_file(tmp_path, [{"messages": [ASKED, {**SAID, key: 0}]}])), 0,
                tmp_path)  # fmt: skip
    assert rows.notes == (f"data.general: columns not used: messages[].{key}",)


def test_placeholders_within_texts(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Name a tree\n\n<noinput>"}
    rows = [{"messages": [asked, SAID]}, {"instruction": "x", "output": "<nooutput>"}]
    (example,) = read(tmp_path, rows)
    assert example.instruction == "Name a tree"


def test_rows_that_are_all_left_out_are_told_with_their_reasons(tmp_path: Path) -> None:
    rows = [
        {"instruction": "x", "output": "<think>never closed"},
        {"instruction": "y", "output": ""},
    ]
    with pytest.raises(UserError, match="1 with a think block that never closes, 1 with an empty"):
        read(tmp_path, rows)


def _file(folder: Path, rows: Sequence[Any]) -> str:
    (folder / "file.json").write_text(json.dumps(rows))
    return str(folder / "file.json")
