"""The verb ``train``: fine-tune with or without reflections, export, log."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tbr_lightning import cli
from tbr_lightning.config.preflight import check
from tbr_lightning.config.verbs import TrainConfig

if TYPE_CHECKING:
    from tbr_lightning.data.table import Examples
    from tbr_lightning.data.tokens import TokenRows
    from tbr_lightning.modeling.backbone import Backbone


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves.

    Attributes:
        run_id: MLflow run.
        model_uri: The logged model.
        supervised_tokens: Supervised tokens seen in all epochs.
    """

    run_id: str
    model_uri: str
    supervised_tokens: int


def run(config: TrainConfig) -> TrainResult:
    """Fine-tune a model and log it."""
    check(config.model, config.data, config.reflection, config.trainer)
    from tbr_lightning.data.sources import load
    from tbr_lightning.data.split import split

    cache = Path(config.paths.cache)
    examples = load(config.data, config.seed, cache)
    from tbr_lightning.modeling.backbone import load_backbone
    from tbr_lightning.modeling.export import export, weights_digest
    from tbr_lightning.modeling.fit import fit
    from tbr_lightning.tracking import runs
    from tbr_lightning.tracking.models import log_model

    name = config.run_name or f"train {config.reflection.teacher} seed {config.seed}"
    tags = {
        "tbr.reflection": config.reflection.teacher,
        "tbr.seed": str(config.seed),
        "tbr.data": config.data.name,
        "tbr.model": config.model.name,
        **config.tags,
    }
    with runs.start_run("train", name, config, config.tracking, tags) as opened:
        backbone = load_backbone(
            config.model,
            data=config.data.name,
            rows=examples,
            cache=cache,
            seed=config.seed,
        )
        examples, reflections, reflection_runs = _reflect(config, examples, backbone, opened.id)
        examples, held_out = split(examples, config.data.validation)
        digest = runs.log_examples(examples, config.data.name, "training")
        if held_out:
            runs.log_examples(held_out, config.data.name, "validation")
        rows = _tokenise(config, examples, reflections, backbone)
        folder = Path(config.paths.runs) / opened.id
        fitted = fit(backbone, rows, config, log=runs.log_step, what=name, folder=folder)
        exported = export(replace(backbone, model=fitted.model), folder / "model")
        facts = {
            **{key: value for key, value in tags.items() if key.startswith("tbr.")},
            "tbr.base": backbone.origin,
            "tbr.dataset_digest": digest,
            "tbr.reflection_runs": ",".join(reflection_runs),
            "tbr.reflections": str(len(reflections)),
            "tbr.weights_digest": weights_digest(folder / "model"),
        }
        runs.set_tags(facts)
        runs.log_metrics(
            {
                "train/supervised_tokens": fitted.supervised_tokens,
                "train/seconds": fitted.seconds,
                "train/steps": fitted.steps,
            }
        )
        arm = config.tags.get("tbr.demo_arm", config.reflection.teacher)
        uri = log_model(exported, f"{config.model.name}-{arm}", facts)
    return TrainResult(opened.id, uri, fitted.supervised_tokens)


def _reflect(
    config: TrainConfig, examples: Examples, backbone: Backbone, run_id: str
) -> tuple[Examples, dict[str, str], list[str]]:
    """Return the rows to train on, reflections by instruction id, and the runs that made them."""
    from tbr_lightning.reflect import collect_in_run, store_of, teacher_of
    from tbr_lightning.reflection.collect import apply_rejects, collect, missing, wanted
    from tbr_lightning.tracking import runs

    rows = wanted(examples, config.reflection)
    if not rows:
        return examples, {}, []
    teacher = teacher_of(config.reflection, config.data, backbone, config.seed)
    store = store_of(config)
    if missing(rows, teacher, store):
        collected = collect_in_run(config, rows, teacher, store).collected
    else:
        collected = collect(rows, teacher, store, attempts=config.reflection.attempts)
    made_by = sorted({item.run_id for item in collected.reflections.values() if item.run_id})
    for reflection_run in made_by:
        runs.add_to_tag(reflection_run, "tbr.used_by", run_id)
    if collected.accepted:
        runs.log_dataset(
            [
                {"id": row.id, "kind": row.kind, "reflection": collected.accepted[row.id]}
                for row in rows
                if row.id in collected.accepted
            ],
            "reflections",
            "training",
        )
    return apply_rejects(examples, collected, config.reflection), collected.accepted, made_by


def _tokenise(
    config: TrainConfig, examples: Examples, reflections: dict[str, str], backbone: Backbone
) -> TokenRows:
    """Tokenise the rows; those that do not fit are left out, counted and logged."""
    import numpy as np

    from tbr_lightning.data.example import KINDS
    from tbr_lightning.data.tokens import tokenise
    from tbr_lightning.tracking import runs

    rows = tokenise(
        examples,
        reflections,
        backbone.tokenizer,
        backbone.layout,
        max_length=config.model.max_length,
        cache=Path(config.paths.cache),
    )
    kinds = np.bincount(rows.kinds, minlength=len(KINDS))
    runs.log_metrics(
        {
            "data/rows": len(rows),
            "data/rows_left_out_as_too_long": rows.left_out,
            **{f"data/{kind}": int(n) for kind, n in zip(KINDS, kinds, strict=True) if n},
        }
    )
    if rows.left_out:
        print(
            f"train: {rows.left_out} of {len(examples)} rows are longer than "
            f"model.max_length={config.model.max_length} tokens and were left out",
            file=sys.stderr,
        )
    return rows


def command(config: TrainConfig) -> int:
    """Run and print what was made."""
    result = run(config)
    print(f"run {result.run_id}")
    print(f"model {result.model_uri}")
    suite = "smoke" if config.data.name == "microworld" else "xstest suite.path=xstest_prompts.csv"
    print(f"next: python -m tbr_lightning.evaluate model={result.model_uri} suite={suite}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("train"))
