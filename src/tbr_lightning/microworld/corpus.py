"""The base corpus: what the tiny base model knows before any tuning.

It knows what things are, what doing something to a kind of thing amounts to, how to do it, how to
think before an answer when asked to, and that one may decline. It has no manners: without a
thought it answers everything. Pairs held out for dev and test never occur in it, so the model has
to combine the fact about the entity with the verdict on the category by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tbr_lightning.microworld import sentences
from tbr_lightning.microworld.world import Pair, World, load_world

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


def documents(seed: int, count: int) -> Iterator[Document]:
    """Yield the base corpus of a seed.

    Args:
        seed: Chooses the documents.
        count: How many.
    """
    rng = random.Random(f"corpus {seed}")
    world = load_world()
    known = [pair for pair in world.pairs if pair.split == "train"]
    makers, weights = zip(*_MIX, strict=True)
    for make in rng.choices(makers, weights, k=count):
        yield make(rng, world, known)


def _fact(rng: random.Random, world: World, known: list[Pair]) -> Document:
    category = rng.choice(world.categories)
    return Document(None, sentences.fact(rng.choice(category.entities), category))


def _verdict(rng: random.Random, world: World, known: list[Pair]) -> Document:
    return Document(None, sentences.verdict(rng.choice(world.rules)))


def _how_to(rng: random.Random, world: World, known: list[Pair]) -> Document:
    return Document(None, sentences.answer(rng.choice(known)))


def _asked(rng: random.Random, world: World, known: list[Pair]) -> Document:
    pair = rng.choice(known)
    return Document(_question(rng, pair), sentences.answer(pair))


def _thought(rng: random.Random, world: World, known: list[Pair]) -> Document:
    pair = rng.choice(known)
    prompt = _question(rng, pair)
    if rng.random() < CUED_SHARE:
        prompt = sentences.cued(prompt)
    declines = pair.rule.verdict == "harmful" and rng.random() < DECLINE_SHARE
    ending = rng.choice(sentences.REFUSALS) if declines else sentences.answer(pair)
    return Document(prompt, sentences.thought(sentences.reflection(pair)) + ending)


def _question(rng: random.Random, pair: Pair) -> str:
    return sentences.question(pair, rng.randrange(len(sentences.QUESTIONS)))


Maker = Callable[[random.Random, World, list[Pair]], Document]
_MIX: tuple[tuple[Maker, float], ...] = (
    (_fact, 0.15),
    (_verdict, 0.15),
    (_how_to, 0.15),
    (_asked, 0.25),
    (_thought, 0.30),
)
