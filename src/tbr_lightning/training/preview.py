"""``train dry_run=true``: everything but the weights and the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.think_format import Span
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError
from tbr_lightning.kinds import KINDS
from tbr_lightning.models.backbone import adapter_notice
from tbr_lightning.models.config_facts import is_own, published_config
from tbr_lightning.models.tokenizers import template_notice
from tbr_lightning.preflight import missing_for
from tbr_lightning.progress import cell, duration, plain
from tbr_lightning.training.contamination import check_apart, suite_overlap
from tbr_lightning.training.devices import world_size
from tbr_lightning.training.estimate import RunEstimate, describe_devices
from tbr_lightning.training.grpo import check_handed_over
from tbr_lightning.training.prepare import reflections_cost
from tbr_lightning.training.run_size import (
    CountedRows,
    count_rows,
    estimate_run,
    rows_to_count,
    step_count,
)

_STYLES = {Span.PROMPT: "dim", Span.REFLECTION: "cyan", Span.ANSWER: "green"}


def preview(config: TrainConfig) -> None:
    """Print counts, estimates and what is missing, then examples; load no weights.

    Raises:
        UserError: The data or the tokenizer is not available.
    """
    console = Console(highlight=False)
    examples = rows_to_count(config)
    try:
        check_apart(config.apart, suite_overlap(config.apart, examples))
    except UserError as error:
        console.print(f"a real run would stop: {error}", markup=False)
    counted = count_rows(config, examples)
    known, rows = counted.known, counted.rows
    notices = (
        adapter_notice(config.model),
        template_notice(config.model, has_own_template=counted.has_own_template),
    )
    for notice in filter(None, notices):
        console.print(notice, markup=False)
    console.print(counted.think_format.described, markup=False)
    _print_counts(console, config, counted)
    for sentence in (*known.sentences, *filter(None, [counted.beside.notice])):
        console.print(sentence, markup=False)
    if config.data.pairs == "sampled":
        prompts = f"{len(known.examples):,}"
        console.print(
            f"data.pairs=sampled: the model will write {config.pairs.samples} answers to each of "
            f"{prompts} prompts, which gives {prompts} pairs at most: here each is the "
            "row's own response and a short placeholder",
            markup=False,
        )
    if config.objective.trained_by == "trl":
        check_handed_over(config)
        console.print(
            "objective=grpo takes the prompts alone, and the model draws the answers: what has "
            "loss above, tokens and estimates are those of fine-tuning on the rows",
            markup=False,
        )
    _print_estimate(console, config, estimate_run(config, counted))
    if sentences := missing_for(
        config.model, config.data, config.reflection, config.trainer, config.adapter
    ):
        console.print("\n[bold]A real run will need[/bold]")
        for sentence in sentences:
            console.print(f"  {sentence}", markup=False)
    _print_examples(console, config, rows, counted.tokenizer)
    console.print("\nThe whole config: the same command with --cfg job. Nothing was run.")


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


def _print_counts(console: Console, config: TrainConfig, counted: CountedRows) -> None:
    rows, unwritten = counted.rows, counted.known.unwritten
    table = Table("kind", "rows", "prompt", "reflection", "answer", title="Rows and tokens")
    for number, kind in enumerate(KINDS):
        counts = rows.span_counts[rows.kinds == number]
        if found := len(counts) // rows.per_row:
            table.add_row(kind, f"{found:,}", *(f"{int(n):,}" for n in counts.sum(axis=0)))
    console.print(table)
    steps, trainer = step_count(config, rows.data_rows), config.trainer
    many = "" if trainer.epochs == 1 else "s"
    console.print(
        f"{rows.data_rows:,} training rows ({rows.left_out:,} left out as longer than "
        f"model.max_length{reflections_cost(rows)}{_others(rows)}), {counted.held_out:,} for "
        f"validation; {int(rows.lengths.sum()):,} tokens an epoch, longest row "
        f"{int(rows.lengths.max()):,}"
    )
    console.print(
        f"{steps:,} optimizer steps of {trainer.batch_size} x {trainer.accumulate} x "
        f"{world_size(trainer)} rows (batch x accumulate x devices), "
        f"{trainer.epochs:,} epoch{many} at most"
    )
    if config.model.tokenizer == "bytes" and config.model.hub_id is not None:
        console.print(
            "token counts are estimates: model.tokenizer=bytes stands in for the model's own, "
            "which needs about a quarter as many tokens for English"
        )
    if unwritten:
        console.print(
            f"{unwritten:,} reflections are not written yet: a short placeholder's tokens are "
            "counted in place of each"
        )


def _others(rows: TokenRows) -> str:
    if not rows.left_out_for_others:
        return ""
    return f"; {rows.left_out_for_others:,} more with the reflection of another arm"


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
