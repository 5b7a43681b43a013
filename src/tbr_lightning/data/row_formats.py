"""The common formats of rows: Alpaca's columns, chats, pairs, answers that think first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tbr_lightning.data.chats import as_turns, decoded, messages_in, transcript, unused_keys
from tbr_lightning.data.example import Example, context_of
from tbr_lightning.data.files import Row, text_of
from tbr_lightning.data.thoughts import without_thought
from tbr_lightning.errors import UserError
from tbr_lightning.kinds import Kind

Columns = Mapping[str, "str | None"]
"""Name of each column; ``None`` for the names that are known. A dotted name reaches inside."""

KNOWN: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input",),
    "response": ("output", "response", "completion", "answer", "cot_response.solution"),
    "rejected": ("rejected",),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "reflection": (
        "reflection",
        "reasoning_content",
        "reasoning",
        "cot_response.reasoning_content",  # FalseReject
    ),
}
_CHATS = ("messages", "conversations", "conversation")
_ANSWERS = ("chosen", "completion", "response", "output", "answer")
_Turns = tuple[list[dict[str, str]], str, "str | None", "str | None", str]
"""What was said before, the request, the answer, the rejected one, and the answer's reasoning."""

_NO_INPUT = re.compile(
    r"\W*(?:no[ _-]?(?:additional |further )?(?:input|context)"
    r"(?: (?:is )?(?:needed|required|provided|given|necessary|available))?|not applicable|"
    r"n\.?/?a\.?|nan|none|null|nil|keine? eingabe|aucune? entrée|(?:sin|ninguna) entrada|"
    r"nessun input|无输入|無輸入|没有输入|入力なし|нет (?:ввода|данных))?\W*",
    re.IGNORECASE,
)
_LAST_LINE = re.compile(r"\n\s*(?:input:)?\s*[<\[(]\s*no[ _-]?input\s*[>\])]\s*$", re.IGNORECASE)
_NO_OUTPUT = re.compile(r"\s*[<\[(]\s*no[ _-]?output\s*[>\])]\s*", re.IGNORECASE)

EMPTY = "with an empty response"
PLACEHOLDERS = "placeholders taken for no input"
UNCLOSED = "with a think block that never closes"
THOUGHTS = "reflections found in responses"
APART = "pairs whose sides answer different requests"
EARLIER = "think blocks of earlier turns left out of the prompt"
TURNS = "earlier turns of the assistant taken as rows of their own"


