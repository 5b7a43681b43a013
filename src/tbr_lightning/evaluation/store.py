"""Responses on disk: one SQLite file, each there as soon as it is written.

The same request to the same weights is answered from here: an evaluation that was killed goes on,
and another judge labels the same responses for free.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from tbr_lightning.data.cache import private
from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.generation import Generated

FILE = "responses.db"
"""Name of the store's file in ``paths.runs``."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, weights TEXT NOT NULL, "
    "text TEXT NOT NULL, new_tokens INTEGER NOT NULL, cut INTEGER NOT NULL, reasoning TEXT, "
    "filtered TEXT NOT NULL DEFAULT '')"
)
_ADDED = ("reasoning TEXT", "filtered TEXT NOT NULL DEFAULT ''")
"""Columns that files of earlier versions lack."""
_INSERT = (
    "INSERT OR REPLACE INTO responses "
    "(key, weights, text, new_tokens, cut, reasoning, filtered) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_LOOKUP = 500  # keys in one query; SQLite bounds the variables of a statement


class ResponseStore:
    """Responses of one model; several processes may share the file.

    Attributes:
        reused: Number of responses found so far.
    """

    def __init__(self, file: Path, weights: str) -> None:
        self.file, self.weights, self.reused = file, weights, 0
        with self._told():
            file.parent.mkdir(parents=True, exist_ok=True)
            private(file)
            with self._open() as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute(_SCHEMA)
                _add_columns(db)
                db.commit()

    def key(self, prompt: Sequence[Any], settings: Sequence[Any]) -> str:
        """Return the identity of one response.

        Args:
            prompt: Token ids of the prompt, or messages.
            settings: Everything else that the response depends on, besides the weights.
        """
        parts = [self.weights, list(prompt), list(settings)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, keys: Sequence[str]) -> dict[str, Generated]:
        """Return the responses that exist, by key."""
        found: dict[str, Generated] = {}
        with self._told(), self._open() as db:
            for start in range(0, len(keys), _LOOKUP):
                part = keys[start : start + _LOOKUP]
                marks = ", ".join("?" * len(part))
                query = (
                    "SELECT key, text, new_tokens, cut, reasoning, filtered FROM responses "
                    f"WHERE key IN ({marks})"
                )
                for key, text, new_tokens, cut, *of_endpoint in db.execute(query, part):
                    found[key] = Generated(text, new_tokens, bool(cut), *of_endpoint)
        self.reused += len(found)
        return found

    def through(
        self, keys: Sequence[str], make: Callable[[list[int]], Iterator[tuple[int, Generated]]]
    ) -> Iterator[tuple[int, Generated]]:
        """Yield (number, response) of every key, stored ones first, each one once.

        Args:
            keys: Key of each response.
            make: Yields (place, response) for a list of numbers: those that are not stored.
        """
        found = self.get(keys)
        yield from ((n, found[key]) for n, key in enumerate(keys) if key in found)
        missing = [n for n, key in enumerate(keys) if key not in found]
        for place, response in self.keep(make(missing), [keys[n] for n in missing]):
            yield missing[place], response

    def keep(
        self, responses: Iterator[tuple[int, Generated]], keys: Sequence[str]
    ) -> Iterator[tuple[int, Generated]]:
        """Yield responses, each when it is on disk.

        Args:
            responses: Pairs of number and response.
            keys: Key of each response, by number.
        """
        with self._told(), self._open() as db:
            for number, made in responses:
                record = (
                    keys[number],
                    self.weights,
                    made.text,
                    made.new_tokens,
                    made.cut,
                    made.reasoning,
                    made.filtered,
                )
                db.execute(_INSERT, record)
                db.commit()
                yield number, made

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.file, timeout=60)) as db:
            # Safe against a kill of the process; a power cut may take the last few.
            db.execute("PRAGMA synchronous=NORMAL")
            yield db

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if disk_full(error):
                raise UserError(
                    f"the disk is full, so that responses cannot be stored in {self.file}: free "
                    "some of it and run again (what was generated is kept and used again), or "
                    "give another folder with paths.runs"
                ) from error
            if isinstance(error, OSError) and error.filename is None:
                raise  # not about a file: it comes from whoever uses the responses
            raise UserError(
                f"the response store {self.file} cannot be used ({error}): restore it, give "
                "another folder with paths.runs or generation.reuse=false, or delete it, and "
                "answers that were generated before are generated again"
            ) from error


def _add_columns(db: sqlite3.Connection) -> None:
    known = {row[1] for row in db.execute("PRAGMA table_info(responses)")}
    for column in _ADDED:
        if column.split()[0] not in known:
            try:
                db.execute(f"ALTER TABLE responses ADD COLUMN {column}")
            except sqlite3.OperationalError as error:  # another process was faster
                if "duplicate column" not in str(error):
                    raise


def weights_identity(backbone: Backbone) -> str:
    """Return an identity that differs between models that may write different texts.

    That is a hash of what was loaded, whatever tag or name it goes by: the weights with their type,
    the config, the tokenizer, and the model's own generation config. Files may have changed since
    they were named, and an adapter's folder does not hold the base that it is put on.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for config in (backbone.model.config, backbone.model.generation_config):
        settings = {k: v for k, v in config.to_dict().items() if k not in _NO_EFFECT}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(_words(backbone.tokenizer).encode())
    return digest.hexdigest()


_NO_EFFECT = ("transformers_version", "_name_or_path", "_from_model_config", "dtype")
"""What configs tell beside settings; the type of the weights counts by the weights."""


def _words(tokenizer: Any) -> str:
    """Return what determines how a tokenizer turns tokens into text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # How the last call padded and cut is kept there, too.
        settings = json.loads(backend.to_str())
        return json.dumps({k: v for k, v in settings.items() if k not in ("padding", "truncation")})
    return json.dumps(sorted(tokenizer.get_vocab().items()))
