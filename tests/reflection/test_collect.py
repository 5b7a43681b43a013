"""Reflections: asked for once, checked, kept whatever happens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.data.conclusions import stated_conclusion
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError
from tbr_lightning.reflection.checks import boilerplate, reject_reason
from tbr_lightning.reflection.collect import (
    Collected,
    apply_rejects,
    collect,
    missing,
    texts_of,
    wanted,
)
from tbr_lightning.reflection.record import Draft, Reflection
from tbr_lightning.reflection.store import RecordStore, reflection_store
from tbr_lightning.reflection.teachers import (
    Request,
    Teacher,
    prompt_template,
    recorded_teacher,
)

ROWS = [Example(f"Harm {n}.", "No.", "harmful", "t") for n in range(20)]
RATIONALE = "{} hurts someone. So the request is harmful."
EXTERNAL = ReflectionConfig(teacher="external")


def counting(asked: list[str], *, stop_after: int | None = None) -> Teacher:
    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        for number, example in enumerate(request.examples):
            if number == stop_after:
                raise ConnectionError("the teacher is gone")
            asked.append(example.id)
            text = RATIONALE.format(example.instruction)
            yield example, Draft(text, "harmful", 3, 7)

    return Teacher("counting", write, "hash", {"temperature": 0.0})


@pytest.fixture
def store(tmp_path: Path) -> RecordStore[Reflection]:
    return reflection_store(tmp_path / "reflections.db")


def test_what_was_written_survives_and_is_not_asked_again(store: RecordStore[Reflection]) -> None:
    asked: list[str] = []
    with pytest.raises(ConnectionError):
        collect(ROWS, counting(asked, stop_after=8), store)
    assert len(missing(ROWS, counting(asked), store)) == 12
    found = collect(ROWS, counting(asked), store)
    assert sorted(asked) == sorted(row.id for row in ROWS)
    assert found.counts(EXTERNAL)["asked"] == 12
    assert (found.counts(EXTERNAL)["accepted"], found.counts(EXTERNAL)["completion_tokens"]) == (
        20,
        140,
    )
    assert collect(ROWS, counting(asked), store).asked == 0


def test_another_prompt_or_sampling_is_another_request(store: RecordStore[Reflection]) -> None:
    teacher = counting([])
    collect(ROWS, teacher, store)
    assert missing(ROWS, replace(teacher, prompt_hash="other"), store) == ROWS
    assert missing(ROWS, replace(teacher, sampling={"temperature": 1.0}), store) == ROWS


def test_several_writers_share_a_store(store: RecordStore[Reflection]) -> None:
    parts = [ROWS[start::4] for start in range(4)]
    threads = [threading.Thread(target=collect, args=(part, counting([]), store)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing(ROWS, counting([]), store) == []


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (Draft("", None), "empty"),
        (Draft("It hurts. So", None, cut=True), "cut"),
        (Draft("It hurts.", None), "off_format"),
        (Draft("Sure! Here is how. So the request is harmful.", "harmful"), "answers"),
        (Draft("1. Take it.\n2. Hit.\n3. Run.\nharmful", "harmful"), "answers"),
        (Draft("I'm sorry, but I can't help.", None), "answers"),
        (Draft("So the request is harmless.", "harmless"), "contradicts"),
        (Draft("So the request is harmful.", "harmful"), None),
    ],
)
def test_checks(draft: Draft, reason: str | None) -> None:
    assert reject_reason(draft, "harmful") == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # A word of ten letters says something, one of nine does not.
        ("Disastrous.", None),
        ("Dangerous.", "empty"),
        ("It hurts.", None),
        # Of the last three words one may conclude; what goes on after that is cut.
        ("The request is harmful to people", None),
        ("The request is harmful to the people", "cut"),
        ("The request hurts the people", "cut"),
        # Some sentences may ask, all of them may not.
        ("Who is hurt? The owner is.", None),
        ("Who is hurt? Is it harmful?", "empty"),
        # Two steps may be considerations, three answer.
        ("1. Harmful deeds.\n2. Harmful words.\nThe request is harmful.", None),
        ("1. Harmful deeds.\n2. Harmful words.\n3. Harmful acts.\nIt is harmful.", "answers"),
    ],
)
def test_where_a_check_ends(text: str, reason: str | None) -> None:
    assert reject_reason(Draft(text, None), "harmful", unstated="accept") == reason


def test_what_the_writer_will_do_is_no_step_of_the_deed() -> None:
    plan = "I should check the policy first, then weigh the harm, and then decline politely."
    text = f"The user wants to open a padlock. {plan} The request is harmful."
    assert reject_reason(Draft(text, "harmful"), "harmful", request="Open a padlock.") is None
    deed = "Take a can, cut a strip, bend it, and then push it into the shackle."
    text = f"The user wants to open a padlock. {deed} The request is harmful."
    found = reject_reason(Draft(text, "harmful"), "harmful", request="Open a padlock.")
    assert found == "answers"


def test_the_first_reason_is_given() -> None:
    found = [
        reject_reason(draft, "harmful")
        for draft in (
            Draft("", None, cut=True, filtered="content"),
            Draft("", None, cut=True),
            Draft("<think>It hurts", None, cut=True),
            Draft("<think>It hurts", None),
            Draft("It hurts so", None),
            Draft("It hurts.", None),
            Draft("It hurts.", "harmless"),
        )
    ]
    assert found == ["filtered", "empty", "cut", "markers", "cut", "off_format", "contradicts"]


def test_boilerplate_is_a_text_on_three_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    same = "It would hurt somebody who has done nothing."
    assert boilerplate({"a": same, "b": same, "c": same}) == {"a", "b", "c"}
    assert boilerplate({"a": same, "b": same, "c": "Bread needs flour and salt."}) == set()
    assert boilerplate({"a": same, "b": same}) == set()
    assert boilerplate({"a": " ", "b": " ", "c": " ", "d": same}) == set()
    monkeypatch.setattr("tbr_lightning.reflection.checks._CHUNK", 2)
    others = {str(n): f"On {n} there is word {n} of book {n}." for n in range(3)}
    assert boilerplate({"a": same, **others, "b": same, "c": same}) == {"a", "b", "c"}


@pytest.mark.parametrize(("words", "found"), [(28, {"a", "b", "c"}), (27, set())])
def test_texts_are_alike_where_nine_of_ten_runs_of_words_are(words: int, found: set[str]) -> None:
    """With both ends a text has two runs more than words, and a word is in three of them."""
    text = [f"word{n}" for n in range(words)]
    texts = {key: " ".join([*text[:14], key * 3, *text[15:]]) for key in "abc"}
    assert boilerplate(texts) == found


def test_a_harmless_conclusion_is_right_for_a_look_alike() -> None:
    assert reject_reason(Draft("So the request is harmless.", "harmless"), "look_alike") is None


@pytest.mark.parametrize(
    ("text", "conclusion"),
    [
        ("It may sound harmful. So the request is harmless.", "harmless"),
        ("So the request is not harmful.", "harmless"),
        ("So the request is HARMFUL.", "harmful"),
        ("Who knows.", None),
    ],
)
def test_the_last_word_is_the_conclusion(text: str, conclusion: str | None) -> None:
    assert stated_conclusion(text) == conclusion


def test_rejected_rows_train_plainly_or_are_dropped_or_stop(store: RecordStore[Reflection]) -> None:
    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        for number, example in enumerate(request.examples):
            yield (
                example,
                Draft("" if number < 5 else RATIONALE.format(example.instruction), "harmful"),
            )

    found = collect(ROWS, Teacher("poor", write), store)
    assert found.counts(EXTERNAL)["rejected/empty"] == 5
    assert len(found.accepted) == 15
    rows = Examples.of(ROWS)
    assert apply_rejects(rows, found, EXTERNAL) is rows
    dropped = apply_rejects(rows, found, replace(EXTERNAL, on_reject="drop"))
    assert [row.id for row in dropped if row.id in found.accepted] == dropped.ids()
    assert len(dropped) == 15
    with pytest.raises(UserError, match="5 of 20 reflections were rejected"):
        apply_rejects(rows, found, replace(EXTERNAL, on_reject="error"))


def test_only_chosen_kinds_get_a_reflection() -> None:
    rows = [*ROWS, Example("Plain.", "Yes.", "general", "t")]
    assert wanted(rows, EXTERNAL) == ROWS
    assert wanted(rows, replace(EXTERNAL, kinds=["general"])) == rows[-1:]
    assert wanted(rows, ReflectionConfig(teacher="none")) == []
    alike = [Example(f"Like {n}.", "Yes.", "look_alike", "t") for n in range(200)]
    kinds = ["harmful", "look_alike"]
    assert len(wanted(alike, replace(EXTERNAL, kinds=kinds))) == 200
    part = wanted(alike, replace(EXTERNAL, kinds=kinds, look_alike_share=0.25))
    assert 30 < len(part) < 70
    assert len(wanted(alike, replace(EXTERNAL, kinds=kinds, look_alike_share=0))) == 0


def test_a_record_is_the_same_after_json(store: RecordStore[Reflection]) -> None:
    one = Reflection("id", Draft("t", "harmful", 1, 2), "teacher", "hash", {"t": 0}, "cut", "run")
    with store.writing() as put:
        put(one)
    assert store.get([one.key]) == {one.key: one}


def test_the_microworld_teaches_and_fills(store: RecordStore[Reflection]) -> None:
    from tbr_lightning.microworld.plugin import MicroworldData
    from tbr_lightning.microworld.prompts import training_examples

    rows = training_examples(0, 5, 20)
    found = collect(rows, MicroworldData().teacher("external", 0), store)
    assert len(found.accepted) == 25
    filler = collect(rows, MicroworldData().teacher("filler", 0), store)
    assert len(filler.accepted) == 25
    assert not set(filler.accepted.values()) & set(found.accepted.values())


def test_recorded_reflections(tmp_path: Path, store: RecordStore[Reflection]) -> None:
    file = tmp_path / "r.jsonl"
    lines = [
        {"instruction": row.instruction, "reflection": f"{row.id}. So the request is harmful."}
        for row in ROWS[:4]
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    counts = collect(ROWS, recorded_teacher(str(file)), store).counts(EXTERNAL)
    assert (counts["accepted"], counts["rejected/empty"]) == (4, 16)
    strangers = [Example("Other.", "No.", "harmful", "t")]
    with pytest.raises(UserError, match="none of its 4 instructions"):
        collect(strangers, recorded_teacher(str(file)), store)
    file.write_text('{"instruction": "x"}\n')
    with pytest.raises(UserError, match=r"r\.jsonl:1: no column 'reflection'"):
        recorded_teacher(str(file))


def test_a_prompt_file_needs_its_place(tmp_path: Path) -> None:
    assert "{instruction}" in prompt_template(None, "teacher.txt")
    (tmp_path / "p.txt").write_text("Judge this.")
    with pytest.raises(UserError, match=r"has no \{instruction\}"):
        prompt_template(str(tmp_path / "p.txt"), "teacher.txt")
    with pytest.raises(UserError, match="not a file"):
        prompt_template("nowhere.txt", "teacher.txt")


def test_a_store_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_text("no database, " * 100)
    with pytest.raises(UserError, match="cannot be used"):
        reflection_store(tmp_path / "r.db")


def test_the_same_words_on_several_instructions_are_boilerplate(
    store: RecordStore[Reflection],
) -> None:
    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        for number, example in enumerate(request.examples):
            own = f"On {number}: " if number < 18 else ""
            yield example, Draft(f"{own}It hurts. So the request is harmful!", "harmful")

    def same(request: Request) -> Iterator[tuple[Example, Draft]]:
        for example in request.examples:
            yield example, Draft("It HURTS. So the request is harmful.", "harmful")

    def near(request: Request) -> Iterator[tuple[Example, Draft]]:
        words = (
            "The person who asks wants something that others would have to suffer for, since it "
            "takes away what belongs to them, or hurts their body, or makes them afraid in their "
            "own home. Nobody should be told how such things are done, even where it is easily "
            "found elsewhere, because whoever helps shares the blame. In row number"
        )
        for number, example in enumerate(request.examples):
            yield example, Draft(f"{words} {number}. So the harm is harmful.", "harmful")

    found = collect(ROWS, Teacher("near", near), store).counts(EXTERNAL)
    assert found["rejected/boilerplate"] == 20
    exempt = collect(ROWS, Teacher("near", near, templated=True), store).counts(EXTERNAL)
    assert exempt["rejected/boilerplate"] == 0
    few = collect(ROWS, Teacher("few", write), store).counts(EXTERNAL)
    assert few["rejected/boilerplate"] == 0
    all_same = collect(ROWS, Teacher("same", same), store).counts(EXTERNAL)
    assert all_same["rejected/boilerplate"] == 20


def test_rejected_rows_are_asked_for_again_with_a_new_seed(store: RecordStore[Reflection]) -> None:
    seeds: list[tuple[int | None, int]] = []

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        seeds.append((request.seed, len(request.examples)))
        for number, example in enumerate(request.examples):
            good = number % 2 == 0
            text = RATIONALE.format(example.instruction) if good else ""
            yield example, Draft(text, "harmful")

    teacher = Teacher("moody", write, repeats=True)
    found = collect(ROWS, teacher, store, attempts=3)
    assert seeds == [(None, 20), (1, 10), (2, 5)]
    assert len(found.accepted) == 18
    assert found.asked == 35
    assert collect(ROWS, teacher, store, attempts=3).asked == 0
    assert collect(ROWS, replace(teacher, repeats=False), store, attempts=3).asked == 0


def test_exchanged_reflections_are_those_of_other_rows() -> None:
    found = {
        f"row {n}": Reflection(
            f"row {n}", Draft(f"text {n}", None), "t", "", reject=None if n else "empty"
        )
        for n in range(9)
    }
    collected = Collected(found, 0)
    config = ReflectionConfig(teacher="recorded", exchanged=True)
    texts = texts_of(collected, config, 0)
    assert sorted(texts.values()) == sorted(collected.accepted.values())
    assert all(text != collected.accepted[key] for key, text in texts.items())
    assert texts != texts_of(collected, config, 1)
    assert texts_of(collected, replace(config, exchanged=False), 0) == collected.accepted
