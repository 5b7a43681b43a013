"""From a config to tokenised rows with their reflections, everything logged on the open run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.cache import alone
from tbr_lightning.data.sources import load
from tbr_lightning.data.split import split
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.evaluation.contamination import HASHES, training_hashes
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.logged import TRAINED_ROWS
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
from tbr_lightning.reflection.pipeline import collect_in_run, markers_of, store_of, teacher_of
from tbr_lightning.tracking.run import Run


@dataclass(frozen=True)
class Prepared:
    """The inputs of training.

    Attributes:
        rows: Tokenised training rows.
        validation: Tokenised rows held out, if there are any.
        digest: Digest of the training rows before tokenisation.
        reflections: Number of training rows with a reflection.
        reflection_runs: IDs of the MLflow runs that wrote them.
        beside: Reflections that other arms put before the answers.
    """

    rows: TokenRows
    validation: TokenRows | None
    digest: str
    reflections: int
    reflection_runs: Sequence[str]
    beside: Beside


def load_examples(config: TrainConfig) -> Examples:
    """Return all rows of the config's data.

    Raises:
        UserError: The rows lack what the objective needs, or cannot be read.
    """
    examples = load(config.data, config.seed, Path(config.paths.cache))
    if config.data.pairs == "sampled":  # the rows become pairs once the model is there
        from tbr_lightning.training.sampled_pairs import check_sampling  # a judge's packages, too

        check_sampling(config, examples)
    else:
        config.objective.check_rows(examples)
    return examples


def prepare(
    config: TrainConfig,
    examples: Examples,
    backbone: Backbone,
    run: Run,
    *,
    folder: Path,
    log: bool,
) -> Prepared:
    """Collect reflections, split, and tokenise.

    Args:
        config: Config of the training run.
        examples: Rows of its data.
        backbone: Backbone with the tokenizer.
        run: Open MLflow run.
        folder: Folder of the run, which keeps what must not change when it is resumed.
        log: Whether to log; false where the run has everything already.
    """
    beside = _beside(config, examples, folder)
    examples, reflections, made_by = _reflect(config, examples, backbone, run, log=log)
    examples, held_out = split(examples, config.data.validation)
    if log:
        run.log_examples(examples, config.data.name, "training")
        run.log_bytes(training_hashes(text for one in examples for text in one.requests), HASHES)
        if held_out:
            run.log_examples(held_out, config.data.name, "validation")
    tokenizer, think_format = backbone.tokenizer, backbone.think_format

    def tokenised(some: Examples) -> TokenRows:
        return token_rows(config, some, reflections, tokenizer, think_format, beside=beside)

    rows = tokenised(examples)
    return Prepared(
        rows=rows,
        validation=tokenised(held_out) if held_out else None,
        digest=examples.digest,
        reflections=reflected(rows),
        reflection_runs=made_by,
        beside=beside,
    )


def reflected(rows: TokenRows) -> int:
    """Return how many rows of the data have a sequence with a reflection; a pair is one row."""
    carries = rows.span_counts[:, Span.REFLECTION] > 0
    return int(carries.reshape(-1, rows.per_row).any(axis=1).sum())


def _beside(config: TrainConfig, examples: Examples, folder: Path) -> Beside:
    file = folder / "beside.json"
    if file.is_file():
        return Beside.saved(file)
    beside = known_beside(config, examples)
    beside.save(file)
    return beside


def log_counts(run: Run, prepared: Prepared, rows: int) -> None:
    """Log how many rows there are and how many did not fit, and report the latter."""
    left_out = prepared.rows.left_out
    run.log_params(
        {
            "data/rows": prepared.rows.data_rows,
            "data/rows_left_out_as_too_long": left_out,
            "data/rows_left_out_for_their_reflection": prepared.rows.left_out_for_reflection,
            "data/rows_left_out_for_other_arms": prepared.rows.left_out_for_others,
            **{f"data/{kind}": n for kind, n in prepared.rows.data_kinds().items()},
        }
    )
    run.set_tags({TRAINED_ROWS: prepared.rows.rows_digest})
    if notice := prepared.beside.notice:
        print(f"train: {notice}", file=sys.stderr)
    if others := prepared.rows.left_out_for_others:
        print(
            f"train: {others} of {rows} rows are longer than model.max_length tokens with the "
            "reflection of another arm and were left out, so that all arms train on the same",
            file=sys.stderr,
        )
    if left_out:
        print(
            f"train: {left_out} of {rows} rows are longer than model.max_length tokens and were "
            f"left out{reflections_cost(prepared.rows)}: raise model.max_length",
            file=sys.stderr,
        )


def reflections_cost(rows: TokenRows) -> str:
    """Return how many rows were left out for their reflection, for the end of a sentence."""
    if not rows.left_out_for_reflection:
        return ""
    return (
        f", {rows.left_out_for_reflection:,} of them for their reflection: an arm without it "
        "that does not know these reflections trains on them"
    )


def _reflect(
    config: TrainConfig, examples: Examples, backbone: Backbone, run: Run, *, log: bool
) -> tuple[Examples, dict[str, str], list[str]]:
    """Return the rows to train on, reflections by instruction id, and the runs that made them."""
    rows = wanted(examples, config.reflection)
    if not rows:
        return examples, {}, []
    teacher = teacher_of(config.reflection, config.data, backbone, config.seed)
    store = store_of(config)
    # Of several runs that want the same reflections at once, one asks the teacher.
    with alone(store.file):
        if missing(rows, teacher, store):
            collected = collect_in_run(config, rows, teacher, store).collected
        else:
            collected = collect(
                rows,
                teacher,
                store,
                attempts=config.reflection.attempts,
                markers=markers_of(config),
                unstated=config.reflection.unstated,
            )
    if teacher.checked:
        check_accepted(collected, config.reflection)
    accepted = f"{len(collected.accepted)} of {len(rows)}"
    run.set_tags({"tbr.reflections_accepted": accepted})
    if len(collected.accepted) < len(rows):
        counts = collected.counts(config.reflection)
        reasons = [f"{counts[f'rejected/{r}']:.0f} {r}" for r in REASONS if counts[f"rejected/{r}"]]
        print(
            f"train: {accepted} rows have a reflection; rejected: {', '.join(reasons)} "
            f"(reflection.on_reject={config.reflection.on_reject})",
            file=sys.stderr,
        )
    texts = texts_of(collected, config.reflection, config.seed)
    made_by = sorted({item.run_id for item in collected.reflections.values() if item.run_id})
    for reflection_run in made_by:
        Run(reflection_run).add_to_tag("tbr.used_by", run.id)
    if texts and log:
        run.log_dataset(
            [
                {"id": row.id, "kind": row.kind, "reflection": texts[row.id]}
                for row in rows
                if row.id in texts
            ],
            "reflections",
            "training",
        )
    return apply_rejects(examples, collected, config.reflection), texts, made_by


def token_rows(
    config: TrainConfig,
    examples: Examples,
    reflections: Mapping[str, str],
    tokenizer: Any,
    think_format: ThinkFormat,
    *,
    beside: Beside,
) -> TokenRows:
    """Return tokenised rows as the objective and the model's limits want them."""
    return tokenise(
        examples,
        reflections,
        tokenizer,
        think_format,
        max_length=config.model.max_length,
        cache=Path(config.paths.cache),
        sequences=config.objective.sequences,
        per_row=config.objective.sequences_per_row,
        form=config.objective.form,
        beside=beside.texts,
    )
