"""Logged models: written once by training, found again by URI."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError, first_line
from tbr_lightning.outages import refused
from tbr_lightning.reports import names
from tbr_lightning.tracking.run import Run

if TYPE_CHECKING:
    from tbr_lightning.models.backbone import Backbone

_REQUIREMENTS = ("torch", "transformers", "mlflow")

TRAINED_ROWS = "tbr.trained_rows"
"""Tag: the hash of which rows a model was trained on; arms of one comparison share it."""

LAYOUT = "tbr_layout"
"""In a logged model's metadata: the think format."""


@dataclass(frozen=True)
class LoggedModel:
    """A model in MLflow.

    Attributes:
        model_id: MLflow's id, ``m-…``.
        run_id: The training run that logged it.
        tags: Facts logged with it.
    """

    model_id: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """The URI that names exactly this model."""
        return f"models:/{self.model_id}"


def called(model: LoggedModel) -> str:
    """Return the display name of a logged model: what was done to it, its base and its seed.

    Without the training run's params it is the id, shortened to what tells models apart.
    """
    short = re.sub(r"^(m-[0-9a-f]{8})[0-9a-f]{24}$", r"\1", model.model_id)
    try:
        params = MlflowClient().get_run(model.run_id).data.params
    except MlflowException:  # it was logged outside a run, or that run is deleted
        return short
    name, seed = params.get("model.name"), params.get("seed")
    if name is None or seed is None:
        return short
    base = names.base_of(name, params.get("model.hub_id"), params.get("model.path"))
    return f"{names.arm_of(params)} ({base}, seed {seed})"


def log_model(backbone: Backbone, name: str, tags: Mapping[str, str]) -> str:
    """Log a model on the open run and return its URI, ``models:/m-…``.

    ``mlflow.pyfunc.load_model`` loads it as a chat model; its ``model`` (of an adapter, ``peft``)
    and ``components/tokenizer`` folders are in Hugging Face's own format.
    """
    adapter = hasattr(backbone.model, "peft_config")
    packages = (*_REQUIREMENTS, "peft") if adapter else _REQUIREMENTS
    versions = [f"{pkg}=={importlib.metadata.version(pkg)}" for pkg in packages]
    info = mlflow.transformers.log_model(
        # A dict, not a folder: MLflow refuses a folder with this task.
        transformers_model={"model": backbone.model, "tokenizer": backbone.tokenizer},
        name=name,
        task="llm/v1/chat",
        # Given, since inferring them runs the model in a process of its own.
        pip_requirements=versions,
        tags=dict(tags),
        # Of an adapter the base's weights stay where they are. MLflow's own reference to the hub
        # would leave out our tokenizer, which carries the templates.
        base_model_path=str(backbone.folder) if adapter else None,
        metadata={LAYOUT: backbone.think_format.as_dict()},
    )
    return f"models:/{info.model_id}"


def find_model(uri: str) -> LoggedModel:
    """Return the logged model that a URI or a run id names.

    Args:
        uri: ``models:/NAME@alias``, ``models:/NAME/3``, ``models:/m-…`` or a run's id.

    Raises:
        UserError: There is no such model.
        OutageError: The store does not answer.
    """
    client = MlflowClient()
    try:
        if re.fullmatch(r"[0-9a-f]{32}", uri):
            outputs = client.get_run(uri).outputs.model_outputs
            if not outputs:
                raise UserError(f"model='{uri}': that run logged no model: give a training run")
            model_id = outputs[-1].model_id
        elif match := re.fullmatch(r"models:/(m-[0-9a-f]+)", uri):
            model_id = match[1]
        elif match := re.fullmatch(r"models:/([^/@]+)@([^/@]+)", uri):
            model_id = registered_model_id(client.get_model_version_by_alias(match[1], match[2]))
        elif match := re.fullmatch(r"models:/([^/@]+)/(\d+)", uri):
            model_id = registered_model_id(client.get_model_version(match[1], match[2]))
        else:
            raise UserError(
                f"model='{uri}' is not a model URI: write models:/NAME@alias, models:/NAME/3 or "
                "models:/m-…"
            )
        found = client.get_logged_model(model_id)
    except MlflowException as error:
        raise refused(error, f"model='{uri}' is not in this store: {first_line(error)}") from error
    return LoggedModel(found.model_id, found.source_run_id, dict(found.tags))


def logged_by(run: Run, weights: str) -> str | None:
    """Return the URI of the model that a run logged whole before it was interrupted, or ``None``.

    Args:
        run: Run that logs it.
        weights: Digest of the weights that it exported.
    """
    client = MlflowClient()
    found = client.search_logged_models(
        [client.get_run(run.id).info.experiment_id], filter_string=f"source_run_id = '{run.id}'"
    )
    for model in found:
        ready = model.status == LoggedModelStatus.READY
        if ready and model.tags.get("tbr.weights_digest") == weights:
            return f"models:/{model.model_id}"
    return None


def registered_model_id(version: Any) -> str:
    """Return the logged model behind a version; the SQL stores keep it in ``source`` alone."""
    return str(version.model_id or version.source.removeprefix("models:/"))
