"""From a training config to a logged model: data, reflections, fit, export."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.preflight import check
from tbr_lightning.progress import duration

if TYPE_CHECKING:
    from tbr_lightning.data.table import Examples
    from tbr_lightning.tracking.run import Run
    from tbr_lightning.training.finish import Outcome
    from tbr_lightning.training.trial_pruning_channel import PruningChannel


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        run_id: ID of the MLflow run.
        model_uri: URI of the logged model.
        supervised_tokens: Number of supervised tokens seen in all epochs.
    """

    run_id: str
    model_uri: str
    supervised_tokens: int


def told(result: TrainResult) -> str:
    """Return what a training took and came to in a line: steps, time, rate, loss."""
    from tbr_lightning.tracking.run import Run

    numbers = Run(result.run_id).metrics()
    steps, seconds = numbers.get("train/steps", 0.0), numbers.get("train/seconds", 0.0)
    parts = [f"{steps:.0f} steps in {duration(seconds)}"]
    if "tbr.resumed" not in Run(result.run_id).tags() and seconds > 0:
        parts.append(f"{steps / seconds:.3g} steps/s")
    parts.append(f"{result.supervised_tokens:,} supervised tokens")
    if "train/loss" in numbers:
        parts.append(f"loss {numbers['train/loss']:.3f} at the last step")
    return ", ".join(parts)


def run(
    config: TrainConfig,
    pruning: PruningChannel | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainResult:
    """Fine-tune a model and log it.

    Args:
        config: Config of the command.
        pruning: Channel by which it may be ended early.
        tell: Takes a sentence on where the run is seen while it goes on.
    """
    resumed = None
    if config.resume is not None:
        from tbr_lightning.training.resume import RunFolder, interrupted_run

        resumed = interrupted_run(config)
        if resumed is None:
            print(
                "train: resume=latest finds no interrupted run: a new one starts", file=sys.stderr
            )
        else:
            config = resumed.config
            if config.objective.trained_by == "trl":
                from tbr_lightning.training.grpo import refuse_resume

                refuse_resume(RunFolder.of(config, resumed.run_id))
    if config.objective.trained_by == "trl":
        from tbr_lightning.training.grpo import check_handed_over

        check_handed_over(config, prunes=pruning is not None)
    check(config.model, config.data, config.reflection, config.trainer, config.adapter)
    from tbr_lightning.reports.names import base_of
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.training import ranks
    from tbr_lightning.training.contamination import check_apart, suite_overlap
    from tbr_lightning.training.precision import settled
    from tbr_lightning.training.prepare import load_examples
    from tbr_lightning.training.resume import RunFolder

    ranks.warm_up(config.trainer)
    config = settled(config, earlier=resumed is not None)
    examples = load_examples(config)
    seen = suite_overlap(config.apart, examples)
    check_apart(config.apart, seen)
    model = base_of(config.model.name, config.model.hub_id, config.model.path)
    what = f"{model}, reflection {config.reflection.teacher}, seed {config.seed}"
    name = config.run_name or f"train {what}"
    run_id = resumed.run_id if resumed else None
    with ExitStack() as held:
        with start_run(
            "train", name, config, config.tracking, _tags(config), run_id=run_id
        ) as opened:
            opened.log_params({f"data/prompts_of_{name}": one.seen for name, one in seen.items()})
            folder = RunFolder.of(config, opened.id)
            if resumed is None:
                folder.begin(config)
            else:
                folder.claim()
            held.callback(folder.release)
            outcome = _train(
                config,
                examples,
                opened,
                folder.path,
                resumed=resumed is not None,
                pruning=pruning,
                tell=tell,
            )
        # Last, when the tracker has all of it: killed before, the run goes on.
        folder.finish(outcome.model_uri)
    return TrainResult(opened.id, outcome.model_uri, outcome.supervised_tokens)


def _train(
    config: TrainConfig,
    examples: Examples,
    opened: Run,
    folder: Path,
    *,
    resumed: bool,
    pruning: PruningChannel | None,
    tell: Callable[[str], None] | None,
) -> Outcome:
    from tbr_lightning.models.backbone import adapter_notice, load_backbone
    from tbr_lightning.models.tokenizers import template_notice
    from tbr_lightning.tracking.store import curves
    from tbr_lightning.training import ranks
    from tbr_lightning.training.devices import world_size
    from tbr_lightning.training.finish import (
        export_and_keep,
        exported_before,
        keep_base,
        log_exported,
    )
    from tbr_lightning.training.fit import Job, fit
    from tbr_lightning.training.precision import training_dtype
    from tbr_lightning.training.prepare import log_counts, prepare

    backbone = load_backbone(
        config.model,
        data=config.data.name,
        rows=examples,
        cache=Path(config.paths.cache),
        seed=config.seed,
        dtype=training_dtype(config),
        adapter=config.adapter,
    )
    notices = (
        adapter_notice(config.model),
        template_notice(config.model, has_own_template=backbone.has_own_template),
    )
    for notice in filter(None, notices):
        print(f"train: {notice}", file=sys.stderr)
    if config.data.pairs == "sampled":
        from tbr_lightning.training.sampled_pairs import with_pairs

        examples = with_pairs(config, examples, backbone, opened, folder)
        config.objective.check_rows(examples)
    prepared = prepare(config, examples, backbone, opened, folder=folder, log=not resumed)
    log_counts(opened, prepared, len(examples))
    if tell is not None:
        tell(f"train: curves, while it runs: {curves(config.tracking, opened.id)}")
    tokenizer = folder / "tokenizer"
    backbone.tokenizer.save_pretrained(tokenizer)
    keep_base(config, backbone, folder)
    job = Job(
        config=config,
        run_id=opened.id,
        what=opened.name,
        folder=folder,
        rows=prepared.rows.folder,
        validation=prepared.validation.folder if prepared.validation else None,
        tokenizer=tokenizer,
        pruning=pruning,
    )
    if resumed and (exported := exported_before(folder)) is not None:
        return log_exported(job, exported, prepared, tags=_tags(config))
    if world_size(config.trainer) == 1:
        if config.objective.trained_by == "trl":
            from tbr_lightning.evaluation.judges.prompts import log_judge_prompt
            from tbr_lightning.training.grpo import fit_with_trl

            log_judge_prompt(opened, config.judge)
            fitted = fit_with_trl(job, backbone, examples)
        else:
            fitted = fit(job, backbone)
        tuned, done = replace(backbone, model=fitted.model), fitted.done
    else:
        # The ranks load the weights themselves; this process needs them again at the end only.
        backbone = replace(backbone, model=None)
        if ranks.launched() is None:
            ranks.fit_in_ranks(job, ranks.as_rank)
        else:
            ranks.fit_and_leave(ranks.share(job))
        tuned, done = ranks.collect_trained(job)
    exported = export_and_keep(job, tuned, done)
    return log_exported(job, exported, prepared, tags=_tags(config))


def _tags(config: TrainConfig) -> dict[str, str]:
    return {
        "tbr.reflection": config.reflection.teacher,
        "tbr.seed": str(config.seed),
        "tbr.data": config.data.name,
        "tbr.model": config.model.name,
        "tbr.precision": config.trainer.precision,
        **config.tags,
    }
