"""Tokens of a row: prompt, think block, answer, and which token belongs to which.

The tokenizer's chat template renders the prompt only, since some templates strip or insert think
blocks; think block, answer and end token are appended here, as ``OPEN reflection
CLOSE answer END``. A row without a reflection has no think block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.example import Example
from tbr_lightning.errors import UserError

# A plain dialogue form for base models whose tokenizer has no template.
FALLBACK_TEMPLATE = (
    "{% for message in messages %}### {{ message['role'] | capitalize }}:\n"
    "{{ message['content'] | trim }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)


MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
)
"""Think markers of published models, by which a template that opens a block is known."""

_PLACE = "\ue000"  # private-use character: placeholder of a text while its template is rendered


class Span(IntEnum):
    """The part of a sequence that a token belongs to."""

    PROMPT = 0
    REFLECTION = 1  # markers included
    ANSWER = 2  # end token included


@dataclass(frozen=True)
class ThinkFormat:
    """The markers of a model's think block; saved in its ``config.json`` as ``tbr``.

    Attributes:
        think_open: Text before a reflection.
        think_close: Text after a reflection.
        think_cue: Sentence that asks for a reflection, for the prompted arm.
        max_new_tokens: Generation limit in tokens, enough for reflection and answer.
        opened: Whether the chat template opens the think block at the end of the prompt.
    """

    think_open: str = "<think>"
    think_close: str = "</think>"
    think_cue: str = ModelConfig.think_cue
    max_new_tokens: int = ModelConfig.max_new_tokens
    opened: bool = False

    @classmethod
    def of(cls, model: ModelConfig) -> ThinkFormat:
        """Return the think format that a model's config asks for."""
        return cls(model.think_open, model.think_close, model.think_cue, model.max_new_tokens)

    @classmethod
    def saved(cls, config: Any) -> ThinkFormat:
        """Return the think format that a model was exported with, or the default."""
        found = getattr(config, "tbr", None)
        return cls(**found) if isinstance(found, Mapping) else cls()

    def as_dict(self) -> dict[str, Any]:
        """Return the format as it is saved."""
        return asdict(self)

    def of_template(self, tokenizer: Any) -> ThinkFormat:
        """Return the format as a tokenizer's chat template uses it.

        Some templates open the think block at the end of the prompt: then nothing opens it again,
        and a response begins within it. Markers other than the configured ones are taken over.
        """
        begun = rendered(tokenizer, [{"role": "user", "content": "x"}]).rstrip()
        for opened, closed in ((self.think_open.strip(), self.think_close.strip()), *MARKERS):
            if begun.endswith(opened):
                if opened == self.think_open.strip():
                    return replace(self, opened=True)
                return replace(self, think_open=opened, think_close=closed, opened=True)
        return replace(self, opened=False)

    @property
    def cue(self) -> str:
        """Text that asks a model that was not tuned on think blocks for one.

        A configured sentence is used as it is: it may ask for another form, or be one that the
        model was taught.
        """
        if self.think_cue != ModelConfig.think_cue:
            return self.think_cue
        return (
            f"{self.think_cue} Write your thoughts between {self.think_open.strip()} and "
            f"{self.think_close.strip()}, then write the answer."
        )

    @property
    def begin(self) -> str:
        """Text that opens the think block of an answer; empty where the template has opened it."""
        return "" if self.opened else self.think_open

    @property
    def without(self) -> str:
        """Text that begins a response without reflection: the end of a block that is open."""
        return self.think_close if self.opened else ""

    def split(self, text: str) -> tuple[str | None, str]:
        """Split a generated text into reflection (``None`` if there is none) and answer.

        Of several blocks, one within another too, all are reflection. A block that was opened at
        the beginning and never closed is all reflection: its answer is empty. A block that is only
        closed was opened by the template. Lines before a whole block are part of the answer.
        """
        opened, closed = self.think_open.strip(), self.think_close.strip()
        text = text.strip()
        if not text.startswith(opened) and (self.opened or closed in text.partition(opened)[0]):
            text = f"{opened}{text}"
        thoughts: list[str] = []
        said: list[str] = []
        # Within a line the marker is a word of the answer.
        begins = re.compile(rf"^[ \t]*(?={re.escape(opened)})", re.MULTILINE)
        while (found := begins.search(text)) and (not found.end() or closed in text):
            start = found.end()
            said.append(text[:start].strip())
            end = _block_end(text, start, opened, closed)
            thoughts.append(text[start:end].replace(opened, "").replace(closed, "").strip())
            text = text[end:]
        if not thoughts:
            return None, text
        answer = "\n\n".join(part for part in (*said, text.strip()) if part)
        return "\n\n".join(part for part in thoughts if part), answer


