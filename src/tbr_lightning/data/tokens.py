"""Tokenised rows on disk: made once for rows, reflections and tokenizer, then only mapped."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from tbr_lightning.data.cache import built, content_key, file_key
from tbr_lightning.data.chat_template import (
    control_words,
    encode_all,
    end_token,
    end_words,
    prompt_end,
    prompt_ids,
    prompts_at_once,
    turn_end,
)
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat, TokenRow, row_tokens, think_block
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.kinds import KINDS, Kind
from tbr_lightning.progress import bar

_FORMAT = 5
_SHOWN = 60  # characters of a request in a message
_CHUNK = 1000  # rows tokenised together
_IDS, _META = "ids.bin", "meta.json"
_SPANS = np.arange(len(Span), dtype=np.uint8)


Sequences = Callable[[Example, "str | None"], Sequence["tuple[str | None, str | None]"]]
"""Takes a row and its reflection; returns the reflection and response of each sequence.

A response of ``None`` stands for a sequence that the row lacks; it gets no tokens at all.
"""


def as_it_stands(example: Example, reflection: str | None) -> list[tuple[str | None, str | None]]:
    """Return the one sequence of a row: its reflection, if it has one, and its response."""
    return [(reflection, example.response)]


class TokenRows(Sequence[TokenRow]):
    """Read-only tokenised rows; the files are mapped, so memory does not grow with them.

    Attributes:
        lengths: Tokens of each row, int32, shape ``(rows,)``.
        kinds: Index into :data:`tbr_lightning.kinds.KINDS`, uint8, shape ``(rows,)``.
        triggers: Index of each row's first supervised token, int32, shape ``(rows,)``.
        span_counts: Tokens of each row's prompt, reflection and answer, int32, shape ``(rows, 3)``;
            they follow each other in this order, so they are the row's spans in short.
        digest: Hash of all that determines the rows.
        left_out: Number of rows of the data that were longer than the limit.
        left_out_for_reflection: Number of those that fit without their reflection.
        left_out_for_others: Number of rows that fit, but not with the reflection of another arm.
        rows_digest: Hash of the selected rows of the data, in their order.
        per_row: Number of consecutive sequences that belong to each row of the data.
        folder: Folder that holds the files.
    """

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / _META).read_text())
        self.digest: str = meta["digest"]
        self.left_out: int = meta["left_out"]
        self.left_out_for_reflection: int = meta.get("left_out_for_reflection", 0)
        self.left_out_for_others: int = meta.get("left_out_for_others", 0)
        self.rows_digest: str = meta.get("rows_digest", "")
        self.per_row: int = meta.get("per_row", 1)
        self.lengths: npt.NDArray[np.int32] = _mapped(folder, "lengths")
        self.kinds: npt.NDArray[np.uint8] = _mapped(folder, "kinds")
        self.span_counts: npt.NDArray[np.int32] = _mapped(folder, "span_counts")
        self.triggers: npt.NDArray[np.int32] = self.span_counts[:, Span.PROMPT]
        self._offsets: npt.NDArray[np.int64] = _mapped(folder, "offsets")
        self._ids = np.asarray(np.memmap(folder / _IDS, dtype=np.int32, mode="r"))
        self.folder = folder

    @property
    def data_rows(self) -> int:
        """Number of rows of the data, each of ``per_row`` sequences."""
        return len(self) // self.per_row

    def data_kinds(self) -> dict[Kind, int]:
        """Return the number of rows of the data of each kind that there is."""
        counts = np.bincount(self.kinds[:: self.per_row], minlength=len(KINDS))
        return {kind: int(n) for kind, n in zip(KINDS, counts, strict=True) if n}

    def __reduce__(self) -> tuple[type[TokenRows], tuple[Path]]:
        # Else a worker process would be sent a copy of every token.
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...
    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        start = int(self._offsets[index])
        return TokenRow(
            ids=self._ids[start : start + int(self.lengths[index])],
            spans=np.repeat(_SPANS, self.span_counts[index]),
            kind=int(self.kinds[index]),
        )


def tokenise(
    examples: Examples,
    reflections: Mapping[str, str],
    tokenizer: Any,
    think_format: ThinkFormat,
    *,
    max_length: int,
    cache: Path,
    sequences: Sequences = as_it_stands,
    per_row: int = 1,
    form: str = "",
    beside: Mapping[str, Sequence[str]] | None = None,
) -> TokenRows:
    """Return the tokenised rows, from the cache if it has them.

    Each row is what :func:`tbr_lightning.data.think_format.token_row` makes of it; rows that are
    too long are left out.

    Args:
        examples: The rows.
        reflections: Texts by the instruction's id; rows without one get no think block.
        tokenizer: Tokenizer with chat template and end token.
        think_format: The markers of the think block.
        max_length: Maximum number of tokens of prompt, reflection and answer together.
        cache: Folder of all caches.
        sequences: Makes the sequences of a row; a row with one that is too long is left out whole.
        per_row: Number of sequences of each row.
        form: Name of ``sequences`` and its settings; part of the cache key.
        beside: Reflections that other arms give rows, by the instruction's id; a row that one of
            them makes too long is left out, so that all arms train on the same rows.

    Raises:
        UserError: The tokenizer has no end token, a response has no tokens, or every row is longer
            than ``max_length``.
    """
    end_token(tokenizer)  # without one the end of an answer could not be trained
    used = {key: reflections[key] for key in set(examples.ids()) & reflections.keys()}
    others = {key: texts for key, texts in (beside or {}).items() if texts}
    key = content_key(
        _FORMAT,
        examples.digest,
        used,
        others,
        tokenizer_digest(tokenizer),
        think_format.think_open,
        think_format.think_close,
        think_format.opened,
        think_format.answers,
        max_length,
        *([form] if form else []),
    )

    def lengths_beside(chunk: Sequence[Example]) -> Iterator[tuple[Example, int]]:
        """Yield the tokens of each sequence that another arm makes of a row."""
        forms = [
            (example, *one)
            for example in chunk
            for text in others.get(example.id, ())
            if text != used.get(example.id)
            for one in sequences(example, text)
        ]
        made = _tokens(forms, tokenizer, think_format) if forms else ()
        for (example, _, _), parts in zip(forms, made, strict=True):
            yield example, sum(map(len, parts))

    def write(folder: Path) -> None:
        writer = _Writer(folder, max_length, per_row)
        with bar("tokenise", len(examples)) as shown, (folder / _IDS).open("wb") as stream:
            for chunk in _chunks(examples):
                wanted = [
                    (example, *one)
                    for example in chunk
                    for one in sequences(example, used.get(example.id))
                ]
                made = _tokens(wanted, tokenizer, think_format)
                crowded = {
                    example.id for example, length in lengths_beside(chunk) if length > max_length
                }
                for example in chunk:
                    row = [next(made) for _ in range(per_row)]
                    for parts in row:
                        if parts[Span.PROMPT] and not parts[Span.ANSWER]:
                            raise UserError(
                                f"row {example.id}: its response has no tokens in this tokenizer: "
                                "fix or remove the row"
                            )
                    writer.add(stream, row, example, crowded=example.id in crowded)
                shown.advance(len(chunk))
        writer.finish(key)

    return TokenRows(built(cache / "tokens" / key, write))


def tokenizer_digest(tokenizer: Any) -> str:
    """Return 16 hex digits over everything of a tokenizer that shapes a row."""
    if getattr(tokenizer, "is_fast", False):
        core = json.loads(tokenizer.backend_tokenizer.to_str())
        # These are left by the last call, and set again with each.
        core["truncation"] = core["padding"] = None
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            core = {file.name: file_key(file) for file in Path(folder).iterdir() if file.is_file()}
    return content_key(core, tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)


class _Writer:
    """Appends token ids to a file, and keeps what is a few numbers a row until the end."""

    def __init__(self, folder: Path, max_length: int, per_row: int) -> None:
        self._folder, self._max_length, self._per_row = folder, max_length, per_row
        self._counts: list[list[int]] = []
        self._kinds: list[int] = []
        self._left_out = 0
        self._for_reflection = 0
        self._for_others = 0
        self._rows = hashlib.sha256()

    def add(
        self,
        stream: Any,
        row: Sequence[Sequence[list[int]]],
        example: Example,
        *,
        crowded: bool,
    ) -> None:
        counts = [[len(part) for part in parts] for parts in row]
        if max(map(sum, counts)) > self._max_length:
            self._left_out += 1
            bare = [sum(row) - row[Span.REFLECTION] for row in counts]
            self._for_reflection += max(bare) <= self._max_length
            return
        if crowded:
            self._for_others += 1
            return
        self._rows.update(example.id.encode())
        tokens = [token for parts in row for part in parts for token in part]
        stream.write(np.array(tokens, np.int32).tobytes())
        self._counts += counts
        self._kinds += [KINDS.index(example.kind)] * len(row)

    def finish(self, digest: str) -> None:
        if not self._counts:
            raise UserError(
                f"model.max_length={self._max_length}: all {self._left_out + self._for_others} "
                "rows are longer, some with another arm's reflection only: raise it"
                if self._for_others
                else f"model.max_length={self._max_length}: all {self._left_out} rows are longer: "
                "raise it"
            )
        counts = np.array(self._counts, np.int32)
        lengths = counts.sum(axis=1, dtype=np.int32)
        np.save(self._folder / "span_counts.npy", counts)
        np.save(self._folder / "lengths.npy", lengths)
        np.save(self._folder / "kinds.npy", np.array(self._kinds, np.uint8))
        np.save(self._folder / "offsets.npy", lengths.cumsum(dtype=np.int64) - lengths)
        meta = {
            "digest": digest,
            "left_out": self._left_out,
            "left_out_for_reflection": self._for_reflection,
            "left_out_for_others": self._for_others,
            "rows_digest": self._rows.hexdigest()[:16],
            "per_row": self._per_row,
        }
        (self._folder / _META).write_text(json.dumps(meta))


def _chunks(examples: Examples) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    for example in examples:
        chunk.append(example)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _tokens(
    wanted: Sequence[tuple[Example, str | None, str | None]],
    tokenizer: Any,
    think_format: ThinkFormat,
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield the tokens of each sequence's prompt, think block and answer with its end."""
    end = turn_end(tokenizer)
    without = encode_all(tokenizer, [think_format.without])[0] if think_format.without else []
    blocks = iter(
        encode_all(
            tokenizer,
            [think_block(think_format, text) for _, text, _ in wanted if text is not None],
        )
    )
    words = [word for word in (*control_words(tokenizer), end_words(tokenizer)) if word]
    answers = encode_all(tokenizer, [response or "" for _, _, response in wanted])
    prompts = prompts_at_once(tokenizer, [example.prompt for example, _, _ in wanted])
    for row, (rendered, prompt), answer in zip(wanted, prompts, answers, strict=True):
        example, reflection, response = row
        block = next(blocks) if reflection is not None else []
        if response is None:
            yield [], [], []
            continue
        said = f"{example.prompt}{reflection}{response}"
        unlike = think_format.after(rendered) != think_format or think_format.closed
        if example.context or unlike or any(word in said for word in words):
            # Rare rows that quote control tokens or the end of a turn, and rows of several turns.
            yield _by_itself(tokenizer, think_format, example, reflection, response)
            continue
        before = [] if reflection is not None else without
        yield prompt, block, [*before, *answer, *end] if answer else []


def _by_itself(
    tokenizer: Any,
    think_format: ThinkFormat,
    example: Example,
    reflection: str | None,
    response: str,
) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens of a row whose prompt is rendered alone, as :func:`token_row` does."""
    try:
        first = prompt_ids(tokenizer, example.prompt, before=example.messages[:-1])
    except TemplateError as error:
        asked = example.prompt if len(example.prompt) <= _SHOWN else f"{example.prompt[:_SHOWN]}…"
        roles = ", ".join(message["role"] for message in example.messages)
        raise UserError(
            f"the row '{asked}' has the turns {roles}, which the model's chat template refuses "
            f"({in_one_line(error)}): fix or remove the row, or give model.chat_template=FILE"
        ) from error
    here = think_format.after(prompt_end(tokenizer, first))
    return first, *row_tokens(tokenizer, here, response, reflection)


def _mapped(folder: Path, name: str) -> Any:
    # A plain view of the mapped file: taking rows of `np.memmap` itself is many times slower.
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
