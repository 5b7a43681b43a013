"""From the engine's reply to the client's: model name, think block, statistics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.serving.control_tokens import Hider, overlap
from tbr_lightning.serving.engines import Served
from tbr_lightning.serving.parameters import NOTHING, Wishes
from tbr_lightning.serving.weights import Weights


@dataclass(frozen=True)
class ReplyStats:
    """Statistics of a reply.

    Attributes:
        answer: Content of the reply.
        reflection: Reflection of the reply, or ``None``.
        cut: Whether the token limit ended it.
        prompt_tokens: Number of tokens of the request.
        completion_tokens: Number of tokens of the reply.
    """

    answer: str
    reflection: str | None
    cut: bool
    prompt_tokens: int
    completion_tokens: int


def leaks(think_format: ThinkFormat, answer: str) -> bool:
    """Return whether an answer that should be clean holds a marker of the think block."""
    return think_format.think_open.strip() in answer or think_format.think_close.strip() in answer


class Stopper:
    """Ends a text before the first stop text that occurs in it.

    Attributes:
        hit: Whether one of them has come.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._rest, self.hit = stops, "", False

    def feed(self, text: str, *, last: bool = False) -> str:
        """Return what may be passed on: not what could yet become a stop text."""
        if self.hit:
            return ""
        text = self._rest + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit = True
            return text[: min(found)]
        keep = 0 if last else max((overlap(text, stop) for stop in self._stops), default=0)
        self._rest = text[len(text) - keep :]
        return text[: len(text) - keep]


_PARTS = ("content", "reasoning_content")


def rewrite(
    raw: bytes, policy: str, served: Served, wishes: Wishes = NOTHING
) -> tuple[bytes, ReplyStats]:
    """Return a complete reply as the client gets it, and its statistics."""
    reply = json.loads(raw)
    reply["model"] = served.title
    choice = reply["choices"][0]
    message = choice["message"]
    if not served.engine.splits:
        message.update(_parsed(message.get("content") or "", policy, served.weights))
    # Between two think blocks there may be blanks alone.
    message |= {name: message[name].strip() for name in _PARTS if message.get(name)}
    stopper = Stopper(wishes.stop)
    if message.get("content"):
        message["content"] = stopper.feed(message["content"], last=True)
    if stopper.hit:
        choice["finish_reason"] = "stop"
    reflection, answer = message.get("reasoning_content"), message.get("content") or ""
    facts = _facts(reply, choice, reflection, answer)
    if policy == "show" and reflection is not None:
        think_format = served.weights.think_format
        closed = think_format.think_close if answer or not facts.cut else ""
        message["content"] = f"{think_format.think_open}{reflection}{closed}{answer}"
        del message["reasoning_content"]
    return json.dumps(reply, ensure_ascii=False).encode(), facts


def _facts(
    reply: dict[str, Any], choice: dict[str, Any], reflection: str | None, answer: str
) -> ReplyStats:
    cut = choice.get("finish_reason") == "length"
    return ReplyStats(answer, reflection, cut, *_counts(reply.get("usage")))


def _counts(usage: dict[str, Any] | None) -> tuple[int, int]:
    """Return the tokens that were read, and those that were written."""
    found = usage or {}
    return int(found.get("prompt_tokens") or 0), int(found.get("completion_tokens") or 0)


def _prefix(policy: str, weights: Weights) -> str:
    anchor = str(weights.parser.get("start_anchor") or "")
    return anchor + (weights.think_format.think_open if policy == "force" else "")


def _parsed(text: str, policy: str, weights: Weights) -> dict[str, Any]:
    from transformers.utils.chat_parsing import parse_response

    text = Hider(weights.hidden or ()).feed(text, last=True)
    return {"content": "", **parse_response(text, weights.parser, prefix=_prefix(policy, weights))}


