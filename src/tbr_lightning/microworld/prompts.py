"""Tuning rows, held-out prompts, the recorded teacher and the filler."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tbr_lightning.data.example import Example
from tbr_lightning.kinds import Kind
from tbr_lightning.microworld import sentences
from tbr_lightning.microworld.sentences import conclusion_of, cued, think_cue
from tbr_lightning.microworld.world import Pair, Rules, Verdict, load_world

__all__ = [
    "WorldPrompt",
    "conclusion_of",
    "cued",
    "evaluation_prompts",
    "filler_reflection",
    "teacher_reflection",
    "think_cue",
    "training_examples",
    "unseen_rule_prompts",
]

FILLER = (
    "Here is a line of text.",
    "It goes on for a while.",
    "Then there is one more line.",
    "After that comes the next line.",
    "This line is here to fill the space.",
    "There is little to say about it.",
    "And so the text goes on.",
    "Now it is almost at its end.",
)
_FILLER_WORDS = 28  # of a filler at least; it ends with the sentence that reaches them


@dataclass(frozen=True, slots=True)
class WorldPrompt:
    """A held-out prompt.

    Attributes:
        text: The instruction.
        kind: ``general``, ``harmful`` or ``look_alike``.
        category: The category of the entity it names.
        reference: The right answer, word for word; empty for a harmful prompt.
    """

    text: str
    kind: Kind
    category: str
    reference: str


def training_examples(
    seed: int,
    general: int = 500,
    harmful: int = 300,
    look_alikes: int = 0,
    rules: Rules = "all",
) -> list[Example]:
    """Return the tuning rows of a seed, shuffled: general with answers, harmful with refusals.

    As in the paper's recipe no look-alike is among them unless asked for, with its answer: the
    cheap rival of reflection. Every pair is from the train split. The
    dispreferred response is what the preferred one is not: a refusal, or the answer.

    Args:
        seed: Chooses the pairs, the forms of the questions and the refusals.
        general: How many general rows.
        harmful: How many harmful rows.
        look_alikes: How many look-alikes.
        rules: ``seen`` asks for nothing that an unseen rule is about.
    """
    rng = random.Random(f"training {seed}")
    rows = [
        Example(text, sentences.answer(pair), "general", "microworld", rejected=_refusal(text))
        for text, pair in _draw("general", general, rng, rules)
    ]
    rows += [
        Example(
            text,
            rng.choice(sentences.REFUSALS),
            "harmful",
            "microworld",
            rejected=sentences.answer(pair),
        )
        for text, pair in _draw("harmful", harmful, rng, rules)
    ]
    # A draw of their own, so that the other rows are the same with and without them.
    drawn = _draw("look_alike", look_alikes, random.Random(f"training look-alikes {seed}"), rules)
    rows += [
        Example(text, sentences.answer(pair), "look_alike", "microworld", rejected=_refusal(text))
        for text, pair in drawn
    ]
    rng.shuffle(rows)
    return rows


def evaluation_prompts(half: Literal["dev", "test"], per_kind: int = 200) -> list[WorldPrompt]:
    """Return the held-out prompts of one half, the same ones every time, kind by kind.

    Args:
        half: ``dev`` for every choice, ``test`` only for what is reported.
        per_kind: How many of each kind, at most as many as there are pairs.

    Raises:
        ValueError: If there are fewer held-out pairs of a kind than asked for.
    """
    kinds: tuple[Kind, ...] = ("look_alike", "harmful", "general")
    prompts: list[WorldPrompt] = []
    for kind in kinds:
        pairs = load_world().select(kind, half)
        if per_kind > len(pairs):
            raise ValueError(f"{half} has {len(pairs)} {kind} prompts, {per_kind} were asked for")
        rng = random.Random(f"evaluation {half} {kind}")
        prompts += [_prompt(pair, rng) for pair in rng.sample(pairs, per_kind)]
    return prompts


def unseen_rule_prompts(half: Literal["dev", "test"]) -> list[WorldPrompt]:
    """Return prompts of one half whose whole rule ``rules: seen`` leaves out, kind by kind.

    Args:
        half: As of :func:`evaluation_prompts`.
    """
    rng = random.Random(f"unseen rules {half}")
    return [
        _prompt(pair, rng)
        for kind in ("look_alike", "harmful", "general")
        for pair in load_world().select(kind, half)
        if pair.rule.unseen
    ]


def _prompt(pair: Pair, rng: random.Random) -> WorldPrompt:
    return WorldPrompt(
        text=sentences.question(pair, rng.randrange(len(sentences.QUESTIONS))),
        kind=pair.kind,
        category=pair.rule.category.name,
        reference="" if pair.kind == "harmful" else sentences.answer(pair),
    )


def teacher_reflection(instruction: str) -> tuple[str, Verdict]:
    """Return what the world's recorded teacher thinks of an instruction, and its conclusion.

    Raises:
        ValueError: If the instruction is none of this world's.
    """
    pair = _by_question().get(instruction.removesuffix(f" {think_cue}"))
    if pair is None:
        raise ValueError(f"the micro-world's teacher does not know the instruction {instruction!r}")
    return sentences.reflection(pair), pair.rule.verdict


def filler_reflection(seed: int | str) -> str:
    """Return sentences without content: the control for the mere length of a reflection.

    Args:
        seed: Chooses the sentences; an example's id serves well.
    """
    rng = random.Random(f"filler {seed}")
    lines: list[str] = []
    while sum(len(line.split()) for line in lines) < _FILLER_WORDS:
        lines += [line for line in rng.sample(FILLER, 1) if lines[-1:] != [line]]
    return " ".join(lines)


def _refusal(text: str) -> str:
    """Return a refusal that is the question's own; it takes nothing from the draw of the rows."""
    return sentences.REFUSALS[len(text) % len(sentences.REFUSALS)]


def _draw(kind: Kind, count: int, rng: random.Random, rules: Rules) -> list[tuple[str, Pair]]:
    """Draw distinct questions from the train split: every pair once before any comes again."""
    pairs = load_world().select(kind, "train")
    if rules == "seen":
        pairs = [pair for pair in pairs if not pair.rule.unseen]
    forms = len(sentences.QUESTIONS)
    if count > forms * len(pairs):
        raise ValueError(f"the micro-world has {forms * len(pairs)} {kind} rows, not {count}")
    order = [(pair, rng.randrange(forms)) for pair in rng.sample(pairs, len(pairs))]
    drawn = [(sentences.question(p, first + k), p) for k in range(forms) for p, first in order]
    return drawn[:count]


@cache
def _by_question() -> dict[str, Pair]:
    forms = range(len(sentences.QUESTIONS))
    return {sentences.question(pair, k): pair for pair in load_world().pairs for k in forms}
