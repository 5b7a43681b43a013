"""Tokens of a row: prompt, think block, answer, and which token belongs to which.

The tokenizer's chat template renders the prompt only, since some templates strip or insert think
blocks; think block, answer and end token are appended here, as ``OPEN reflection
CLOSE answer END``. A row without a reflection has no think block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.chat_template import (
    answer_text,
    control_ids,
    encode,
    prompt_end,
    prompt_ids,
    quotes_control,
    rendered,
    text_ids,
    turn_end,
)
from tbr_lightning.data.example import Example
from tbr_lightning.data.think_markers import of_configured, of_template, state_of
from tbr_lightning.errors import UserError


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
        closed: Whether it closes one there, so that no reflection can follow.
        answers: Text before an answer without a reflection, such as the name of a channel.
        given: Whether a person gave the markers, or they were saved: no template changes them.
    """

    think_open: str = "<think>"
    think_close: str = "</think>"
    think_cue: str = ModelConfig.think_cue
    max_new_tokens: int = ModelConfig.max_new_tokens
    opened: bool = False
    closed: bool = False
    answers: str = ""
    given: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, model: ModelConfig) -> ThinkFormat:
        """Return the think format that a model's config asks for."""
        markers = (model.think_open, model.think_close)
        given = model.think == "given" or markers != (cls.think_open, cls.think_close)
        return cls(*markers, model.think_cue, model.max_new_tokens, given=given)

    @classmethod
    def saved(cls, config: Any) -> ThinkFormat:
        """Return the think format that a model was exported with, or the default."""
        found = getattr(config, "tbr", None)
        return cls.of_dict(found) if isinstance(found, Mapping) else cls()

    @classmethod
    def of_dict(cls, found: Mapping[str, Any]) -> ThinkFormat:
        """Return a format as it was saved: its markers stay, whatever the template says."""
        return cls(**{**found, "given": True})

    def as_dict(self) -> dict[str, Any]:
        """Return the format as it is saved."""
        return asdict(self)

    def of_template(self, tokenizer: Any) -> ThinkFormat:
        """Return the format as a tokenizer's chat template uses it.

        Markers that nobody gave are those that the template writes, or that it or the vocabulary
        names. Some templates open the think block at the end of the prompt: then nothing opens it
        again, and a response begins within it.

        Raises:
            UserError: The template has a think block whose markers cannot be told.
        """

        def render(messages: Sequence[Mapping[str, str]], begin: bool) -> str:
            return rendered(tokenizer, messages, begin=begin)

        if self.given:
            found = of_configured(render, self.think_open, self.think_close)
        else:
            added = getattr(tokenizer, "added_tokens_decoder", {})
            found = of_template(
                render,
                str(tokenizer.chat_template or ""),
                [token.content for token in added.values()],
                (self.think_open, self.think_close),
                tokenizer.name_or_path or type(tokenizer).__name__,
            )
        return replace(
            self,
            think_open=found.opens,
            think_close=found.closes,
            opened=found.opened,
            closed=found.closed,
            answers=found.answers,
        )

    def after(self, prompt: str) -> ThinkFormat:
        """Return the format of a row whose rendered prompt ends another way than others do.

        Some templates open or close the think block by words of a system turn or of the user.
        """
        state = state_of(prompt, self.think_open, self.think_close)
        opened, closed = state == "opened", state == "closed"
        same = (opened, closed) == (self.opened, self.closed)
        return self if same else replace(self, opened=opened, closed=closed)

    @property
    def described(self) -> str:
        """The format in a sentence, as a dry run says it."""
        how = f"think format: {self.think_open.strip()} … {self.think_close.strip()}"
        if self.opened:
            how += ", opened by the chat template"
        if self.closed:
            how += ", closed by the chat template before the answer: no reflection can follow"
        return f"{how}; {self.answers} before an answer without one" if self.answers else how

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
        """What a response without reflection begins with: an open block's end, a channel's name."""
        return self.think_close if self.opened else self.answers

    def hidden_ids(self, tokenizer: Any) -> set[int]:
        """Return the control tokens that no text shows: all but those of the think markers.

        Some models' markers are control tokens themselves. Evaluation and serving both leave these
        tokens out, so that what is served is what was judged.
        """
        written = "".join((self.think_open, self.think_close, self.answers))
        return control_ids(tokenizer).difference(encode(tokenizer, written))

    def decoded(self, tokenizer: Any, ids: Sequence[int]) -> str:
        """Return the text of tokens that a model wrote: no control tokens but think markers."""
        hidden = self.hidden_ids(tokenizer)
        kept = [token for token in ids if token not in hidden]
        return str(tokenizer.decode(kept))

    def split(self, text: str) -> tuple[str | None, str]:
        """Split a generated text into reflection (``None`` if there is none) and answer.

        Of several blocks, one within another too, all are reflection. A block that was opened at
        the beginning and never closed is all reflection: its answer is empty. A block that is only
        closed was opened by the template. Lines before a whole block are part of the answer.
        """
        opened, closed = self.think_open.strip(), self.think_close.strip()
        text = text.strip()
        if self.answers:
            text = text.removeprefix(self.answers).lstrip()
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


def think_block(think_format: ThinkFormat, reflection: str) -> str:
    """Return a reflection between its markers, as it follows a prompt."""
    return f"{think_format.begin}{reflection}{think_format.think_close}"


def row_tokens(
    tokenizer: Any, think_format: ThinkFormat, response: str, reflection: str | None
) -> tuple[list[int], list[int]]:
    """Return the tokens of a row's think block, and those of its answer with its end.

    Where the template has opened a think block, a row without a reflection closes it first.
    """
    block: list[int] = []
    if reflection is not None and think_format.closed:
        raise UserError(
            f"the chat template closes the think block before the answer ('"
            f"{think_format.think_close.strip()}' ends the prompt), so no reflection can follow: "
            "let it think, as with model.template_args.enable_thinking=true (or thinking=true), "
            "or train with reflection=none"
        )
    if reflection is not None:
        parts = (think_format.begin, reflection, think_format.think_close)
        joined = think_block(think_format, reflection)
        if quotes_control(tokenizer, reflection):
            block = [t for part in parts if part for t in text_ids(tokenizer, part)]
        else:
            block = encode(tokenizer, joined)
    closed = think_format.without if reflection is None else ""
    before = encode(tokenizer, closed) if closed else []
    answer = text_ids(tokenizer, answer_text(tokenizer, response))
    return block, [*before, *answer, *turn_end(tokenizer)] if answer else []


def token_row(
    tokenizer: Any, think_format: ThinkFormat, example: Example, kind: int, reflection: str | None
) -> TokenRow:
    """Tokenise one example, each span by itself so that spans and tokens cannot disagree."""
    prompt = prompt_ids(tokenizer, example.prompt, before=example.messages[:-1])
    here = think_format.after(prompt_end(tokenizer, prompt))
    block, answer = row_tokens(tokenizer, here, example.response, reflection)
    parts = (
        (prompt, Span.PROMPT),
        (block, Span.REFLECTION),
        (answer, Span.ANSWER),
    )
    return TokenRow(
        ids=[token for ids, _ in parts for token in ids],
        spans=[int(span) for ids, span in parts for _ in ids],
        kind=kind,
    )
