"""The end of a training run: one export, one model card, one logged model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlflow.exceptions import MlflowException

from tbr_lightning.config.quoting import store_words
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.cache import write_whole
from tbr_lightning.errors import UserError, command_of, disk_full, first_line
from tbr_lightning.evaluation.contamination import ROWS_KEPT, kept_by
from tbr_lightning.models.backbone import Backbone, load_folder
from tbr_lightning.models.config_facts import weights_dtype
from tbr_lightning.models.digest import RECORDED, record
from tbr_lightning.models.export import export, load_adapter, weights_digest
from tbr_lightning.models.logged import TRAINED_ROWS, find_model, log_model, logged_by
from tbr_lightning.models.precision import name_of
from tbr_lightning.outages import OutageError, outage
from tbr_lightning.tracking.metric_spool import MetricBuffer
from tbr_lightning.tracking.run import Run
from tbr_lightning.training.fit import Done, Job
from tbr_lightning.training.model_card import model_card
from tbr_lightning.training.prepare import Prepared

_BASE, _EXPORTED = "base", "exported.json"


@dataclass(frozen=True)
class Exported:
    """A model that was exported, reloaded and compared.

    Attributes:
        model: The reloaded model.
        form: Export form, ``merged`` or ``adapter``.
        done: Steps, tokens and time of its fit.
    """

    model: Backbone
    form: str
    done: Done


@dataclass(frozen=True)
class Outcome:
    """The logged model, and the number of supervised tokens that it was trained on."""

    model_uri: str
    supervised_tokens: int


def export_and_keep(job: Job, tuned: Backbone, done: Done) -> Exported:
    """Export the tuned model to the run's folder, reload and compare it.

    From then on the run can be finished without training: see :func:`exported_before`.
    """
    config = job.config
    form = export_form(config, tuned)
    if form == "adapter" and tuned.folder is None:
        tuned = replace(tuned, folder=job.folder / _BASE)
    dtype = name_of(tuned.model.dtype)
    model = export(tuned, job.folder / "model", dtype=weights_dtype(config.model), form=form)
    kept = {
        "form": form,
        "dtype": dtype,
        "origin": tuned.origin,
        "base": None if tuned.folder is None else str(tuned.folder),
        "done": asdict(done),
        "weights": weights_digest(job.folder / "model"),
    }
    write_whole(job.folder / _EXPORTED, json.dumps(kept))
    return Exported(model, form, done)


def exported_before(folder: Path) -> Exported | None:
    """Return what a run exported before it was interrupted; ``None`` if it did not get that far."""
    if not (folder / _EXPORTED).is_file():
        return None
    kept = json.loads((folder / _EXPORTED).read_text())
    if kept["weights"] != weights_digest(folder / "model"):
        return None  # changed since: it is exported again from the last checkpoint
    base = None if kept["base"] is None else Path(kept["base"])
    if kept["form"] == "adapter":
        model = load_adapter(folder / "model", base=base, dtype=kept["dtype"])
    else:
        model = load_folder(folder / "model", origin=kept["origin"], thinks=True)
    model = replace(model, origin=kept["origin"], folder=base)
    return Exported(model, kept["form"], Done(**kept["done"]))


def log_exported(
    job: Job, exported: Exported, prepared: Prepared, *, tags: Mapping[str, str]
) -> Outcome:
    """Log an exported model once on its run.

    Raises:
        UserError: The tracker does not accept it; the message says how to log the kept model later.
    """
    try:
        return _log(job, exported, prepared, tags=tags)
    except (MlflowException, OSError, UserError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else None
        reason = disk_full(error) or f"MLflow does not accept it ({first_line(cause or error)})"
        where = store_words(job.config.given)
        kind = OutageError if outage(error) else UserError
        raise kind(
            f"the model is trained, exported and checked in {job.folder / 'model'}, but {reason}: "
            f"log it later with '{command_of('train')} resume={job.run_id}{where}', which "
            "does not train again"
        ) from error


def _log(job: Job, exported: Exported, prepared: Prepared, *, tags: Mapping[str, str]) -> Outcome:
    config, run = job.config, Run(job.run_id)
    facts = {
        **{key: value for key, value in tags.items() if key.startswith("tbr.")},
        "tbr.base": exported.model.origin,
        "tbr.dataset_digest": prepared.digest,
        TRAINED_ROWS: prepared.rows.rows_digest,
        **({ROWS_KEPT: kept} if (kept := kept_by(run)) else {}),
        "tbr.reflection_runs": ",".join(prepared.reflection_runs),
        "tbr.reflections": str(prepared.reflections),
        "tbr.form": exported.form,
        "tbr.weights_digest": weights_digest(job.folder / "model"),
    }
    run.set_tags(facts)
    # Of the fit's numbers, what the tracker missed.
    missed = MetricBuffer(job.run_id, job.folder / "metrics.spool")
    missed.flush()
    if missed.refused is not None:  # a run that is finished is never resumed, so they would stay
        raise missed.refused
    run.log_metrics({f"train/{name}": value for name, value in asdict(exported.done).items()})
    card = model_card(config, prepared, facts, run.metrics(), exported.model.think_format)
    (job.folder / "model" / "README.md").write_text(card)
    run.log_text(card, "model_card.md")
    arm = config.tags.get("tbr.demo_arm", config.reflection.teacher)
    uri = logged_by(run, facts["tbr.weights_digest"])
    if uri is None:
        uri = log_model(exported.model, f"{config.model.name}-{arm}", facts)
    run.set_tags({RECORDED: record(find_model(uri))})
    return Outcome(uri, exported.done.supervised_tokens)


def keep_base(config: TrainConfig, backbone: Backbone, folder: Path) -> None:
    """Keep a base that was made here beside its adapter: it is not available elsewhere."""
    if export_form(config, backbone) == "adapter" and backbone.folder is None:
        backbone.model.save_pretrained(folder / _BASE)


def export_form(config: TrainConfig, tuned: Backbone) -> str:
    """Return ``adapter`` or ``merged``.

    ``auto`` keeps an adapter separate where its base is available (hub, local folder), and merges
    where the base was made here.
    """
    if config.adapter.name == "none":
        return "merged"
    if config.adapter.export != "auto":
        return config.adapter.export
    return "merged" if tuned.folder is None else "adapter"
