"""External models, a folder or a hub id, logged once so that registry and serving read them."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.data.cache import content_key
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.respond import load_model
from tbr_lightning.evaluation.store import weights_identity
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.digest import RECORDED, check_unchanged, record
from tbr_lightning.models.export import export, weights_digest
from tbr_lightning.models.logged import LoggedModel, find_model, log_model
from tbr_lightning.models.precision import name_of
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.search import find_run

_KEY = "tbr.imported_key"
"""Tag: the hash of what was logged, by which it is found again."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def logged_model(
    name: str, config: Any, tracking: TrackingConfig, paths: PathsConfig
) -> LoggedModel:
    """Return the logged model of a name; one that is not logged yet is logged first, in a run.

    An adapter is merged into its base, so that the logged model is complete.

    Args:
        name: A model URI, a run id, a folder, a GGUF file or a hub id.
        config: Config whose settings the run shows.
        tracking: Tracking config of the run.
        paths: Folders.

    Raises:
        UserError: There is no such model, or its files are not available.
    """
    if not _is_elsewhere(name):
        return find_model(name)
    backbone = load_model(name, paths).backbone
    key = _key(name, backbone)
    if (found := logged_before("import", {_KEY: key})) is not None:
        return found
    print(f"{name} is not logged yet: its files are copied to the artifact store", file=sys.stderr)
    facts = {"tbr.base": backbone.origin, "tbr.form": "merged", "tbr.imported": name, _KEY: key}
    with start_run("import", f"import {name}", config, tracking, facts) as opened:
        folder = Path(paths.runs).absolute() / opened.id / "model"
        dtype = name_of(backbone.model.dtype)
        try:
            exported = export(backbone, folder, dtype=dtype)
            facts["tbr.weights_digest"] = weights_digest(folder)
            made = find_model(log_model(exported, "imported", facts))
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)
        opened.set_tags({RECORDED: record(made)})
    return find_model(made.uri)


def _is_elsewhere(name: str) -> bool:
    path = name.startswith((".", "/", "~")) or name.endswith(".gguf") or Path(name).is_dir()
    return path or _HUB_ID.fullmatch(name) is not None


def _key(name: str, backbone: Backbone) -> str:
    """Return a hash of the weights and the tokenizer as they were loaded."""
    return content_key(name, weights_identity(backbone))


def logged_before(stage: str, tags: Mapping[str, str]) -> LoggedModel | None:
    """Return the model that an earlier run has logged, if its files are still those.

    Args:
        stage: Stage of the run.
        tags: Other tags of the run.
    """
    run_id = find_run({"tbr.stage": stage, **tags})
    if run_id is None:
        return None
    try:
        model = find_model(run_id)
        check_unchanged(model)
    except UserError:
        return None
    return model
