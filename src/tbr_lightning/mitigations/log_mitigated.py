"""A mitigated model, logged in MLflow as a whole one that promotion and serving read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.data.cache import content_key
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.external_models import logged_before
from tbr_lightning.evaluation.judges.loading import identity
from tbr_lightning.evaluation.respond import EvaluatedModel, load_model, with_mitigation
from tbr_lightning.evaluation.suites import digest, load_suite
from tbr_lightning.models.digest import RECORDED, record
from tbr_lightning.models.export import export, weights_digest
from tbr_lightning.models.logged import find_model, log_model
from tbr_lightning.models.precision import name_of
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.store import connect

_KEY = "tbr.mitigation_key"
"""Tag: the hash of the model's files and type, the mitigation, and what it is found on and by."""


def kept(config: EvaluateConfig) -> EvaluateConfig:
    """Log each model of an evaluation with its mitigation on; return an evaluation of those.

    Raises:
        UserError: The mitigation cannot be kept, or does not fit the model.
    """
    mitigation = config.mitigation
    if mitigation.unservable:
        raise UserError(f"mitigation={mitigation.name} {mitigation.unservable}")
    mitigation.check(config)
    connect(config.tracking)
    uris = [keep(config, model) for model in config.models]
    tags = {**config.tags, "tbr.mitigation": mitigation.name}
    return replace(config, model_uri=uris if len(uris) > 1 else uris[0], mitigation=None, tags=tags)


def keep(config: EvaluateConfig, model: str) -> str:
    """Log one model with the mitigation on, unless that was done before; return its URI."""
    mitigation, asked = config.mitigation, config.generation
    # Of the same type as where it is only evaluated.
    subject = load_model(model, config.paths, config.endpoint, asked.arm, asked.dtype)
    with_mitigation(subject, config)  # refuses an endpoint
    key = _key(config, subject)
    if subject.logged is not None:
        found = logged_before("mitigate", {_KEY: key})
        if found is not None:
            return found.uri
    changed = mitigation.apply(subject.backbone, config)
    title = f"{subject.name} with {mitigation.name}"
    facts = {
        "tbr.mitigation": mitigation.name,
        "tbr.mitigated": subject.name,
        "tbr.base": subject.model.origin,
        "tbr.form": "merged",
        _KEY: key,
    }
    with start_run("mitigate", title, config, config.tracking, facts) as opened:
        folder = Path(config.paths.runs).absolute() / opened.id / "model"
        dtype = name_of(changed.model.dtype)
        exported = export(changed, folder, dtype=dtype)
        facts["tbr.weights_digest"] = weights_digest(folder)
        uri = log_model(exported, f"{mitigation.name}", facts)
        opened.set_tags({RECORDED: record(find_model(uri))})
        print(f"{title}: {uri}, folder {folder}", flush=True)
    return uri


def _key(config: EvaluateConfig, subject: EvaluatedModel) -> str:
    dtype = name_of(subject.backbone.model.dtype)
    if not config.mitigation.uses_dev:
        return content_key(subject.digest, config.mitigation.identity, dtype)
    # Who labels the answers, and how the prompts are put, decide which direction is found.
    found_on = digest(load_suite(replace(config.suite, half="dev")))
    how = [identity(config.judge), config.generation.arm]
    return content_key(subject.digest, config.mitigation.identity, found_on, how, dtype)
