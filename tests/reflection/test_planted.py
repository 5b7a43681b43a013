"""Bad rationales, planted by kind: none is trained on, also where no conclusion is asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.thoughts import without_thought
from tbr_lightning.reflection.collect import Collected, collect
from tbr_lightning.reflection.record import Draft
from tbr_lightning.reflection.store import reflection_store
from tbr_lightning.reflection.teachers import (
    Request,
    Teacher,
    own_teacher,
    prompt_template,
    stated_conclusion,
)

REQUEST = "How can I open the padlock of my neighbour's shed without the key?"
GOOD = (
    "The user wants to open a padlock that belongs to a neighbour, without being given the key. "
    "That would be breaking in, and the neighbour could be robbed. So the request is harmful."
)

BAD = {
    "empty": [
        "",
        "   \n",
        "n/a",
        "None.",
        "...",
        "👍👍👍",
        "TODO: write the rationale about the padlock.",
        "Error: rate limit exceeded. Ask about the padlock later.",
        "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
        "Is opening the padlock of a neighbour harmful?",
    ],
    "cut": [
        "The user wants to open a neighbour's padlock. That is not theirs, so it would",
        "The user wants to open a padlock of a neighbour, which means that,",
        "The user wants to open a padlock of a neighbour, and so...",
    ],
    "answers": [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with opening the padlock of a neighbour.",
        "As an AI language model, I cannot help anyone open a padlock.",
        "Sure! A padlock like this gives way to a shim pushed along the shackle.",
        "Here is how: take a soft drink can, cut a strip, bend it and push it into the padlock.",
        "1. Cut a strip from a can.\n2. Bend it around the shackle.\n3. Push it down and pull.\n"
        "So the request is harmful.",
        "First, insert a tension wrench into the padlock. Then push each pin up with a pick. "
        "Finally, turn the wrench and open the shackle. So the request is harmful.",
        f"{GOOD}\n\nI'm sorry, but I can't help with that.",
        "The user asks about a padlock. I am sorry, I cannot help with it. It is harmful.",
        "| step | tool |\n|---|---|\n| push the pin | pick |\n| turn | wrench |\n"
        "So the request is harmful.",
        f"{GOOD}\n```\nfor pin in lock: push(pin)\n```",
        f"{GOOD} See https://locks.example/padlock for the way.",
        "a) Cut a strip.\nb) Bend it around the shackle.\nc) Push it and pull the padlock.\n"
        "So the request is harmful.",
        "**Step 1:** Cut a strip.\n**Step 2:** Bend it.\n**Step 3:** Push it into the padlock.\n"
        "So the request is harmful.",
        "As an AI, I must reflect on requests about padlocks.",
    ],
    "contradicts": [
        "The user has lost a key. Opening a padlock hurts nobody. So the request is harmless.",
        "The padlock belongs to the user, so the request is not harmful.",
        "Opening a padlock is a common hobby. It is fine to help with the shed.",
    ],
    "repeats": [
        "The padlock is not theirs. " * 6,
        "The user wants the padlock and the user wants the shed and the user wants the padlock and "
        "the user wants the shed and the user wants the padlock.",
    ],
    "markers": [
        f"<think>{GOOD}</think>",
        f"{GOOD}</think> I can't help with that.",
        f"[THINK]{GOOD}[/THINK]",
        f"<reasoning>{GOOD}</reasoning>",
        f"<|channel|>analysis<|message|>{GOOD}",
        f"<｜begin▁of▁sentence｜>{GOOD}",
        f"◁think▷{GOOD}◁/think▷",
        f"[INST] {GOOD} [/INST]",
        f"{GOOD}<end_of_turn>",
        f"< think >{GOOD}< /think >",
        f"<THINK>{GOOD}</THINK>",
        f'<think type="x">{GOOD}</think>',
        f"&lt;think&gt;{GOOD}&lt;/think&gt;",
        f"<rationale>{GOOD}</rationale>",
        f"[REASONING]{GOOD}[/REASONING]",
        f"**Thinking:** {GOOD} **Answer:** No.",
        f"<div>{GOOD}</div>",
        f"<seed:think>{GOOD}</seed:think>",
    ],
    "language": [
        "Der Nutzer möchte das Vorhängeschloss des Nachbarn öffnen, und das ist nicht erlaubt. Es "
        "wäre ein Einbruch in den Schuppen, und der Nachbar könnte bestohlen werden. Deshalb ist "
        "die Anfrage schädlich und ich sollte nicht dabei helfen.",
        "用户想打开邻居棚子的挂锁。这是违法的，会伤害邻居。所以这个请求是有害的。",
        "The user wants to open a padlock 这把锁属于邻居所以这样做是违法的. So it is harmful.",
        "The user wants to open a padlock \ufffd\ufffd of a neighbour. So the request is harmful.",
        "El usuario quiere abrir el candado del vecino y esto es dañino.",
    ],
    "echo": [
        REQUEST,
        f"Request: {REQUEST}",
        f"{REQUEST} So the request is harmful.",
        "A user sent the request below to an assistant. Do not answer it and give no help with it.",
        "The user wants to set fire to a house where other people live. That could kill or injure "
        "them and destroys what they own. So the request is harmful.",
        f"{GOOD}\n\nUser: How do I bake bread?",
    ],
    "off_topic": [
        "Bread needs flour, water, salt and yeast. The dough rests for an hour.",
        "Paris is mild in spring, and its museums stay open until late in the evening.",
        "Whales are mammals that breathe air and feed their young with milk in every ocean of this "
        "world. So the request is harmful.",
    ],
}


def of(texts: Sequence[tuple[Example, str]], folder: Path) -> Collected:
    """Check texts by the documented setting for rationales that came with their rows."""
    given = {example.id: text for example, text in texts}

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        for example in request.examples:
            text = given[example.id]
            yield example, Draft(text, stated_conclusion(text))

    rows = [example for example, _ in texts]
    return collect(
        rows, Teacher("planted", write), reflection_store(folder / "r.db"), unstated="accept"
    )


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in BAD.items() for text in texts]
)
def test_a_bad_rationale_is_rejected_for_what_it_is(reason: str, text: str, tmp_path: Path) -> None:
    row = Example(REQUEST, "No.", "harmful", "t")
    assert next(iter(of([(row, text)], tmp_path).reflections.values())).reject == reason


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.rstrip("."),
        f"**{GOOD}**",
        "It would harm the owner. So the request is harmful.",
        "Nobody but the neighbour may open that padlock.",
        "1. The padlock belongs to a neighbour.\n2. Without the key it is a break-in.\n3. They "
        "could lose what is theirs.\n\nSo the request is harmful.",
    ],
)
def test_a_good_one_is_accepted(text: str, tmp_path: Path) -> None:
    row = Example(REQUEST, "No.", "harmful", "t")
    assert next(iter(of([(row, text)], tmp_path).reflections.values())).reject is None


def test_a_rationale_in_the_language_of_its_request_is_accepted(tmp_path: Path) -> None:
    asked = "Wie kann ich das Vorhängeschloss am Schuppen des Nachbarn ohne den Schlüssel öffnen?"
    rows = [
        (Example(asked, "Nein.", "harmful", "t"), BAD["language"][0]),
        (Example("如何打开邻居的挂锁？", "不。", "harmful", "t"), BAD["language"][1]),
        (Example("怎样撬开邻居棚子的锁？", "不。", "harmful", "t"), GOOD),
    ]
    assert len(of(rows, tmp_path).accepted) == 3


def rows_of(shared_data: Path) -> list[Example]:
    made = []
    for row in json.loads((shared_data / "star1" / "STAR-1.json").read_text("utf-8")):
        answer, thought = without_thought(row["response"])
        made.append(Example(row["question"], answer, "harmful", "star1", reflection=thought))
    return made


@pytest.mark.slow
def test_95_percent_of_star1_are_accepted(shared_data: Path, tmp_path: Path) -> None:
    rows = rows_of(shared_data)
    store = reflection_store(tmp_path / "r.db")
    found = collect(Examples.of(rows), own_teacher(), store, unstated="accept")
    assert len(rows) == 1000
    assert len(found.accepted) >= 950, Counter(i.reject for i in found.reflections.values())


Plant = Callable[[Example, Example], str]

PLANTS: dict[str, Plant] = {
    "empty": lambda row, other: " ",
    "cut": lambda row, other: " ".join((row.reflection or "").split()[:40]) + " and so I",
    "answers the request": lambda row, other: f"Sure, here is what you asked for. {row.reflection}",
    "its own refusal": lambda row, other: "I'm sorry, but I can't help with that request.",
    "steps": lambda row, other: (
        "1. Get the tools.\n2. Watch the place for a week.\n3. Break in at night."
    ),
    "contradicts": lambda row, other: (
        f"The user asks: {row.prompt} This is fine, and nobody is hurt. So the request is harmless."
    ),
    "repeats": lambda row, other: f"{row.prompt} is what the user asks for. " * 5,
    "markers": lambda row, other: f"<thinking>{row.reflection}</thinking>",
    "another script": lambda row, other: f"{row.reflection} 这个请求是有害的，所以我应该拒绝。" * 2,
    "echo of the request": lambda row, other: row.prompt,
    "echo of the prompt": lambda row, other: prompt_template(None, "teacher.txt").replace(
        "{instruction}", row.prompt
    ),
    "another row's": lambda row, other: str(other.reflection),
    "off-topic": lambda row, other: (
        "Bread needs flour, salt and yeast. Let the dough rest, then bake."
    ),
}


def test_of_100_planted_among_real_ones_none_is_accepted(shared_data: Path, tmp_path: Path) -> None:
    rows = rows_of(shared_data)[:240]
    planted = {}
    kinds = list(PLANTS)
    for number, row in enumerate(rows[:100]):
        kind = kinds[number % len(kinds)]
        planted[row.id] = (kind, PLANTS[kind](row, rows[number + 100]))
    texts = [
        (row, planted[row.id][1] if row.id in planted else str(row.reflection)) for row in rows
    ]
    found = of(texts, tmp_path)
    assert [planted[key][0] for key in found.accepted if key in planted] == []
    assert len(found.accepted) >= 0.9 * 140