def _block_end(text: str, start: int, opened: str, closed: str) -> int:
    """Return where the think block that begins at ``start`` ends, with the blocks within it."""
    depth = 0
    for found in re.finditer(f"{re.escape(opened)}|{re.escape(closed)}", text[start:]):
        depth += 1 if found[0] == opened else -1
        if depth == 0:
            return start + found.end()
    # A marker is missing: what closes last ends the block, or else it never ends.
    last = text.rfind(closed)
    return last + len(closed) if last > start else len(text)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A tokenised training row.

    Attributes:
        ids: Token ids, shape ``(tokens,)``; int32 if an array, maybe read-only.
        spans: :class:`Span` of each token, shape ``(tokens,)``; uint8 if an array.
        kind: Index into :data:`tbr_lightning.kinds.KINDS`.
    """

    ids: list[int] | npt.NDArray[np.int32]
    spans: list[int] | npt.NDArray[np.uint8]
    kind: int

    @property
    def trigger(self) -> int:
        """Index of the first supervised token, which decides whether the model reflects."""
        return int(np.flatnonzero(np.asarray(self.spans) != int(Span.PROMPT))[0])


def prompt_ids(
    tokenizer: Any,
    text: str,
    cue: str | None = None,
    before: Sequence[Mapping[str, str]] = (),
) -> list[int]:
    """Return the tokens of a user's turn up to where the assistant begins.

    They begin with one begin token where the tokenizer's own ``encode`` puts one. Control tokens
    that the text quotes are encoded as text.

    Args:
        tokenizer: Tokenizer with a chat template.
        text: Text of the user's turn.
        cue: Text appended to it that asks for a reflection, if given.
        before: Messages of the conversation so far.
    """
    content = f"{text} {cue}" if cue else text
    messages = [*before, {"role": "user", "content": content}]
    texts = [message["content"] for message in messages]
    if not any(quotes_control(tokenizer, one) for one in texts):
        return with_begin(tokenizer, _encode(tokenizer, rendered(tokenizer, messages)))
    # The template's own control tokens are read as such, and those of the texts are not.
    places = [f"{_PLACE}{number}{_PLACE}" for number in range(len(texts))]
    around = [
        {"role": message["role"], "content": place}
        for message, place in zip(messages, places, strict=True)
    ]
    ids: list[int] = []
    rest = rendered(tokenizer, around)
    for place, one in zip(places, texts, strict=True):
        head, _, rest = rest.partition(place)
        ids += [*_encode(tokenizer, head), *text_ids(tokenizer, one)]
    return with_begin(tokenizer, [*ids, *_encode(tokenizer, rest)])


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, begin: bool = True) -> str:
    """Return messages rendered with the chat template; ``begin`` begins the assistant's turn."""
    how = {"add_generation_prompt": begin, "tokenize": False}
    try:
        text: str = tokenizer.apply_chat_template(list(messages), **how)
    except TemplateError:
        system, others = _without_system(messages)
        if system is None:
            raise
        # Templates that take no system turn: its text goes before the first turn of the user.
        text = tokenizer.apply_chat_template(others, **how)
    return text


def _without_system(
    messages: Sequence[Mapping[str, str]],
) -> tuple[str | None, list[Mapping[str, str]]]:
    """Return the system text and the messages with it put before the first turn of the user."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system") or None
    others = [m for m in messages if m["role"] != "system"]
    first = next((n for n, m in enumerate(others) if m["role"] == "user"), None)
    if system is None or first is None:
        return None, others
    content = f"{system}\n\n{others[first]['content']}"
    others[first] = {**others[first], "content": content}
    return system, others


def with_begin(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return the tokens of a prompt with exactly one begin token, where there should be one."""
    start = begin_token(tokenizer)
    return ids if start is None or ids[:1] == [start] else [start, *ids]


def begin_token(tokenizer: Any) -> int | None:
    """Return the token that the tokenizer's own ``encode`` puts before a text, if it does."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    return int(bos) if list(tokenizer.encode("x"))[:1] == [bos] else None


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text, in which quoted control tokens are text like any other."""
    return _encode(tokenizer, text, split_special_tokens=quotes_control(tokenizer, text))


def quotes_control(tokenizer: Any, text: str) -> bool:
    """Return whether a text holds what the tokenizer would read as a control token."""
    return any(word in text for word in control_words(tokenizer))


