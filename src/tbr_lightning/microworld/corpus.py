"""The base corpus: what the tiny base model knows before any tuning.

It knows what things are, what doing something to a kind of thing amounts to, how to do it, how to
think before an answer when asked to, and that one may decline. It has no manners: without a
thought it answers everything. Pairs held out for dev and test never occur in it, so the model has
to combine the fact about the entity with the verdict on the category by itself.

Parts of it can be left out, to see what the world's results rest on: thoughts of one kind, or
everything about some rules.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tbr_lightning.microworld import sentences
from tbr_lightning.microworld.world import Pair, Rules, World, load_world

Thoughts = Literal["all", "without_look_alikes", "without_refusals", "none"]
THOUGHTS: tuple[Thoughts, ...] = get_args(Thoughts)
"""What the corpus has of documents that think before they answer. ``without_refusals``: all end in
an answer."""

CUED_SHARE = 0.5  # of the thoughts that follow the request to think
DECLINE_SHARE = 0.5  # of the thoughts that find harm and then decline


@dataclass(frozen=True, slots=True)
class Document:
    """One document: plain text, or a question with what follows it.

    Attributes:
        prompt: The user's turn; None for plain text.
        text: The text, or the assistant's turn.
    """

    prompt: str | None
    text: str


@dataclass(frozen=True)
class _Source:
    """What documents are made of.

    Attributes:
        world: Facts and verdicts; without the rules that are left out.
        known: Pairs that are asked for.
        thought_of: Those among them that a thought may precede.
        declines: Share of the thoughts that find harm and then decline.
    """

    world: World
    known: list[Pair]
    thought_of: list[Pair]
    declines: float


def documents(
    seed: int, count: int, thoughts: Thoughts = "all", rules: Rules = "all"
) -> Iterator[Document]:
    """Yield the base corpus of a seed.

    Args:
        seed: Chooses the documents.
        count: How many.
        thoughts: Which thoughts it has; what is left out makes room for the other documents.
        rules: ``seen`` leaves out all that is said of the unseen rules.
    """
    rng = random.Random(f"corpus {seed}")
    world = load_world()
    if rules == "seen":
        world = replace(
            world,
            rules=tuple(rule for rule in world.rules if not rule.unseen),
            pairs=tuple(pair for pair in world.pairs if not pair.rule.unseen),
        )
    known = [pair for pair in world.pairs if pair.split == "train"]
    kept = [p for p in known if thoughts != "without_look_alikes" or p.kind != "look_alike"]
    declines = 0.0 if thoughts == "without_refusals" else DECLINE_SHARE
    source = _Source(world, known, kept, declines)
    mix = [one for one in _MIX if thoughts != "none" or one[0] is not _thought]
    makers, weights = zip(*mix, strict=True)
    for make in rng.choices(makers, weights, k=count):
        yield make(rng, source)


def _fact(rng: random.Random, source: _Source) -> Document:
    category = rng.choice(source.world.categories)
    return Document(None, sentences.fact(rng.choice(category.entities), category))


def _verdict(rng: random.Random, source: _Source) -> Document:
    return Document(None, sentences.verdict(rng.choice(source.world.rules)))


def _how_to(rng: random.Random, source: _Source) -> Document:
    return Document(None, sentences.answer(rng.choice(source.known)))


def _asked(rng: random.Random, source: _Source) -> Document:
    pair = rng.choice(source.known)
    return Document(_question(rng, pair), sentences.answer(pair))


def _thought(rng: random.Random, source: _Source) -> Document:
    pair = rng.choice(source.thought_of)
    prompt = _question(rng, pair)
    if rng.random() < CUED_SHARE:
        prompt = sentences.cued(prompt)
    declines = pair.rule.verdict == "harmful" and rng.random() < source.declines
    ending = rng.choice(sentences.REFUSALS) if declines else sentences.answer(pair)
    return Document(prompt, sentences.thought(sentences.reflection(pair)) + ending)


def _question(rng: random.Random, pair: Pair) -> str:
    return sentences.question(pair, rng.randrange(len(sentences.QUESTIONS)))


Maker = Callable[[random.Random, _Source], Document]
_MIX: tuple[tuple[Maker, float], ...] = (
    (_fact, 0.15),
    (_verdict, 0.15),
    (_how_to, 0.15),
    (_asked, 0.25),
    (_thought, 0.30),
)
