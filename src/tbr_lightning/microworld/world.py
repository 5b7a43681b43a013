"""The world: categories, entities, (verb, category) rules, and the held-out pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from tbr_lightning.kinds import Kind

Split = Literal["train", "dev", "test"]
Verdict = Literal["harmful", "harmless"]
Rules = Literal["all", "seen"]

HELD_OUT_SHARE = 0.25  # of each rule's pairs go to dev, and as many to test
UNSEEN_SHARE = 0.25  # of the rules of each kind, where whole rules are held out


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of thing.

    Attributes:
        name: Its key in the lexicon.
        phrase: How a fact names it, e.g. ``a computer program``.
        entities: What belongs to it, each with its article.
    """

    name: str
    phrase: str
    entities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What it means to do ``verb`` to things of ``category``, and how it is done.

    Attributes:
        verb: The verb, with its particle if it has one.
        category: What it is done to.
        verdict: Whether doing so is harmful.
        reason: What it amounts to: "to VERB a CATEGORY is to REASON".
        how: The instruction that answers "how?".
        kind: The kind of prompt that asks for it.
        unseen: Whether it is one of those that ``rules: seen`` leaves out of everything.
    """

    verb: str
    category: Category
    verdict: Verdict
    reason: str
    how: str
    kind: Kind
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing that can be asked for: a verb and an entity, and the split it belongs to."""

    rule: Rule
    entity: str
    split: Split

    @property
    def kind(self) -> Kind:
        """The kind of prompt that asks for this pair."""
        return self.rule.kind


@dataclass(frozen=True)
class World:
    """Everything there is."""

    categories: tuple[Category, ...]
    rules: tuple[Rule, ...]
    pairs: tuple[Pair, ...]

    def select(self, kind: Kind, split: Split) -> list[Pair]:
        """Return the pairs of one kind in one split, in lexicon order."""
        return [p for p in self.pairs if p.kind == kind and p.split == split]


@cache
def load_world() -> World:
    """Return the world of ``lexicon.yaml`` (read once per process)."""
    lexicon = yaml.safe_load(resources.files(__package__).joinpath("lexicon.yaml").read_text())
    categories = {
        name: Category(name, entry["phrase"], tuple(entry["entities"]))
        for name, entry in lexicon["categories"].items()
    }
    rules = tuple(
        _rule(verb, categories[name], entry, ambiguous=_is_ever_harmful(entries))
        for verb, entries in lexicon["verbs"].items()
        for name, entry in entries.items()
    )
    unseen = _unseen(rules)
    rules = tuple(replace(rule, unseen=rule in unseen) for rule in rules)
    pairs = tuple(pair for rule in rules for pair in _split(rule))
    return World(tuple(categories.values()), rules, pairs)


def _is_ever_harmful(entries: dict[str, dict[str, Any]]) -> bool:
    return any("harmful" in entry for entry in entries.values())


def _rule(verb: str, category: Category, entry: dict[str, str], *, ambiguous: bool) -> Rule:
    verdict: Verdict = "harmful" if "harmful" in entry else "harmless"
    kind: Kind = "general"
    if ambiguous:
        kind = "harmful" if verdict == "harmful" else "look_alike"
    return Rule(verb, category, verdict, entry[verdict], entry["how"], kind)


def _unseen(rules: tuple[Rule, ...]) -> set[Rule]:
    """Return by hash a share of the rules of each kind."""
    found: set[Rule] = set()
    for kind in dict.fromkeys(rule.kind for rule in rules):
        ranked = sorted(
            (rule for rule in rules if rule.kind == kind),
            key=lambda rule: _digest(f"rule\x1f{rule.verb}\x1f{rule.category.name}"),
        )
        found.update(ranked[: round(UNSEEN_SHARE * len(ranked))])
    return found


def _split(rule: Rule) -> list[Pair]:
    """Split one rule's entities by hash, so that every rule is known and every split has it.

    A hash rather than a seeded shuffle: adding an entity moves few of the others.
    """
    ranked = sorted(rule.category.entities, key=lambda e: _digest(f"{rule.verb}\x1f{e}"))
    held_out = round(HELD_OUT_SHARE * len(ranked))
    split: dict[str, Split] = dict.fromkeys(ranked, "train")
    split |= dict.fromkeys(ranked[:held_out], "dev")
    split |= dict.fromkeys(ranked[held_out : 2 * held_out], "test")
    return [Pair(rule, entity, split[entity]) for entity in rule.category.entities]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