def control_words(tokenizer: Any) -> list[str]:
    """Return the tokenizer's control tokens as they are written."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {token.content for token in added.values() if getattr(token, "special", False)}
    found |= set(getattr(tokenizer, "all_special_tokens", ()))
    return sorted(word for word in found if word)


def _encode(tokenizer: Any, text: str, **how: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, **how))


def think_block(think_format: ThinkFormat, reflection: str) -> str:
    """Return a reflection between its markers, as it follows a prompt."""
    return f"{think_format.begin}{reflection}{think_format.think_close}"


def end_token(tokenizer: Any) -> int:
    """Return the id of the token that ends an answer.

    Raises:
        UserError: The tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(
            f"the tokenizer of {name} has no end token, so a model could not learn where an answer "
            "ends: set eos_token in its tokenizer_config.json, or use model.tokenizer=train"
        )
    return int(tokenizer.eos_token_id)


def turn_end(tokenizer: Any) -> list[int]:
    """Return the tokens that end an assistant's turn, as the chat template ends one.

    That is up to its first control token after the answer, such as Gemma's ``<end_of_turn>`` or
    Llama 3's ``<|eot_id|>``, with the end token after it where the template writes both. An end
    that is not a control token of this tokenizer is written out, and the end token follows it. A
    template that writes none, or takes no turn of the assistant at the end, leaves the end token.

    Raises:
        UserError: The tokenizer has no end token.
    """
    end = end_token(tokenizer)
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PLACE}]
    try:
        tail = rendered(tokenizer, turns, begin=False).rpartition(_PLACE)[2].strip()
    except (TemplateError, ValueError, TypeError):
        return [end]
    after = _encode(tokenizer, tail) if tail else []
    for place, token in enumerate(after):
        if token in _control(tokenizer):
            both = token != end and after[place + 1 : place + 2] == [end]
            return after[: place + 1 + both]
    return [*after, end]


def stops_of(tokenizer: Any) -> list[int]:
    """Return the control tokens among those that end an assistant's turn."""
    return [token for token in turn_end(tokenizer) if token in _control(tokenizer)]


def end_words(tokenizer: Any) -> str:
    """Return the ordinary text that ends an assistant's turn, or an empty text."""
    ends = turn_end(tokenizer)
    return str(tokenizer.decode([t for t in ends if t not in _control(tokenizer)])).strip()


def _control(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {int(key) for key, token in added.items() if getattr(token, "special", False)}
    return special | {int(token) for token in getattr(tokenizer, "all_special_ids", ())}


def answer_text(tokenizer: Any, response: str) -> str:
    """Return a response without an end marker that it quotes: the row gets one of its own."""
    words = [tokenizer.decode([token]).strip() for token in stops_of(tokenizer)]
    words.append(end_words(tokenizer))
    text = response
    while word := next((word for word in words if word and text.rstrip().endswith(word)), None):
        text = text.rstrip().removesuffix(word).rstrip()
    return text or response


def row_tokens(
    tokenizer: Any, think_format: ThinkFormat, response: str, reflection: str | None
) -> tuple[list[int], list[int]]:
    """Return the tokens of a row's think block, and those of its answer with its end.

    Where the template has opened a think block, a row without a reflection closes it first.
    """
    block: list[int] = []
    if reflection is not None:
        parts = (think_format.begin, reflection, think_format.think_close)
        joined = think_block(think_format, reflection)
        if quotes_control(tokenizer, reflection):
            block = [t for part in parts if part for t in text_ids(tokenizer, part)]
        else:
            block = _encode(tokenizer, joined)
    closed = think_format.without if reflection is None else ""
    before = _encode(tokenizer, closed) if closed else []
    answer = text_ids(tokenizer, answer_text(tokenizer, response))
    return block, [*before, *answer, *turn_end(tokenizer)] if answer else []


def token_row(
    tokenizer: Any, think_format: ThinkFormat, example: Example, kind: int, reflection: str | None
) -> TokenRow:
    """Tokenise one example, each span by itself so that spans and tokens cannot disagree."""
    block, answer = row_tokens(tokenizer, think_format, example.response, reflection)
    parts = (
        (prompt_ids(tokenizer, example.prompt, before=example.messages[:-1]), Span.PROMPT),
        (block, Span.REFLECTION),
        (answer, Span.ANSWER),
    )
    return TokenRow(
        ids=[token for ids, _ in parts for token in ids],
        spans=[int(span) for ids, span in parts for _ in ids],
        kind=kind,
    )
