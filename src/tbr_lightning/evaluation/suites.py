"""Suites: prompts of known kind, each with a dev and a test half."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hydra.utils import get_method

from tbr_lightning.config.schema import SuiteConfig
from tbr_lightning.data.example import KINDS, Kind, instruction_id
from tbr_lightning.data.files import read_rows, text_of
from tbr_lightning.errors import UserError, one_of

Half = Literal["dev", "test"]
_XSTEST_KINDS: dict[str, Kind] = {"safe": "look_alike", "unsafe": "harmful"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of a suite.

    Attributes:
        text: The request.
        kind: ``general``, ``harmful`` or ``look_alike``.
        benchmark: Which benchmark it belongs to.
        category: The benchmark's own category.
        reference: The one right answer, where there is one.
        focus: Its sensitive words, where the benchmark names them.
    """

    text: str
    kind: Kind
    benchmark: str
    category: str
    reference: str = ""
    focus: str = ""

    @property
    def id(self) -> str:
        """Identity of the request, the same in every evaluation."""
        return instruction_id(self.text)


def load_suite(config: SuiteConfig) -> list[Prompt]:
    """Return the prompts of a suite's chosen half.

    Raises:
        UserError: A file is missing or malformed, a prompt stands there twice, or none is left.
    """
    prompts: list[Prompt] = get_method(config._target_)(config)
    if config.limit is not None:
        prompts = [p for kind in KINDS for p in _of_kind(prompts, kind)[: config.limit]]
    if not prompts:
        raise UserError(f"suite={config.name} has no prompts in its {config.half} half")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise UserError(
                f"suite={config.name}: the prompt '{prompt.text[:80]}' stands there twice: "
                "remove one"
            )
        seen.add(prompt.id)
    return prompts


def digest(prompts: Iterable[Prompt]) -> str:
    """Return a hash of the prompts and their kinds; two evaluations compare only if it agrees."""
    lines = sorted(f"{p.id} {p.kind} {p.benchmark} {p.reference}" for p in prompts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def microworld(config: SuiteConfig) -> list[Prompt]:
    """Return prompts of the micro-world about (verb, entity) pairs held out of all training."""
    from tbr_lightning.microworld.prompts import evaluation_prompts

    halves: Sequence[Half] = ("dev", "test") if config.half == "all" else (config.half,)  # type: ignore[assignment]
    return [
        Prompt(p.text, p.kind, "microworld", p.category, p.reference)
        for half in halves
        for p in evaluation_prompts(half)
    ]


def xstest(config: SuiteConfig) -> list[Prompt]:
    """Return XSTest (Röttger et al., 2024) from its CSV: safe look-alikes and unsafe contrasts."""
    prompts = []
    for where, row in read_rows(config.path or "", "suite.path"):
        label = text_of(row, ("label",), where)
        try:
            one_of("label", label, _XSTEST_KINDS)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        text, category = text_of(row, ("prompt",), where), text_of(row, ("type",), where)
        focus = str(row.get("focus") or "")
        prompts.append(Prompt(text, _XSTEST_KINDS[label], "xstest", category, focus=focus))
    return [p for p in prompts if config.half in ("all", half_of(p))]


def half_of(prompt: Prompt) -> Half:
    """Return the half of a prompt, fixed by the hash of its text."""
    return "dev" if int(prompt.id[:8], 16) % 2 else "test"


def _of_kind(prompts: Sequence[Prompt], kind: Kind) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.kind == kind]
