"""The forms in which people keep rows: Alpaca's columns, chats, pairs, answers that think first."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tbr_lightning.data.example import Example
from tbr_lightning.data.files import Row, text_of
from tbr_lightning.data.think_format import MARKERS
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
_ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
_NO_INPUT = re.compile(
    r"\W*(?:no[ _-]?(?:input|context)(?: (?:needed|required|provided|given))?|"
    r"n/?a|none|null|nil)?\W*",
    re.IGNORECASE,
)

EMPTY = "with an empty response"
PLACEHOLDERS = "placeholders taken for no input"
THOUGHTS = "reflections found in responses"
TURNS = "earlier turns of the assistant taken as rows of their own"


@dataclass
class Notes:
    """What reading a source found out; counted, to be reported.

    Attributes:
        left_out: Rows left out, by the reason.
        seen: Other things worth knowing, by their name.
        unused: Columns that nothing read.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    unused: set[str] = field(default_factory=set)


def example_of(
    row: Row, where: str, columns: Columns, *, kind: Kind, source: str, notes: Notes
) -> Example | None:
    """Return the example that a row holds, or ``None`` where its response is empty.

    Args:
        row: As it was read.
        where: Its place, for messages.
        columns: Their names.
        kind: Of the example.
        source: Name of the file or data set.
        notes: Counts what was found.

    Raises:
        UserError: The row is malformed, or holds what cannot be used, such as a tool's turn.
    """
    read = _Reader(row, where, columns)
    turns = read.turns()
    before: list[dict[str, str]] = []
    rejected = None
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
        before, instruction, response, rejected = turns
        given = ""
    if response is None and not read.has("response") and turns is None:
        read.text("response")  # says which columns there are
    response, thought = without_thought(response or "")
    reflection = read.maybe("reflection")
    undesirable = rejected is None and read.is_undesirable() and bool(response.strip())
    if undesirable:
        response, rejected, thought = "", response, None
    if thought is not None:
        notes.seen[THOUGHTS] += 1
        reflection = thought or reflection
    notes.unused |= {str(name) for name in row} - read.used
    if not response.strip() and not undesirable:
        notes.left_out[EMPTY] += 1
        return None
    return Example(
        instruction=instruction,
        input=given,
        response=response,
        kind=kind,
        source=source,
        rejected=None if rejected is None else without_thought(rejected)[0],
        context=json.dumps(before, ensure_ascii=False) if before else "",
        reflection=reflection or None,
    )


def earlier_examples(
    row: Row, where: str, columns: Columns, *, kind: Kind, source: str
) -> Iterator[Example]:
    """Give an example for each earlier turn of the assistant in a row, for ``data.turns=all``.

    Each is trained as the last one is: after all that was said before it, without its thoughts.

    Raises:
        UserError: The row is malformed.
    """
    for before, request, answer in _Reader(row, where, columns).earlier():
        response, thought = without_thought(answer)
        if response.strip():
            yield Example(
                instruction=request,
                response=response,
                kind=kind,
                source=source,
                context=json.dumps(before, ensure_ascii=False) if before else "",
                reflection=thought or None,
            )


def without_thought(response: str) -> tuple[str, str | None]:
    """Return a response without a think block at its beginning, and what stood in the block."""
    text = response.lstrip()
    for opened, closed in MARKERS:
        if text.startswith(opened) and closed in text:
            thought, _, answer = text.removeprefix(opened).partition(closed)
            return answer.strip(), thought.strip()
    return response, None


