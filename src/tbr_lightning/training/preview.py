"""``train dry_run=true``: everything but the weights and the steps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.split import split
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.errors import UserError
from tbr_lightning.kinds import KINDS
from tbr_lightning.models.backbone import adapter_notice
from tbr_lightning.models.planned import is_own, planned_config, published_config
from tbr_lightning.models.tokenizers import load_tokenizer, template_notice
from tbr_lightning.preflight import missing_for
from tbr_lightning.progress import cell, duration, plain
from tbr_lightning.reflection.checks import REASONS
from tbr_lightning.reflection.collect import (
    apply_rejects,
    check_accepted,
    collect,
    missing,
    texts_of,
    wanted,
)
from tbr_lightning.reflection.known import known_beside
from tbr_lightning.reflection.pipeline import connect_for_prompt, markers_of, store_of, teacher_of
from tbr_lightning.reflection.store import reflection_store
from tbr_lightning.training.apart import check_apart, suite_overlap
from tbr_lightning.training.devices import accelerator_of, world_size
from tbr_lightning.training.estimate import RunEstimate, describe_devices, estimate
from tbr_lightning.training.grpo import check_handed_over
from tbr_lightning.training.precision import precision_of
from tbr_lightning.training.prepare import load_examples
from tbr_lightning.training.speed import compute_dtype, measured_peak

_STYLES = {Span.PROMPT: "dim", Span.REFLECTION: "cyan", Span.ANSWER: "green"}
_PLACEHOLDER = "(its teacher has not written this reflection yet)"
_UNWRITTEN = "(the model has not written this answer yet)"


def preview(config: TrainConfig) -> None:
    """Print counts, estimates and what is missing, then examples; load no weights.

    Raises:
        UserError: The data or the tokenizer is not available.
    """
    console = Console(highlight=False)
    examples = _with_placeholders(config, load_examples(config))
    tokenizer, own = load_tokenizer(config.model, data=config.data.name, rows=examples)
    think_format = ThinkFormat.of(config.model).of_template(tokenizer)
    try:
        check_apart(config.apart, suite_overlap(config.apart, examples))
    except UserError as error:
        console.print(f"a real run would stop: {error}", markup=False)
    beside = known_beside(config, examples)
    known = _reflections(config, examples)
    examples = known.examples
    training, held_out = split(examples, config.data.validation)
    rows = tokenise(
        training,
        known.texts,
        tokenizer,
        think_format,
        max_length=config.model.max_length,
        cache=Path(config.paths.cache),
        sequences=config.objective.sequences,
        per_row=config.objective.sequences_per_row,
        form=config.objective.form,
        beside=beside.texts,
    )
    notices = (
        adapter_notice(config.model),
        template_notice(config.model, has_own_template=own),
    )
    for notice in filter(None, notices):
        console.print(notice, markup=False)
    console.print(think_format.described, markup=False)
    estimated = config.model.tokenizer == "bytes" and config.model.hub_id is not None
    _print_counts(console, config, rows, len(held_out), known.unwritten, estimated=estimated)
    for sentence in (*known.sentences, *filter(None, [beside.notice])):
        console.print(sentence, markup=False)
    if config.data.pairs == "sampled":
        console.print(
            f"data.pairs=sampled: the model will write {config.pairs.samples} answers to each of "
            f"{len(examples):,} prompts, which gives {len(examples):,} pairs at most: here each is "
            "the row's own response and a short placeholder",
            markup=False,
        )
    if config.objective.trained_by == "trl":
        check_handed_over(config)
        console.print(
            "objective=grpo takes the prompts alone, and the model draws the answers: what has "
            "loss above, tokens and estimates are those of fine-tuning on the rows",
            markup=False,
        )
    _print_estimate(console, config, _estimate(config, rows, len(tokenizer)))
    if sentences := missing_for(
        config.model, config.data, config.reflection, config.trainer, config.adapter
    ):
        console.print("\n[bold]A real run will need[/bold]")
        for sentence in sentences:
            console.print(f"  {sentence}", markup=False)
    _print_examples(console, config, rows, tokenizer)
    console.print("\nThe whole config: the same command with --cfg job. Nothing was run.")


@dataclass(frozen=True)
class Outlook:
    """The expected size and time of one training run.

    Attributes:
        rows: Number of rows to train on.
        tokens: Number of tokens of all epochs.
        seconds: Time on devices like this one; ``None`` if it wants another kind.
    """

    rows: int
    tokens: int
    seconds: float | None


def outlook(config: TrainConfig) -> Outlook:
    """Count rows and tokens and estimate the time; print nothing and load no weights.

    Raises:
        UserError: The data or the tokenizer is not available.
    """
    examples = _with_placeholders(config, load_examples(config))
    tokenizer, _ = load_tokenizer(config.model, data=config.data.name, rows=examples)
    beside = known_beside(config, examples)
    known = _reflections(config, examples)
    training, _ = split(known.examples, config.data.validation)
    rows = tokenise(
        training,
        known.texts,
        tokenizer,
        ThinkFormat.of(config.model).of_template(tokenizer),
        max_length=config.model.max_length,
        cache=Path(config.paths.cache),
        sequences=config.objective.sequences,
        per_row=config.objective.sequences_per_row,
        form=config.objective.form,
        beside=beside.texts,
    )
    trainer = config.trainer
    share = 1.0
    if trainer.max_steps >= 0:
        per_step = trainer.batch_size * trainer.accumulate * world_size(trainer)
        share = min(1.0, trainer.max_steps * per_step / (rows.data_rows * trainer.epochs))
    tokens = int(rows.lengths.sum() * trainer.epochs * share)
    return Outlook(rows.data_rows, tokens, _estimate(config, rows, len(tokenizer)).seconds)


def _with_placeholders(config: TrainConfig, examples: Examples) -> Examples:
    """Return rows whose pairs are not made yet with a placeholder for the dispreferred answer."""
    if config.data.pairs != "sampled":
        return examples
    return Examples.of(replace(row, rejected=_UNWRITTEN) for row in examples)


@dataclass(frozen=True)
class _Known:
    """What is known of the reflections without asking for or storing any.

    Attributes:
        examples: Rows to train on.
        texts: Texts by instruction id; a placeholder for each that is not written yet.
        unwritten: Number of placeholders.
        sentences: Messages about the reflections.
    """

    examples: Examples
    texts: dict[str, str]
    unwritten: int = 0
    sentences: tuple[str, ...] = ()


def _reflections(config: TrainConfig, examples: Examples) -> _Known:
    rows = wanted(examples, config.reflection)
    if not rows:
        return _Known(examples, {})
    own = config.data.teacher(config.reflection.teacher, config.seed)
    free = own is not None and config.reflection.endpoint.base_url is None
    if config.reflection.teacher == "internal":  # which are stored depends on its weights
        return _Known(examples, {row.id: _PLACEHOLDER for row in rows}, len(rows))
    connect_for_prompt(config)
    teacher = teacher_of(config.reflection, config.data, None, config.seed)
    paid = config.reflection.teacher == "external" and not free
    with tempfile.TemporaryDirectory() as folder:
        there = Path(config.paths.runs) / "reflections.db"
        if paid and not there.is_file():
            return _Known(examples, {row.id: _PLACEHOLDER for row in rows}, len(rows))
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
    return _Known(kept, texts, len(unwritten), tuple(sentences))


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


def _print_examples(console: Console, config: TrainConfig, rows: TokenRows, tokenizer: Any) -> None:
    console.print("\n[bold]Examples[/bold] (loss on [cyan]reflection[/cyan] and", end=" ")
    console.print("[green]answer[/green], none on [dim]prompt[/dim])")
    for index in _one_of_each(rows):
        row = rows[index]
        spans, ids = np.asarray(row.spans), np.asarray(row.ids)
        weights = config.objective.token_weights(spans, row.trigger)
        table = Table.grid(padding=(0, 2))
        for span in Span:
            where = np.flatnonzero(spans == span)
            if len(where):
                text = tokenizer.decode(ids[where].tolist())
                table.add_row(
                    span.name.lower(), Text(plain(text.rstrip("\n")), style=_STYLES[span])
                )
        trained = int((weights > 0).sum())
        console.print(f"\n[bold]{KINDS[row.kind]}[/bold], {len(ids)} tokens, {trained} with loss")
        console.print(table)


def _one_of_each(rows: TokenRows) -> list[int]:
    """Return three rows, of as many kinds as there are, short ones of their kind."""
    chosen: list[int] = []
    order = np.argsort(rows.lengths, kind="stable")
    for kind in range(len(KINDS)):
        # A row may lack one of its sequences, which then has no token to show.
        of_kind = [int(i) for i in order if rows.kinds[i] == kind and rows.lengths[i]]
        if of_kind:
            chosen.append(of_kind[len(of_kind) // 4])
    rest = [int(i) for i in order[len(order) // 2 :] if int(i) not in chosen and rows.lengths[i]]
    return (chosen + rest)[:3]


def _print_counts(
    console: Console,
    config: TrainConfig,
    rows: TokenRows,
    held_out: int,
    unwritten: int,
    *,
    estimated: bool,
) -> None:
    table = Table("kind", "rows", "prompt", "reflection", "answer", title="Rows and tokens")
    for number, kind in enumerate(KINDS):
        counts = rows.span_counts[rows.kinds == number]
        if found := len(counts) // rows.per_row:
            table.add_row(kind, f"{found:,}", *(f"{int(n):,}" for n in counts.sum(axis=0)))
    console.print(table)
    steps, trainer = step_count(config, rows.data_rows), config.trainer
    tokens = int(rows.lengths.sum())
    console.print(
        f"{rows.data_rows:,} training rows ({rows.left_out:,} left out as longer than "
        f"model.max_length{_cost(rows)}{_others(rows)}), {held_out:,} for validation; "
        f"{tokens:,} tokens an epoch, longest row {int(rows.lengths.max()):,}"
    )
    console.print(
        f"{steps:,} optimizer steps of {trainer.batch_size} x {trainer.accumulate} x "
        f"{world_size(trainer)} rows (batch x accumulate x devices), {_epochs(trainer.epochs)}"
    )
    if estimated:
        console.print(
            "token counts are estimates: model.tokenizer=bytes stands in for the model's own, "
            "which makes some four times fewer tokens of English"
        )
    if unwritten:
        console.print(
            f"{unwritten:,} reflections are not written yet: a short placeholder's tokens are "
            "counted in place of each"
        )


def _epochs(number: int) -> str:
    return f"{number:,} epoch{'' if number == 1 else 's'} at most"


def step_count(config: TrainConfig, rows: int) -> int:
    """Return the number of optimizer steps of a run."""
    trainer = config.trainer
    per_step = trainer.batch_size * trainer.accumulate * world_size(trainer)
    steps = trainer.epochs * math.ceil(rows / per_step)
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def _others(rows: TokenRows) -> str:
    if not rows.left_out_for_others:
        return ""
    return f"; {rows.left_out_for_others:,} more with the reflection of another arm"


def _cost(rows: TokenRows) -> str:
    if not rows.left_out_for_reflection:
        return ""
    return (
        f", {rows.left_out_for_reflection:,} of them for their reflection: an arm without it "
        "that does not know these reflections trains on them"
    )


def _estimate(config: TrainConfig, rows: TokenRows, vocabulary: int) -> RunEstimate:
    import torch

    if not config.model.architecture and published_config(config.model) is None:
        raise UserError(f"model={config.model.name} names no architecture to estimate from")
    # With a stand-in tokenizer the published vocabulary is the one that matters.
    stand_in = config.model.tokenizer == "bytes" and config.model.init != "random"
    architecture = planned_config(
        config.model, data=config.data.name, vocab_size=None if stand_in else vocabulary
    )
    wanted_device = accelerator_of(config.trainer)
    here = "gpu" if torch.cuda.is_available() else "cpu"
    peak = None
    if wanted_device == here:
        device = torch.device("cuda" if here == "gpu" else "cpu")
        peak = measured_peak(device, compute_dtype(precision_of(config)))
    trainer = config.trainer
    epochs: float = trainer.epochs
    if trainer.max_steps >= 0:
        per_step = trainer.batch_size * trainer.accumulate * world_size(trainer)
        epochs = min(epochs, trainer.max_steps * per_step / rows.data_rows)
    return estimate(
        config,
        architecture,
        tokens=int(rows.lengths.sum() * epochs),
        longest=int(rows.lengths.max()),
        peak=peak,
    )


def _print_estimate(console: Console, config: TrainConfig, it: RunEstimate) -> None:
    gib = 2**30
    model = config.model
    source = model.path or model.hub_id
    foreign = source and model.init != "random" and not is_own(model)
    if foreign and published_config(model) is None:
        console.print(
            f"The config of {source} cannot be read here: the estimates are of the architecture of "
            f"model={model.name}.",
            markup=False,
        )
    table = Table("what", "estimate", title=cell(f"Estimates ({describe_devices(config)})"))
    table.add_row("parameters", f"{it.parameters:,}")
    table.add_row("trained", f"{it.trained:,} ({it.trained / it.parameters:.2%})")
    table.add_row("memory a device", f"{(it.weights + it.states + it.activations) / gib:.2f} GiB")
    table.add_row("  weights", f"{it.weights / gib:.2f} GiB")
    table.add_row("  gradients, optimizer", f"{it.states / gib:.2f} GiB")
    table.add_row("  activations, at most", f"{it.activations / gib:.2f} GiB")
    if it.host:
        table.add_row("memory of the host, a rank", f"{it.host / gib:.2f} GiB")
    table.add_row("computation", f"{it.flops:.3g} FLOPs")
    table.add_row("time", _time(it))
    console.print(table)


def _time(it: RunEstimate) -> str:
    if it.seconds is None:
        hours = it.flops / 1e14 / 3600
        return f"{hours:.2g} hours of one device at 100 tera-FLOPs per second"
    return f"about {duration(it.seconds)} on devices like this one"
