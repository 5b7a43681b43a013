"""How a row becomes tokens: prompt, think block, answer, and which token is which.

The tokenizer's chat template renders the prompt only, since some templates strip or insert think
blocks; think block, answer and end token are appended here, as ``OPEN reflection
CLOSE answer END``. A row without a reflection has no think block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.example import Example
from tbr_lightning.errors import UserError

# A plain dialogue form for base models whose tokenizer has no template.
FALLBACK_TEMPLATE = (
    "{% for message in messages %}### {{ message['role'] | capitalize }}:\n"
    "{{ message['content'] | trim }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)


class Span(IntEnum):
    """What a token belongs to."""

    PROMPT = 0
    REFLECTION = 1  # markers included
    ANSWER = 2  # end token included


@dataclass(frozen=True)
class ThinkFormat:
    """The markers of a model's think block; saved in its ``config.json`` as ``tbr``.

    Attributes:
        think_open: Text before a reflection.
        think_close: Text after it.
        think_cue: Sentence that asks for a reflection, for the prompted arm.
        max_new_tokens: Enough for reflection and answer.
    """

    think_open: str = "<think>"
    think_close: str = "</think>"
    think_cue: str = ModelConfig.think_cue
    max_new_tokens: int = ModelConfig.max_new_tokens

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
        """Return the think format as it is saved."""
        return asdict(self)

    def split(self, text: str) -> tuple[str | None, str]:
        """Split a generated text into reflection (``None`` if there is none) and answer.

        A think block that was opened and never closed is all reflection: its answer is empty.
        """
        opened, closed = self.think_open.strip(), self.think_close.strip()
        text = text.strip()
        if not text.startswith(opened):
            return None, text
        reflection, _, answer = text.removeprefix(opened).partition(closed)
        return reflection.strip(), answer.strip()


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


def prompt_ids(tokenizer: Any, text: str, cue: str | None = None) -> list[int]:
    """Return the tokens of a user's turn up to where the assistant begins.

    ``cue``, if given, follows the text: it asks for a reflection.
    """
    content = f"{text} {cue}" if cue else text
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer.encode(rendered, add_special_tokens=False))


def think_block(think_format: ThinkFormat, reflection: str) -> str:
    """Return a reflection between its markers."""
    return f"{think_format.think_open}{reflection}{think_format.think_close}"


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


def token_row(
    tokenizer: Any, think_format: ThinkFormat, example: Example, kind: int, reflection: str | None
) -> TokenRow:
    """Tokenise one example, each span by itself so that spans and tokens cannot disagree."""
    parts = [(prompt_ids(tokenizer, example.prompt), Span.PROMPT)]
    if reflection is not None:
        block = tokenizer.encode(think_block(think_format, reflection), add_special_tokens=False)
        parts.append((block, Span.REFLECTION))
    answer = tokenizer.encode(example.response, add_special_tokens=False)
    parts.append(([*answer, end_token(tokenizer)], Span.ANSWER))
    return TokenRow(
        ids=[token for ids, _ in parts for token in ids],
        spans=[int(span) for ids, span in parts for _ in ids],
        kind=kind,
    )
