"""Training rows on disk: an Arrow file that is mapped into memory rather than read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tbr_lightning.data.cache import built
from tbr_lightning.data.example import Example
from tbr_lightning.kinds import KINDS, Kind

if TYPE_CHECKING:
    import datasets

FORMAT = 2
"""Version of the files; part of every key, so that a change of form is never read as the old."""

_FIELDS = (
    "instruction",
    "input",
    "response",
    "rejected",
    "kind",
    "source",
    "context",
    "reflection",
)
_BATCH = 1000  # rows turned into objects, or written, at a time
_ROWS, _META = "rows.arrow", "meta.json"


class Examples(Sequence[Example]):
    """Read-only training rows; an :class:`Example` is made only when it is asked for.

    Attributes:
        dataset: The rows as a Hugging Face data set: the columns of :class:`Example`, and ``id``.
        left_out: Number of source rows left out, by reason.
        notes: Other messages about the sources, such as unused columns.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        digest: str | None = None,
        left_out: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.dataset = dataset
        self.left_out = dict(left_out or {})
        self.notes = tuple(notes)
        self._known_digest = digest

    @classmethod
    def of(cls, rows: Iterable[Example]) -> Examples:
        """Return rows that are in memory already as this type."""
        import datasets

        records = [_record(row) for row in rows]
        columns = {name: [record[name] for record in records] for name in (*_FIELDS, "id")}
        return cls(datasets.Dataset.from_dict(columns, features=_features()))

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Example]:
        for record in self._records():
            yield _example(record)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return _example(self.dataset[int(index)])

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all rows in their order, wherever they are stored."""
        if self._known_digest is not None:
            return self._known_digest
        hasher = hashlib.sha256()
        for record in self._records():
            hasher.update(_bytes(record))
        return hasher.hexdigest()[:16]

    def select(self, indices: Sequence[int]) -> Examples:
        """Return the rows at ``indices``, in that order; no text is copied."""
        return Examples(self.dataset.select(indices))

    def ids(self) -> list[str]:
        """Return every row's id, see :func:`tbr_lightning.data.example.instruction_id`."""
        return self.column("id")

    def column(self, name: str) -> list[Any]:
        """Return one column's values."""
        table = self.dataset.select_columns([name]).with_format("arrow")[:]
        values: list[Any] = table[name].to_pylist()
        return values

    def counts(self) -> dict[Kind, int]:
        """Return the number of rows of each kind that occurs."""
        found = Counter(self.column("kind"))
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def _records(self) -> Iterator[dict[str, Any]]:
        for batch in self.dataset.with_format("arrow").iter(_BATCH):
            yield from batch.to_pylist()


def stored(
    cache: Path,
    key: str,
    make: Callable[[Counter[str]], Iterable[Example]],
    notes: Callable[[], Sequence[str]] = tuple,
) -> Examples:
    """Return the rows stored under a key, making and writing them first if they are missing.

    Args:
        cache: Folder of all caches.
        key: Hash of everything that determines the rows.
        make: Called only if the rows are missing; yields them one by one, and counts in its
            argument how many it left out, by reason.
        notes: Called after the last row; returns messages to store with the rows.
    """
    folder = built(cache / "examples" / key, lambda partial: _write(partial, make, notes))
    import datasets

    meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    dataset = datasets.Dataset.from_file(str(folder / _ROWS))
    return Examples(dataset, meta["digest"], meta["left_out"], meta["notes"])


def _write(
    folder: Path,
    make: Callable[[Counter[str]], Iterable[Example]],
    notes: Callable[[], Sequence[str]],
) -> None:
    from datasets.arrow_writer import ArrowWriter

    left_out: Counter[str] = Counter()
    hasher = hashlib.sha256()
    with (
        (folder / _ROWS).open("wb") as stream,
        ArrowWriter(features=_features(), stream=stream, writer_batch_size=_BATCH) as writer,
    ):
        for row in make(left_out):
            record = _record(row)
            hasher.update(_bytes(record))
            writer.write(record)
        writer.finalize(close_stream=False)
    meta = {"digest": hasher.hexdigest()[:16], "left_out": left_out, "notes": [*notes()]}
    (folder / _META).write_text(json.dumps(meta), encoding="utf-8")


def _features() -> Any:
    import datasets

    return datasets.Features({name: datasets.Value("string") for name in (*_FIELDS, "id")})


def _record(row: Example) -> dict[str, Any]:
    return {**{name: getattr(row, name) for name in _FIELDS}, "id": row.id}


def _bytes(record: Mapping[str, Any]) -> bytes:
    return json.dumps([record[name] for name in _FIELDS]).encode()


def _example(record: Mapping[str, Any]) -> Example:
    return Example(**{name: record[name] for name in _FIELDS})
