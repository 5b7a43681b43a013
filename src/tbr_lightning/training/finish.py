"""The end of a training run: one export, one model card, one logged model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.digest import RECORDED, record
from tbr_lightning.models.export import export, weights_digest
from tbr_lightning.models.logged import find_model, log_model
from tbr_lightning.tracking.run import Run
from tbr_lightning.training.fit import Done, Job
from tbr_lightning.training.model_card import model_card
from tbr_lightning.training.prepare import Prepared
from tbr_lightning.training.resume import RunFolder

_BASE = "base"


@dataclass(frozen=True)
class Outcome:
    """The logged model and what it took."""

    model_uri: str
    supervised_tokens: int


def export_and_log(
    job: Job,
    tuned: Backbone,
    prepared: Prepared,
    done: Done,
    *,
    tags: Mapping[str, str],
    folder: RunFolder,
) -> Outcome:
    """Export the tuned model, reload and compare it, and log it once on its run."""
    config, run = job.config, Run(job.run_id)
    form = export_form(config, tuned)
    if form == "adapter" and tuned.folder is None:
        tuned = replace(tuned, folder=job.folder / _BASE)
    exported = export(tuned, job.folder / "model", dtype=config.model.dtype, form=form)
    facts = {
        **{key: value for key, value in tags.items() if key.startswith("tbr.")},
        "tbr.base": tuned.origin,
        "tbr.dataset_digest": prepared.digest,
        "tbr.reflection_runs": ",".join(prepared.reflection_runs),
        "tbr.reflections": str(prepared.reflections),
        "tbr.form": form,
        "tbr.weights_digest": weights_digest(job.folder / "model"),
    }
    run.set_tags(facts)
    run.log_metrics({f"train/{name}": value for name, value in asdict(done).items()})
    card = model_card(config, prepared, facts, run.metrics())
    (job.folder / "model" / "README.md").write_text(card)
    run.log_text(card, "model_card.md")
    arm = config.tags.get("tbr.demo_arm", config.reflection.teacher)
    uri = log_model(exported, f"{config.model.name}-{arm}", facts)
    run.set_tags({RECORDED: record(find_model(uri))})
    folder.finish(uri)
    return Outcome(uri, done.supervised_tokens)


def keep_base(config: TrainConfig, backbone: Backbone, folder: Path) -> None:
    """Keep a base that was made here beside its adapter: it is nowhere else to be found again."""
    if export_form(config, backbone) == "adapter" and backbone.folder is None:
        backbone.model.save_pretrained(folder / _BASE)


def export_form(config: TrainConfig, tuned: Backbone) -> str:
    """Return ``adapter`` or ``merged``.

    ``auto`` keeps an adapter apart where its base can be had again (hub, local folder), and merges
    where the base was made here.
    """
    if config.adapter.name == "none":
        return "merged"
    if config.adapter.export != "auto":
        return config.adapter.export
    return "merged" if tuned.folder is None else "adapter"