@dataclass
class Notes:
    """Findings from reading a source, counted for the report.

    Attributes:
        left_out: Number of rows left out, by reason.
        seen: Number of other findings, by name.
        unused: Names of the columns that nothing read.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    unused: set[str] = field(default_factory=set)


def example_of(
    row: Row, where: str, columns: Columns, *, kind: Kind, source: str, notes: Notes
) -> Example | None:
    """Return the example that a row holds, or ``None`` where its response is empty.

    Args:
        row: The row as it was read.
        where: Place of the row, for messages.
        columns: Names of the columns.
        kind: Kind of the example.
        source: Name of the file or data set.
        notes: Receives the counts of what was found.

    Raises:
        UserError: The row is malformed, or holds something unsupported, such as a tool's turn.
    """
    read = _Reader(row, where, columns)
    turns = read.turns()
    before: list[dict[str, str]] = []
    rejected, spoken = None, ""
    if turns is None:
        instruction, response = read.text("instruction"), read.maybe("response")
        if response is None and "chosen" in row:
            response = read.plain("chosen")
        rejected = read.maybe("rejected")
        given = read.maybe("input") or ""
        before = read.before()
        if given and _NO_INPUT.fullmatch(given):
            notes.seen[PLACEHOLDERS] += 1
            given = ""
    else:
        before, instruction, response, rejected, spoken = turns
        given = ""
    if _LAST_LINE.search(instruction):
        notes.seen[PLACEHOLDERS] += 1
        instruction = _LAST_LINE.sub("", instruction)
    if response is not None and _NO_OUTPUT.fullmatch(response):
        response = ""
    if read.dropped:
        notes.seen[EARLIER] += read.dropped
    if response is None and not read.has("response") and turns is None:
        read.text("response")  # says which columns there are
    response, thought = without_thought(response or "")
    reflection = spoken or read.maybe("reflection")
    undesirable = rejected is None and read.is_undesirable() and bool(response.strip())
    if undesirable:
        response, rejected, thought = "", response, None
    if thought is not None:
        notes.seen[THOUGHTS] += 1
        reflection = thought or reflection
    notes.unused |= ({str(name) for name in row} - read.used) | read.unused
    if read.apart:
        notes.left_out[APART] += 1
        return None
    if not response.strip() and not undesirable:
        notes.left_out[UNCLOSED if thought else EMPTY] += 1
        return None
    return Example(
        instruction=instruction,
        input=given,
        response=response,
        kind=kind,
        source=source,
        rejected=None if rejected is None else without_thought(rejected)[0],
        context=context_of(before),
        reflection=reflection or None,
    )


def earlier_examples(
    row: Row, where: str, columns: Columns, *, kind: Kind, source: str
) -> Iterator[Example]:
    """Yield an example for each earlier turn of the assistant in a row, for ``data.turns=all``.

    Each is trained as the last one is: after all that was said before it, without its thoughts.

    Raises:
        UserError: The row is malformed.
    """
    for before, request, answer, spoken in _Reader(row, where, columns).earlier():
        response, thought = without_thought(answer)
        thought = thought or spoken
        if response.strip():
            yield Example(
                instruction=request,
                response=response,
                kind=kind,
                source=source,
                context=context_of(before),
                reflection=thought or None,
            )


class _Reader:
    """Reads the columns of one row, and records which ones were read."""

    def __init__(self, row: Row, where: str, columns: Columns) -> None:
        self.row, self.where, self.columns = row, where, columns
        self.used: set[str] = set()
        self.unused: set[str] = set()  # keys of messages
        self.said: Sequence[Mapping[str, str]] = ()  # before, with thoughts
        self.dropped = 0  # think blocks of earlier turns
        self.apart = False  # the sides of a pair answer different requests
        for name, named in columns.items():
            if named is not None and _reach(row, named) is _MISSING:
                has = ", ".join(str(key) for key in _paths(row))
                raise UserError(
                    f"data.columns.{name}='{named}': {where} has no such column: name one of {has}"
                )

    def names(self, name: str) -> tuple[str, ...]:
        named = self.columns.get(name)
        return KNOWN[name] if named is None else (named,)

    def has(self, name: str) -> bool:
        """Return whether the row has a column of this name, whatever its value."""
        return any(_reach(self.row, one) is not _MISSING for one in self.names(name))

    def text(self, name: str) -> str:
        """Return a column that must hold text."""
        names = self.names(name)
        flat = {one: found for one in names if (found := _reach(self.row, one)) is not _MISSING}
        self.used |= {one.split(".")[0] for one in flat}
        if flat and all(value is None for value in flat.values()):
            flat = dict.fromkeys(flat, "")
        return text_of(flat or self.row, names, self.where)

    def maybe(self, name: str) -> str | None:
        """Return a column that may be missing or empty."""
        for one in self.names(name):
            value = _reach(self.row, one)
            if value is _MISSING:
                continue
            self.used.add(one.split(".")[0])
            if value is not None:
                return text_of({one: value}, (one,), self.where, default="")
        return None

    def plain(self, name: str) -> str:
        self.used.add(name)
        return text_of(self.row, (name,), self.where)

    def is_undesirable(self) -> bool:
        """Return whether the row calls its answer one to avoid, in TRL's form for single answers.

        Only a truth value counts: a ``label`` of another type means something else.
        """
        label = self.row.get("label")
        if isinstance(label, str) and label.strip().lower() in ("true", "false"):  # of a CSV file
            label = label.strip().lower() == "true"
        if not isinstance(label, bool):
            return False
        self.used.add("label")
        return not label

    def before(self) -> list[dict[str, str]]:
        """Return system text and earlier turns of a row in Alpaca's form."""
        made = self._system()
        for one in self.names("history"):
            value = _reach(self.row, one)
            if value is _MISSING:
                continue
            self.used.add(one)
            pairs = decoded(value)
            if pairs and isinstance(pairs, list) and all(isinstance(p, dict) for p in pairs):
                made += messages_in(pairs, one, self.where)
                continue
            if pairs and not isinstance(pairs, list):
                pairs = [None]
            for pair in pairs or ():
                texts = list(pair) if isinstance(pair, list | tuple) else []
                if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
                    raise UserError(
                        f"{self.where}: '{one}' must be a list of [request, answer] pairs: fix it"
                    )
                made += [
                    {"role": "user", "content": texts[0]},
                    {"role": "assistant", "content": texts[1]},
                ]
        return self._said_before(made)

    def _system(self) -> list[dict[str, str]]:
        system = self.maybe("system")
        return [{"role": "system", "content": system}] if system else []

    def _said_before(self, turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Return what was said before, without what was thought: templates leave that out too."""
        self.said, made = turns, []
        for turn in turns:
            content, thought = turn["content"], turn.get("reasoning")
            if turn["role"] == "assistant":
                content, block = without_thought(content)
                thought = thought or block
            self.dropped += bool(thought)
            made.append({"role": turn["role"], "content": content})
        return made

    def turns(self) -> _Turns | None:
        """Return the turns of a chat and of the other side of a pair, if the row is one."""
        if any(self.columns.get(name) for name in ("instruction", "response")):
            return None
        chat = next((name for name in _CHATS if as_turns(self.row.get(name)) is not None), None)
        good = next((name for name in _ANSWERS if name in self.row), None)
        if chat is not None:
            turns = self._messages(chat)
            if good == "chosen":  # the chat is what both sides answer
                return self._pair(good, turns)
            return *self._last([*self._system_of(turns), *turns]), None, self._thought(turns)
        if good is None:
            return None
        prompt = self.row.get("prompt")
        told = as_turns(prompt) is not None
        answer = self.row[good]
        # The text of an answer may be JSON by itself.
        spoken = good in ("chosen", "completion") or not isinstance(answer, str)
        if told or (spoken and as_turns(answer) is not None):
            return self._pair(good, self._asked(prompt))
        if prompt is None and good == "chosen" and not self.has("instruction"):
            return self._pair(good, []) if transcript(self.row[good]) else None
        return None

    def _pair(self, good: str, asked: list[dict[str, str]]) -> _Turns:
        said = [*asked, *self._said(good, asked)]
        before, request, response = self._last([*self._system_of(said), *said])
        rejected = None
        if good == "chosen" and self.row.get("rejected") is not None:
            kept = self.said, self.dropped
            other = [*asked, *self._said("rejected", asked)]
            *there, rejected = self._last([*self._system_of(other), *other])
            self.apart = there != [before, request]
            self.said, self.dropped = kept
        return before, request, response, rejected, self._thought(said)

    def _system_of(self, turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Return the system text of a column, unless the chat has the same one."""
        found = self._system()
        return [] if found and found[0] in [dict(turn) for turn in turns[:1]] else found

    def _thought(self, turns: Sequence[Mapping[str, str]]) -> str:
        answers = [turn for turn in turns if turn["role"] == "assistant"]
        return answers[-1].get("reasoning", "") if answers else ""

    def _asked(self, prompt: Any) -> list[dict[str, str]]:
        if prompt is None:
            return []
        if as_turns(prompt) is not None:
            return self._messages("prompt")
        return [{"role": "user", "content": self.plain("prompt")}]

    def _said(self, name: str, asked: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Return the turns of a side of a pair; those that repeat the prompt are left out."""
        value = self.row[name]
        turns = transcript(value) if not asked else None
        listed = name in ("chosen", "completion", "rejected") or not isinstance(value, str)
        if listed and as_turns(value) is not None:
            turns = self._messages(name)
        if turns is None:
            return [{"role": "assistant", "content": self.plain(name)}]
        self.used.add(name)
        return turns[len(asked) :] if asked and turns[: len(asked)] == list(asked) else turns

    def earlier(self) -> Iterator[tuple[list[dict[str, str]], str, str, str]]:
        """Give (what was said before, request, answer, reasoning) of each earlier answer."""
        if self.turns() is None:
            self.before()
        said = self.said
        for number in range(1, len(said)):
            if said[number]["role"] == "assistant" and said[number - 1]["role"] == "user":
                before, asked, turn = said[: number - 1], said[number - 1], said[number]
                thought = turn.get("reasoning", "")
                yield self._said_before(before), asked["content"], turn["content"], thought

    def _last(self, turns: list[dict[str, str]]) -> tuple[list[dict[str, str]], str, str | None]:
        """Return the earlier messages, the last request, and the answer to it."""
        places = [n for n, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not places:
            raise UserError(f"{self.where}: no turn of the assistant to learn: remove the row")
        last = places[-1]
        if last == 0 or turns[last - 1]["role"] != "user":
            raise UserError(
                f"{self.where}: the last turn of the assistant answers no turn of a user: fix it"
            )
        before = self._said_before(turns[: last - 1])
        return before, turns[last - 1]["content"], turns[last]["content"]

    def _messages(self, name: str) -> list[dict[str, str]]:
        self.used.add(name)
        turns = as_turns(self.row[name]) or []
        self.unused |= unused_keys(turns, name)
        return messages_in(turns, name, self.where)


_MISSING = object()


def _reach(row: Any, name: str) -> Any:
    """Return the value of a column; a dotted name addresses a nested field."""
    if isinstance(row, dict) and name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    if dot and isinstance(row, dict) and isinstance(inside := decoded(row.get(head)), dict):
        return _reach(inside, rest)
    return _MISSING


def _paths(row: Row) -> list[str]:
    """Return the names of a row's columns; nested fields have dotted names."""
    found: list[str] = []
    for name, value in row.items():
        found.append(str(name))
        if isinstance(inside := decoded(value), dict):
            found += [f"{name}.{inner}" for inner in _paths(inside)]
    return found
