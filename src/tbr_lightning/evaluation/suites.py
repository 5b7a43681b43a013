"""Suites: prompts of known kind, each with a dev and a test half."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from hydra.utils import get_method

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.data.chats import messages_in
from tbr_lightning.data.example import context_of, instruction_id
from tbr_lightning.data.files import Row, checked_file, text_of
from tbr_lightning.errors import UserError, one_of
from tbr_lightning.evaluation.benchmarks import (
    Benchmark,
    benchmarks,
    chosen,
    file_rows,
    missing,
    published_rows,
)
from tbr_lightning.kinds import KINDS, Kind

Half = Literal["dev", "test"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of a suite.

    Attributes:
        text: The request.
        kind: ``general``, ``harmful`` or ``look_alike``.
        benchmark: Benchmark that it belongs to.
        category: The benchmark's own category.
        reference: The right answer, where there is one.
        focus: Sensitive words of the request, where the benchmark names them.
        context: Earlier messages, as JSON; or empty.
    """

    text: str
    kind: Kind
    benchmark: str
    category: str
    reference: str = ""
    focus: str = ""
    context: str = ""

    @property
    def id(self) -> str:
        """Identity of the request, the same in every evaluation and as in training rows."""
        return instruction_id(self.text, f"\x1f{self.context}" if self.context else "")

    @property
    def before(self) -> list[dict[str, str]]:
        """The messages before the request."""
        found: list[dict[str, str]] = json.loads(self.context) if self.context else []
        return found

    @property
    def conversation(self) -> str:
        """The request, after the messages before it: what judges and tables show."""
        said = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in self.before]
        return "\n\n".join([*said, f"User: {self.text}" if said else self.text])


def load_suite(config: SuiteConfig) -> list[Prompt]:
    """Return the prompts of a suite's chosen half, each once, at most ``suite.limit`` of a kind.

    Raises:
        UserError: A file is missing or malformed, a prompt is listed twice, or none is left.
    """
    prompts: list[Prompt] = get_method(config._target_)(config)
    if not prompts:
        raise UserError(f"suite={config.name} has no prompts in its {config.half} half")
    return [p for group in _grouped(prompts) for p in _sampled(group, config.limit)]


