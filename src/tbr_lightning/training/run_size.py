"""How large a training run is: its rows, tokens, steps and time, before any weights are loaded."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tbr_lightning.config.schema import TrainerConfig
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.split import split
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError
from tbr_lightning.models.config_facts import planned_config, published_config
from tbr_lightning.models.tokenizers import load_tokenizer
from tbr_lightning.reflection.checks import REASONS
from tbr_lightning.reflection.collect import (
    apply_rejects,
    check_accepted,
    collect,
    missing,
    texts_of,
    wanted,
)
from tbr_lightning.reflection.known import Beside, known_beside
from tbr_lightning.reflection.pipeline import (
    connect_for_prompt,
    markers_of,
    store_file,
    store_of,
    teacher_of,
)
from tbr_lightning.reflection.store import reflection_store
from tbr_lightning.training.devices import accelerator_of, world_size
from tbr_lightning.training.estimate import RunEstimate, estimate
from tbr_lightning.training.precision import precision_of
from tbr_lightning.training.prepare import load_examples, token_rows
from tbr_lightning.training.speed import compute_dtype, measured_peak

_PLACEHOLDER = "(its teacher has not written this reflection yet)"
_UNWRITTEN = "(the model has not written this answer yet)"


@dataclass(frozen=True)
class Outlook:
    """The expected size and time of one training run."""

    rows: int  # rows to train on
    tokens: int  # tokens of all epochs
    seconds: float | None  # on devices like this one; ``None`` if it wants another kind


@dataclass(frozen=True)
class Known:
    """What is known of the reflections without asking for or storing any."""

    examples: Examples  # rows to train on
    texts: dict[str, str]  # by instruction id; a placeholder for each that is not written yet
    unwritten: int = 0  # number of placeholders
    sentences: tuple[str, ...] = ()  # messages about the reflections


@dataclass(frozen=True)
class CountedRows:
    """The tokenised rows of a run, and what they were made with."""

    rows: TokenRows  # training rows
    held_out: int  # number of rows for validation
    known: Known  # their reflections
    beside: Beside  # reflections that other arms put before the answers
    tokenizer: Any  # the model's
    has_own_template: bool  # whether the tokenizer came with a chat template
    think_format: ThinkFormat  # format of the think block


def outlook(config: TrainConfig) -> Outlook:
    """Count rows and tokens and estimate the time; print nothing and load no weights.

    Raises:
        UserError: The data or the tokenizer is not available.
    """
    counted = count_rows(config, rows_to_count(config))
    rows, seconds = counted.rows, estimate_run(config, counted).seconds
    return Outlook(rows.data_rows, _tokens_of(config, rows), seconds)


def rows_to_count(config: TrainConfig) -> Examples:
    """Return all rows, with a placeholder for each dispreferred answer that is not made yet."""
    examples = load_examples(config)
    if config.data.pairs != "sampled":
        return examples
    return Examples.of(replace(row, rejected=_UNWRITTEN) for row in examples)


def count_rows(config: TrainConfig, examples: Examples) -> CountedRows:
    """Tokenise the rows of a run as it would, without weights, and without asking any teacher.

    Raises:
        UserError: The tokenizer or the reflections are not available.
    """
    tokenizer, own = load_tokenizer(config.model, data=config.data.name, rows=examples)
    think_format = ThinkFormat.of(config.model).of_template(tokenizer)
    beside = known_beside(config, examples)
    known = _reflections(config, examples)
    training, held_out = split(known.examples, config.data.validation)
    rows = token_rows(config, training, known.texts, tokenizer, think_format, beside=beside)
    return CountedRows(rows, len(held_out), known, beside, tokenizer, own, think_format)


def _reflections(config: TrainConfig, examples: Examples) -> Known:
    rows = wanted(examples, config.reflection)
    if not rows:
        return Known(examples, {})
    own = config.data.teacher(config.reflection.teacher, config.seed)
    free = own is not None and config.reflection.endpoint.base_url is None
    if config.reflection.teacher == "internal":  # which are stored depends on its weights
        return Known(examples, {row.id: _PLACEHOLDER for row in rows}, len(rows))
    connect_for_prompt(config)
    teacher = teacher_of(config.reflection, config.data, None, config.seed)
    paid = config.reflection.teacher == "external" and not free
    with tempfile.TemporaryDirectory() as folder:
        if paid and not store_file(config).is_file():
            return Known(examples, {row.id: _PLACEHOLDER for row in rows}, len(rows))
        store = store_of(config) if paid else reflection_store(Path(folder) / "reflections.db")
        unwritten = {row.id for row in missing(rows, teacher, store)} if paid else set()
        collected = collect(
            [row for row in rows if row.id not in unwritten],
            teacher,
            store,
            markers=markers_of(config),
            unstated=config.reflection.unstated,
        )
    counts = collected.counts(config.reflection)
    sentences = []
    if paid:
        sentences.append(_cost_of_rest(config, len(rows), len(unwritten), counts))
    if rejected := {r: int(n) for r in REASONS if (n := counts[f"rejected/{r}"])}:
        reasons = ", ".join(f"{n} {reason}" for reason, n in rejected.items())
        sentences.append(
            f"{len(collected.accepted):,} reflections are accepted; rejected: {reasons}"
        )
    if teacher.checked and not unwritten:
        try:
            check_accepted(collected, config.reflection)
        except UserError as error:
            sentences.append(f"a real run would stop: {error}")
    texts = texts_of(collected, config.reflection, config.seed)
    texts |= dict.fromkeys(unwritten, _PLACEHOLDER)
    kept = apply_rejects(examples, collected, config.reflection)
    return Known(kept, texts, len(unwritten), tuple(sentences))


def _cost_of_rest(
    config: TrainConfig, rows: int, unwritten: int, counts: Mapping[str, float]
) -> str:
    """Return how many reflections are stored, and what the rest would cost at that rate."""
    stored = rows - unwritten
    told = f"{stored:,} of {rows:,} reflections are stored, {unwritten:,} would be asked for"
    prices = config.reflection.endpoint
    if not stored or not unwritten or not (prices.prompt_price or prices.completion_price):
        return told
    return f"{told}, for about {counts['cost'] / stored * unwritten:.4f} at the cost of those"


def step_count(config: TrainConfig, rows: int) -> int:
    """Return the number of optimizer steps of a run."""
    trainer = config.trainer
    steps = trainer.epochs * math.ceil(rows / _rows_per_step(trainer))
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def _tokens_of(config: TrainConfig, rows: TokenRows) -> int:
    """Return the number of tokens of all epochs, or of ``trainer.max_steps`` if that is less."""
    trainer = config.trainer
    epochs: float = trainer.epochs
    if trainer.max_steps >= 0:
        epochs = min(epochs, trainer.max_steps * _rows_per_step(trainer) / rows.data_rows)
    return int(rows.lengths.sum() * epochs)


def _rows_per_step(trainer: TrainerConfig) -> int:
    return trainer.batch_size * trainer.accumulate * world_size(trainer)


def estimate_run(config: TrainConfig, counted: CountedRows) -> RunEstimate:
    """Return the estimated cost of a run over the rows that were counted.

    Raises:
        UserError: The model has no architecture to estimate from.
    """
    import torch

    rows = counted.rows
    if not config.model.architecture and published_config(config.model) is None:
        raise UserError(f"model={config.model.name} names no architecture to estimate from")
    # With a stand-in tokenizer the published vocabulary is the one that matters.
    stand_in = config.model.tokenizer == "bytes" and config.model.init != "random"
    architecture = planned_config(
        config.model, data=config.data.name, vocab_size=None if stand_in else len(counted.tokenizer)
    )
    here = "gpu" if torch.cuda.is_available() else "cpu"
    peak = None
    if accelerator_of(config.trainer) == here:
        device = torch.device("cuda" if here == "gpu" else "cpu")
        peak = measured_peak(device, compute_dtype(precision_of(config)))
    return estimate(
        config,
        architecture,
        tokens=_tokens_of(config, rows),
        longest=int(rows.lengths.max()),
        peak=peak,
    )
