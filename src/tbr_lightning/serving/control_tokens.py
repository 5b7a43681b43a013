"""Control tokens in what a model wrote: left out of a reply, as an evaluation leaves them out.

Which they are says :meth:`tbr_lightning.data.think_format.ThinkFormat.hidden_ids`. An engine leaves
them out itself where it can; else they are taken out of its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from tbr_lightning.data.chat_template import control_ids
from tbr_lightning.data.think_format import ThinkFormat

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class Reader:
    """A tokenizer as :mod:`tbr_lightning.data.chat_template` reads one, without transformers.

    Attributes:
        core: The tokenizer of ``tokenizer.json``.
        settings: Contents of ``tokenizer_config.json``.
    """

    core: Tokenizer
    settings: Mapping[str, Any]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The tokens that were added to the vocabulary, by id."""
        return dict(self.core.get_added_tokens_decoder())

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the tokens that the settings name as special."""
        named = [self.settings.get(name) for name in _NAMED]
        for name in _LISTS:
            more = self.settings.get(name) or []
            named += more.values() if isinstance(more, Mapping) else more
        words = [one.get("content") if isinstance(one, Mapping) else one for one in named]
        ids = [self.core.token_to_id(word) for word in words if isinstance(word, str)]
        return [token for token in ids if token is not None]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of a text."""
        return list(self.core.encode(text, add_special_tokens=add_special_tokens).ids)


def hidden_words(think_format: ThinkFormat, reader: Reader) -> tuple[str, ...] | None:
    """Return the control tokens to take out of a text, as they are written.

    ``None`` where no think marker is a control token: an engine then leaves all of them out, which
    is exact, while a text may hold the words of one that the model spelled in other tokens.
    """
    hidden = think_format.hidden_ids(reader)
    if hidden == control_ids(reader):
        return None
    words = {reader.core.id_to_token(number) for number in hidden}
    return tuple(sorted(word for word in words if word))


class Hider:
    """Takes words out of a text that comes in pieces; a word may be split over several."""

    def __init__(self, words: Sequence[str]) -> None:
        longest = sorted(words, key=len, reverse=True)
        self._words = longest
        self._pattern = re.compile("|".join(map(re.escape, longest))) if words else None
        self._rest = ""

    def feed(self, text: str, *, last: bool = False) -> str:
        """Return the next part of the text without the words.

        What may yet become one is kept for the next piece.

        Args:
            text: Next piece.
            last: Whether no other follows.
        """
        if self._pattern is None:
            return text
        text, shown = self._rest + text, list[str]()
        while True:
            held = len(text) if last else self._held_from(text)
            found = self._pattern.search(text)
            if found is None or found.start() >= held:
                break
            shown.append(text[: found.start()])
            text = text[found.end() :]
        self._rest = text[held:]
        return "".join([*shown, text[:held]])

    def _held_from(self, text: str) -> int:
        """Return where the end of a text begins that may go on as one of the words."""
        return len(text) - max(overlap(text, word) for word in self._words)


def overlap(text: str, word: str) -> int:
    """Return how many characters at a text's end begin a word that is longer than they are."""
    sizes = range(min(len(text), len(word) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(word[:size])), 0)
