"""Prompts of a suite that occur in the rows that a model was trained on.

Exact ones agree in normal form; near ones share most of their runs of words with the rows. What a
model was trained on is kept as hashes with its training run, so that it can be compared with any
suite later.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tbr_lightning.data.example import normal_form
from tbr_lightning.errors import UserError
from tbr_lightning.models.logged import TRAINED_ROWS, LoggedModel, find_model
from tbr_lightning.tracking.run import Run

HASHES = "training_prompts.npz"
"""Artifact of a training run: hashes of the requests it trained on and of their runs of words."""

ROWS_KEPT = "tbr.training_prompts"
"""Tag of a logged model: the SHA-256 of its training run's file of hashes."""

OVERLAP = "contamination.json"
"""Artifact of an evaluation: how many prompts of each benchmark the model was trained on."""

_RUN = 6  # consecutive words
_NEAR = 0.8  # share of a prompt's runs that occur in the rows

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """How many prompts of a benchmark a model was trained on.

    Attributes:
        seen: Number of prompts that occur exactly or nearly.
        n: Number of prompts of the benchmark.
    """

    seen: int
    n: int

    @property
    def share(self) -> float:
        """Share of the prompts that was seen."""
        return self.seen / self.n if self.n else 0.0


def training_hashes(requests: Iterable[str]) -> bytes:
    """Return the contents of the file that keeps what a model was trained on."""
    whole, runs = set(), set()
    for request in requests:
        words = _words(request)
        whole.add(_hash(words))
        runs.update(_runs(words))
    file = io.BytesIO()
    np.savez_compressed(file, whole=_sorted(whole), runs=_sorted(runs))
    return file.getvalue()


def overlap(file: Path, prompts: Sequence[Any]) -> dict[str, Overlap]:
    """Return for each benchmark how many of its prompts occur in what a file keeps.

    Args:
        file: File with what :func:`training_hashes` returned.
        prompts: Prompts of a suite.
    """
    with np.load(file, allow_pickle=False) as kept:
        whole, runs = kept["whole"], kept["runs"]
    seen: Counter[str] = Counter()
    for prompt in prompts:
        words = _words(prompt.text)
        parts = np.array(_runs(words), np.uint64)
        near = len(parts) and np.isin(parts, runs).mean() >= _NEAR
        if near or np.isin(np.array([_hash(words)], np.uint64), whole)[0]:
            seen[prompt.benchmark] += 1
    sizes = Counter(prompt.benchmark for prompt in prompts)
    return {name: Overlap(seen[name], n) for name, n in sizes.items()}


def sentence(found: Mapping[str, Overlap]) -> str:
    """Return the sentence that reports an overlap."""
    parts = [f"{one.seen} of {one.n} prompts of {name}" for name, one in found.items() if one.seen]
    if not parts:
        n = sum(one.n for one in found.values())
        return f"none of the {n} prompts occurs in the training rows"
    return f"{', '.join(parts)} occur in the training rows, exactly or nearly"


class LostRowsError(UserError):
    """What a training run kept of its rows is gone, or was changed since."""


def of_model(model: LoggedModel, prompts: Sequence[Any]) -> dict[str, Overlap] | None:
    """Return the overlap with the rows of a model's training run; ``None`` if it kept none.

    Raises:
        LostRowsError: What it kept is not what is there now.
    """
    recorded = model.tags.get(ROWS_KEPT)
    with tempfile.TemporaryDirectory() as folder:
        file = Run(model.run_id).download(HASHES, Path(folder))
        if recorded is not None and (file is None or _file_hash(file) != recorded):
            raise LostRowsError(
                f"which rows {model.uri} was trained on is not known any more, since {HASHES} of "
                f"run {model.run_id} {'is gone' if file is None else 'was changed'}: restore it"
            )
        return None if file is None else overlap(file, prompts)


def log(run: Run, model: LoggedModel, prompts: Sequence[Any]) -> tuple[dict[str, float], str]:
    """Write on an evaluation's run how many prompts the model was trained on.

    Returns:
        The shares as :func:`metrics` has them, and a sentence; nothing where it is not known.
    """
    try:
        found = of_model(model, prompts)
    except LostRowsError as error:
        return {}, str(error)
    if not found:
        return {}, ""
    run.log_text(as_text(found), OVERLAP)
    return metrics(found), sentence(found)


def kept_by(run: Run) -> str:
    """Return the SHA-256 of what a training run kept of its rows; empty if it kept nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = run.download(HASHES, Path(folder))
        return "" if file is None else _file_hash(file)


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def as_text(found: Mapping[str, Overlap]) -> str:
    """Return the contents of :data:`OVERLAP`."""
    counts = {name: {"seen": one.seen, "n": one.n} for name, one in found.items()}
    return json.dumps(counts, sort_keys=True)


def of_text(text: str) -> dict[str, Overlap]:
    """Return what :func:`as_text` was given."""
    return {name: Overlap(**counts) for name, counts in json.loads(text).items()}


def different_rows(models: Mapping[str, str | None]) -> str | None:
    """Return a notice if compared models were not trained on the same rows, else ``None``.

    Args:
        models: MLflow id of each model, by the name that it was given; ``None`` if it has none.
    """
    known = {
        name: find_model(f"models:/{model_id}").tags.get(TRAINED_ROWS)
        for name, model_id in models.items()
        if model_id is not None
    }
    trained = {name: rows for name, rows in known.items() if rows}
    if len(set(trained.values())) < 2:
        return None
    return (
        f"{', '.join(trained)} were not all trained on the same rows: a difference between them "
        "may be one of their data"
    )


def metrics(found: Mapping[str, Overlap]) -> dict[str, float]:
    """Return the shares by benchmark, and the largest of them."""
    shares = {f"contamination/{name}": one.share for name, one in found.items()}
    return shares | {"contamination": max(shares.values(), default=0.0)}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", normal_form(text))


def _runs(words: Sequence[str]) -> list[int]:
    return [_hash(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]


def _hash(words: Sequence[str]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest())


def _sorted(values: Iterable[int]) -> Hashes:
    return np.array(sorted(values), np.uint64)