class Stream:
    """A streamed reply.

    What needs no change goes through as bytes; it is read once at the end, for the statistics.
    """

    def __init__(self, policy: str, served: Served, wishes: Wishes = NOTHING) -> None:
        title, weights, engine = served.title, served.weights, served.engine
        self._stopper, self._usage = Stopper(wishes.stop), wishes.usage
        self._stops = wishes.stop
        self._rewrites = bool(
            policy == "show" or not engine.splits or wishes.stop or wishes.usage is not None
        )
        self._shows = policy == "show"
        self._layout = weights.think_format
        self._named = f'"model":"{weights.folder.name}@main"'.encode()
        self._name = f'"model":{json.dumps(title)}'.encode()
        self._title = title
        self._rest = b""
        self._seen: list[bytes] = []
        self._open = False  # a shown think block
        self._policy, self._weights = policy, weights
        self.failed: str | None = None
        self.ended = False  # an event has said why the reply ends
        self._parser: Any = None
        self._hider = Hider(weights.hidden or ())
        if not engine.splits:
            from transformers.utils.chat_parsing import ResponseParser

            self._parser = ResponseParser(weights.parser, prefix=_prefix(policy, weights))

    def feed(self, data: bytes) -> bytes:
        """Return the part of the engine's bytes that goes on to the client; whole events only."""
        data = self._rest + data
        complete, mark, self._rest = data.rpartition(b"\n\n")
        if not mark:
            return b""
        complete += mark
        if complete.startswith(b'data: {"error"') or b'\ndata: {"error"' in complete:
            return self._without_error(complete)
        self._seen.append(complete)
        self.ended = self.ended or any(
            choice.get("finish_reason") is not None
            for event in (_events(complete) if b'"finish_reason"' in complete else ())
            for choice in event.get("choices") or []
        )
        if not self._rewrites:
            return complete.replace(self._named, self._name)
        return b"".join(
            b"data: " + json.dumps(made, ensure_ascii=False).encode() + b"\n\n"
            for event in _events(complete)
            for made in self._rewritten(event)
        )

    def _without_error(self, complete: bytes) -> bytes:
        """Keep the engine's own error from the client; the server sends one in its place."""
        kept = []
        for part in complete.split(b"\n\n"):
            if part.startswith(b'data: {"error"'):
                self.failed = part[6:].decode(errors="replace")[:300]
                break
            if part:
                kept.append(part + b"\n\n")
        return self.feed(b"".join(kept)) if kept else b""

    def _rewritten(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events that take an event's place: first what is new, then how it ends."""
        event["model"] = self._title
        usage = event.get("usage")
        if self._usage is not None:
            event.pop("usage", None)
        alone = {**event, "choices": [], "usage": usage}
        if not event.get("choices"):
            yield from [] if self._usage is False else [alone if usage else event]
            return
        choice = event["choices"][0]
        delta = choice.get("delta") or {}
        ends = choice.get("finish_reason") is not None
        plain = {key: value for key, value in event.items() if key != "usage"}
        pieces = self._pieces(delta, last=ends)
        cut = choice.get("finish_reason") == "length" and not self._stopper.hit
        if self._shows and ends and self._open and not cut:
            # As the whole reply has it: the model is done, and nothing follows its reflection.
            self._open = False
            pieces.append(("content", self._layout.think_close))
        for field, text in pieces:
            yield {**plain, "choices": [{**choice, "delta": {field: text}, "finish_reason": None}]}
        rest = {k: v for k, v in delta.items() if k not in ("content", "reasoning_content")}
        if ends and self._stopper.hit:
            choice = {**choice, "finish_reason": "stop"}
        if rest or ends:
            yield {**event, "choices": [{**choice, "delta": rest}]}
        if usage and self._usage:
            yield alone

    def _pieces(self, delta: dict[str, Any], *, last: bool) -> list[tuple[str, str]]:
        """Return what a delta adds to the reflection and to the answer, in order."""
        reflection, answer = delta.get("reasoning_content"), delta.get("content")
        found: list[tuple[str, str]] = []
        if self._parser is None:
            found += [("reasoning_content", reflection)] if reflection else []
            found += [("content", answer)] if answer else []
        else:
            text = self._hider.feed(answer or "", last=last)
            events = [*self._parser.initial_events, *self._parser.feed(text)]
            self._parser.initial_events = []
            if last:
                events += self._parser.finalize()[1]
            found = [
                (event["field"], event["text"])
                for event in events
                if event["type"] == "region_chunk"
            ]
        if self._stops:
            found = [
                (field, self._stopper.feed(text) if field == "content" else text)
                for field, text in found
            ]
            if last:
                found.append(("content", self._stopper.feed("", last=True)))
            found = [(field, text) for field, text in found if text]
        if not self._shows:
            return found
        return [("content", text) for text in self._as_shown(found)]

    def _as_shown(self, found: list[tuple[str, str]]) -> Iterator[str]:
        for field, text in found:
            if field == "reasoning_content" and not self._open:
                self._open = True
                yield self._layout.think_open
            if field == "content" and self._open:
                self._open = False
                yield self._layout.think_close
            yield text

    def facts(self) -> ReplyStats:
        """Return the statistics of the reply."""
        answer: list[str] = []
        reflection: list[str] = []
        cut, usage = False, dict[str, Any]()
        for event in _events(b"".join(self._seen)):
            usage = event.get("usage") or usage
            for choice in event.get("choices") or []:
                delta = choice.get("delta") or {}
                answer.append(delta.get("content") or "")
                reflection.append(delta.get("reasoning_content") or "")
                cut = cut or choice.get("finish_reason") == "length"
        if self._parser is not None:
            parsed = _parsed("".join(answer), self._policy, self._weights)
            answer, reflection = [parsed["content"]], [parsed.get("reasoning_content") or ""]
        stopper = Stopper(self._stops)
        text = stopper.feed("".join(answer), last=True)
        cut = cut and not stopper.hit
        return ReplyStats(text, "".join(reflection) or None, cut, *_counts(usage))


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            yield json.loads(line[6:])
