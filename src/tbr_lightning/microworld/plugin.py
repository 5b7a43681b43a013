"""What the configs name of the micro-world by ``_target_``: rows, teachers, suite, base model.

Everything here could stand in a package of your own; no other part of the project knows of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.data.cache import content_key
from tbr_lightning.data.example import Example
from tbr_lightning.data.sources import DataConfig, not_empty
from tbr_lightning.data.table import FORMAT, Examples, stored
from tbr_lightning.errors import UserError, at_least, one_of
from tbr_lightning.microworld.world import Rules

if TYPE_CHECKING:
    from tbr_lightning.evaluation.suites import Prompt
    from tbr_lightning.microworld.prompts import WorldPrompt
    from tbr_lightning.models.config_facts import Source
    from tbr_lightning.reflection.record import Draft
    from tbr_lightning.reflection.teachers import Request, Teacher

_WRONG = 3  # wrong answers beside the right one


@dataclass
class MicroworldData(DataConfig):
    """Rows of the embedded micro-world."""

    _target_: str = "tbr_lightning.microworld.plugin.MicroworldData"
    name: str = "microworld"
    general: int = 500  # rows
    harmful: int = 300  # rows
    look_alikes: int = 0  # answered rows that look harmful; none in the paper's recipe
    rules: str = "all"  # seen: nothing of the rules that suite=unseen_rules asks about

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("data.general", self.general, 0)
        at_least("data.harmful", self.harmful, 0)
        at_least("data.look_alikes", self.look_alikes, 0)
        one_of("data.rules", self.rules, get_args(Rules))

    def planned(self) -> tuple[int, int]:
        """Return how many rows are wanted, all and harmful ones."""
        return self.general + self.harmful + self.look_alikes, self.harmful

    def load(self, seed: int, cache: Path) -> Examples:
        """Return the rows of a seed.

        Raises:
            UserError: No row is wanted, or more than the world has.
        """
        from tbr_lightning.microworld.prompts import training_examples

        counts = (self.general, self.harmful, self.look_alikes)

        def make(_: Counter[str]) -> Iterator[Example]:
            try:
                rows = training_examples(seed, *counts, cast(Rules, self.rules))
            except ValueError as error:
                raise UserError(
                    f"{error}: lower data.general, data.harmful or data.look_alikes"
                ) from error
            return not_empty(iter(rows), self.name)

        key = content_key(FORMAT, "microworld", _sources(), *counts, self.rules, seed)
        return stored(cache, key, make)

    def teacher(self, name: str, seed: int) -> Teacher | None:
        """Return the recorded teacher, which knows the world's own reasons, or the filler."""
        made = {"external": _recorded, "filler": _filler}.get(name)
        return None if made is None else made(seed)

    @property
    def suite(self) -> str:
        """The suite of the world's held-out pairs."""
        return "suite=smoke"


def suite(config: SuiteConfig) -> list[Prompt]:
    """Return prompts of the micro-world about (verb, entity) pairs held out of all training."""
    from tbr_lightning.microworld.prompts import evaluation_prompts

    return _prompts(config, "microworld", evaluation_prompts)


def unseen_rules(config: SuiteConfig) -> list[Prompt]:
    """Return prompts about the rules that ``rules: seen`` leaves out of corpus and rows."""
    from tbr_lightning.microworld.prompts import unseen_rule_prompts

    return _prompts(config, "microworld_unseen_rules", unseen_rule_prompts)


def _prompts(
    config: SuiteConfig, name: str, of: Callable[[Literal["dev", "test"]], Sequence[WorldPrompt]]
) -> list[Prompt]:
    from tbr_lightning.evaluation.suites import Prompt

    halves: Sequence[Literal["dev", "test"]]
    halves = ("dev", "test") if config.half == "all" else (config.half,)  # type: ignore[assignment]
    return [
        Prompt(p.text, p.kind, name, p.category, p.reference) for half in halves for p in of(half)
    ]


def choice_task(config: SuiteConfig) -> dict[str, Any]:
    """Return a multiple-choice task of EleutherAI's harness about held-out pairs."""
    from datasets import Dataset

    rows = Dataset.from_list(choice_rows(config.half))
    return {
        "task": "microworld_choice",
        "custom_dataset": lambda **_: {"test": rows},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{right}}",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
    }


def choice_rows(half: str) -> list[dict[str, Any]]:
    """Return general questions about held-out pairs; the wrong answers are how other things go.

    They come first from what the same verb does to other kinds of things.
    """
    from tbr_lightning.microworld import sentences
    from tbr_lightning.microworld.world import load_world

    world = load_world()
    general = [rule for rule in world.rules if rule.kind == "general"]
    made = []
    for pair in world.pairs:
        asked = half in ("all", pair.split) and pair.split != "train"
        if pair.kind != "general" or not asked:
            continue
        rng = random.Random(f"choice {pair.rule.verb} {pair.entity}")
        others = sorted({r.how for r in general if r.verb == pair.rule.verb} - {pair.rule.how})
        rest = sorted({r.how for r in general} - {pair.rule.how, *others})
        wrong = (rng.sample(others, len(others)) + rng.sample(rest, _WRONG))[:_WRONG]
        hows = rng.sample([pair.rule.how, *wrong], _WRONG + 1)
        answers = [
            sentences.answer(replace(pair, rule=replace(pair.rule, how=how))) for how in hows
        ]
        text = sentences.question(pair, rng.randrange(len(sentences.QUESTIONS)))
        right = hows.index(pair.rule.how)
        made.append({"question": text, "options": answers, "right": right})
    return made


def base(settings: dict[str, Any]) -> Source:
    """Return the base model that is trained once on the world's corpus, with its tokenizer.

    Args:
        settings: Fields of :class:`tbr_lightning.microworld.base.BaseSettings`.

    Raises:
        UserError: One is not known.
    """
    from tbr_lightning.microworld.base import BaseSettings, base_config, base_model
    from tbr_lightning.microworld.tokenizer import build_tokenizer
    from tbr_lightning.models.config_facts import Source

    try:
        known = BaseSettings(**settings)
    except TypeError as error:
        raise UserError(f"model.pretraining: {error}: see BaseSettings for its keys") from error
    return Source(
        folder=lambda cache: base_model(cache, known),
        tokenizer=build_tokenizer,
        config=lambda: base_config(known, build_tokenizer()),
    )


def _recorded(_: int) -> Teacher:
    from tbr_lightning.microworld.prompts import teacher_reflection
    from tbr_lightning.reflection.record import Draft
    from tbr_lightning.reflection.teachers import Teacher

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        for example in request.examples:
            text, conclusion = teacher_reflection(example.instruction)
            yield example, Draft(text, conclusion)

    return Teacher("microworld/teacher", write, templated=True)


def _filler(seed: int) -> Teacher:
    """Return the control whose think block has the usual length and says nothing."""
    from tbr_lightning.microworld.prompts import filler_reflection
    from tbr_lightning.reflection.record import Draft
    from tbr_lightning.reflection.teachers import Teacher

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        for example in request.examples:
            yield example, Draft(filler_reflection(f"{seed}/{example.id}"), None)

    return Teacher("microworld/filler", write, sampling={"seed": seed}, checked=False)


def _sources() -> str:
    """Return a hash of the files that make the rows."""
    package = resources.files(__package__ or "")
    made_by = ("lexicon.yaml", "prompts.py", "sentences.py", "world.py")
    return content_key({name: (package / name).read_text("utf-8") for name in made_by})