class _Reader:
    """Reads the columns of one row, and notes which."""

    def __init__(self, row: Row, where: str, columns: Columns) -> None:
        self.row, self.where, self.columns = row, where, columns
        self.used: set[str] = set()
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
        """Return whether the row has such a column, with whatever value."""
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
        made = []
        if system := self.maybe("system"):
            made.append({"role": "system", "content": system})
        for one in self.names("history"):
            value = _reach(self.row, one)
            if value is _MISSING:
                continue
            self.used.add(one)
            for pair in value or ():
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise UserError(
                        f"{self.where}: '{one}' must be a list of [request, answer] pairs: fix it"
                    )
                made += [
                    {"role": "user", "content": str(pair[0])},
                    {"role": "assistant", "content": str(pair[1])},
                ]
        return made

    def turns(self) -> tuple[list[dict[str, str]], str, str | None, str | None] | None:
        """Return (what was said before, request, response, rejected) of a chat, if it is one."""
        if any(self.columns.get(name) for name in ("instruction", "response")):
            return None
        for name in _CHATS:
            if isinstance(self.row.get(name), list):
                return *self._last(self._messages(name)), None
        prompt = self.row.get("prompt")
        spoken = isinstance(prompt, list)
        for good, bad in (("chosen", "rejected"), ("completion", None)):
            if not (spoken or isinstance(self.row.get(good), list)) or good not in self.row:
                continue
            asked = self._asked(prompt)
            before, request, response = self._last([*asked, *self._said(good, asked)])
            rejected = None
            if bad in self.row:
                rejected = self._last([*asked, *self._said(bad, asked)])[2]
            return before, request, response, rejected
        return None

    def _asked(self, prompt: Any) -> list[dict[str, str]]:
        if prompt is None:
            return []
        if isinstance(prompt, list):
            return self._messages("prompt")
        return [{"role": "user", "content": self.plain("prompt")}]

    def _said(self, name: str, asked: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Return the turns of a side of a pair; those that repeat the prompt are left out."""
        if isinstance(self.row[name], list):
            turns = self._messages(name)
            return turns[len(asked) :] if asked and turns[: len(asked)] == list(asked) else turns
        return [{"role": "assistant", "content": self.plain(name)}]

    def earlier(self) -> Iterator[tuple[list[dict[str, str]], str, str]]:
        """Give (what was said before, request, answer) of each earlier turn of the assistant."""
        turns = self.turns()
        said = self.before() if turns is None else turns[0]
        for number in range(1, len(said)):
            if said[number]["role"] == "assistant" and said[number - 1]["role"] == "user":
                yield said[: number - 1], said[number - 1]["content"], said[number]["content"]

    def _last(self, turns: list[dict[str, str]]) -> tuple[list[dict[str, str]], str, str | None]:
        """Return what was said before, the last request, and the answer to it."""
        places = [n for n, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not places:
            raise UserError(f"{self.where}: no turn of the assistant to learn: remove the row")
        last = places[-1]
        if last == 0 or turns[last - 1]["role"] != "user":
            raise UserError(
                f"{self.where}: the last turn of the assistant answers no turn of a user: fix it"
            )
        return turns[: last - 1], turns[last - 1]["content"], turns[last]["content"]

    def _messages(self, name: str) -> list[dict[str, str]]:
        self.used.add(name)
        return messages_in(self.row[name], name, self.where)


def messages_in(turns: Sequence[Any], name: str, where: str) -> list[dict[str, str]]:
    """Return the messages of a list of turns, as OpenAI or ShareGPT write them.

    Raises:
        UserError: One is not a message with a known role and text.
    """
    made = []
    for number, message in enumerate(turns):
        place = f"{where}: {name}[{number}]"
        if not isinstance(message, dict):
            raise UserError(f"{place} must be an object with role and content: fix it")
        role = str(message.get("role", message.get("from", "")))
        if role.lower() not in _ROLES:
            raise UserError(
                f"{place} has the role '{role}', which cannot be trained on: remove the row, "
                f"or use one of {', '.join(_ROLES)}"
            )
        content = message.get("content", message.get("value"))
        if isinstance(content, list):  # parts, as of multimodal chats
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            whole = len(texts) == len(content) and all(isinstance(t, str) for t in texts)
            content = "".join(map(str, texts)) if whole else None
        if not isinstance(content, str):
            raise UserError(f"{place} has no text: fix or remove the row")
        made.append({"role": _ROLES[role.lower()], "content": content.strip()})
    return made


_MISSING = object()


def _reach(row: Any, name: str) -> Any:
    """Return the value of a column; a dotted name reaches into a structure."""
    if isinstance(row, dict) and name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    if dot and isinstance(row, dict) and isinstance(row.get(head), dict):
        return _reach(row[head], rest)
    return _MISSING


def _paths(row: Row) -> list[str]:
    """Return the names of a row's columns, and dotted those within a structure."""
    found: list[str] = []
    for name, value in row.items():
        found.append(str(name))
        if isinstance(value, dict):
            found += [f"{name}.{inner}" for inner in _paths(value)]
    return found