def digest(prompts: Iterable[Prompt]) -> str:
    """Return a hash of the prompts and their kinds; two evaluations compare only if it agrees."""
    lines = sorted(f"{p.id} {p.kind} {p.benchmark} {p.reference}" for p in prompts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def published(config: SuiteConfig) -> list[Prompt]:
    """Return the prompts of published benchmarks, from local files or the hub.

    A prompt that occurs in two benchmarks is kept in the one that is named first, so that no
    prompt is asked or counted twice; one that is harmful in one and benign in another is left out.
    What was left out is reported.
    """
    wanted = chosen(config.benchmarks, config.table)
    if config.path is None and (sentences := missing(wanted, config.root)):
        raise UserError("\n".join(sentences))
    left_out: Counter[str] = Counter()
    kept: dict[str, Prompt] = {}
    disputed: set[str] = set()
    for benchmark in wanted:
        rows = (
            file_rows(checked_file(config.path, "suite.path"))
            if config.path
            else published_rows(benchmark, config.root)
        )
        for prompt in prompts_of(benchmark, rows, left_out):
            other = kept.setdefault(prompt.id, prompt)
            if other.kind != prompt.kind:
                disputed.add(prompt.id)
            elif other is not prompt:
                left_out[f"of {prompt.benchmark} that {other.benchmark} has too"] += 1
    if disputed:
        left_out["harmful in one benchmark and benign in another"] = len(disputed)
    if left_out:
        told = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        print(f"suite={config.name}: prompts left out: {told}", file=sys.stderr)
    prompts = [prompt for key, prompt in kept.items() if key not in disputed]
    return [p for p in prompts if config.half in ("all", half_of(p))]


def prompts_of(
    benchmark: Benchmark, rows: Iterable[tuple[str, Row]], left_out: Counter[str]
) -> list[Prompt]:
    """Return the prompts of one benchmark, each once, counting what is left out.

    Raises:
        UserError: A row is malformed, or prompts are repeated more often than is known.
    """
    kept: dict[str, Prompt] = {}
    repeated: list[str] = []
    for where, row in rows:
        if any(str(row.get(column)) != value for column, value in benchmark.only.items()):
            continue
        kind = _kind(benchmark, row, where)
        if kind is None:
            left_out[f"of {benchmark.name} that its authors call disputed or do not label"] += 1
            continue
        before, text = _asked(benchmark, row, where)
        if context := text_of(row, benchmark.context, where, default=""):
            text = f"{context}\n\n---\n\n{text}"  # as HarmBench's DirectRequest asks
        named = {key: str(v) if isinstance(v, int) else v for key, v in row.items()}
        category = text_of(named, benchmark.category, where, default="")
        focus = str(row.get("focus") or "")  # XSTest's sensitive word
        said = context_of(before)
        prompt = Prompt(text, kind, benchmark.name, category, focus=focus, context=said)
        if prompt.id in kept:
            repeated.append(f"{where}: '{text[:80]}'")
        kept.setdefault(prompt.id, prompt)
    if benchmark.repeats is not None and len(repeated) > benchmark.repeats:
        more = f", as are {len(repeated) - 1} other prompts" if len(repeated) > 1 else ""
        raise UserError(
            f"{benchmark.name}: {repeated[-1]} is listed twice{more} ({benchmark.repeats} in the "
            "published file): remove the repeats"
        )
    if repeated:
        left_out[f"of {benchmark.name} that are listed twice"] = len(repeated)
    return list(kept.values())


def facts(config: SuiteConfig, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Return what a run records of each benchmark: counts, source, licence and citation."""
    counts = Counter((p.benchmark, p.kind) for p in prompts)
    table = benchmarks(config.table)
    rows = []
    for (name, kind), count in counts.items():
        known = table.get(name)
        rows.append(
            {
                "benchmark": name,
                "kind": kind,
                "prompts": count,
                "half": config.half,
                "licence": known.licence if known else config.licence,
                "citation": known.citation if known else config.citation,
                "url": known.url if known else "",
                "caveat": known.caveat if known else "",
            }
        )
    return rows


def _asked(benchmark: Benchmark, row: Row, where: str) -> tuple[list[dict[str, str]], str]:
    """Return the messages before, and the request: a text, or the last turn of a list."""
    column = next((name for name in benchmark.prompt if isinstance(row.get(name), list)), None)
    if column is None:
        return [], text_of(row, benchmark.prompt, where)
    turns = row[column]
    if len(turns) == 1 and isinstance(turns[0], str):
        return [], text_of({column: turns[0]}, (column,), where)
    messages = messages_in(turns, column, where)
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{where}: '{column}' must end with a turn of the user: fix the row")
    return messages[:-1], messages[-1]["content"]


def _kind(benchmark: Benchmark, row: Row, where: str) -> Kind | None:
    if benchmark.kind_column is None:
        return benchmark.kind
    other = benchmark.otherwise
    if other and benchmark.kind_column not in row:
        begins = text_of(row, (other["column"],), where).startswith(other["begins"])
        return cast("Kind", other["kind" if begins else "else"])
    if benchmark.kind_column in row and row[benchmark.kind_column] is None:
        return None
    label = text_of(row, (benchmark.kind_column,), where)
    try:
        one_of(benchmark.kind_column, label, benchmark.kinds)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return benchmark.kinds[label]


def half_of(prompt: Prompt) -> Half:
    """Return the half of a prompt, fixed by the hash of its text."""
    return "dev" if int(prompt.id[:8], 16) % 2 else "test"


def _grouped(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Return prompts kind by kind and benchmark by benchmark, which is what a limit counts."""
    groups: dict[tuple[Kind, str], list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: KINDS.index(p.kind)):
        groups.setdefault((prompt.kind, prompt.benchmark), []).append(prompt)
    return list(groups.values())


def _sampled(group: list[Prompt], limit: int | None) -> list[Prompt]:
    """Return at most so many prompts, in their order; a smaller limit takes a part of a larger's.

    Benchmarks list their prompts by category, so the first ones would be of one category alone:
    the hashes of the prompts choose.
    """
    if limit is None or len(group) <= limit:
        return group
    chosen = set(sorted(prompt.id for prompt in group)[:limit])
    return [prompt for prompt in group if prompt.id in chosen]
