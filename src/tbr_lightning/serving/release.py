"""What is served: a model of the registry, found by its URI and checked by its digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.tracking.models import LoggedModel, find_model

_ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")
_VERSION = re.compile(r"models:/([^/@]+)/(\d+)")


@dataclass(frozen=True)
class Release:
    """A model under the name that it is served by.

    Attributes:
        model: It.
        name: Of the registered model; the model's id, if it was named by that.
        version: In the registry, or ``None``.
        alias: That led to it, or ``None``.
    """

    model: LoggedModel
    name: str
    version: str | None = None
    alias: str | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name}/{self.version}" if self.version else self.name

    def answers_to(self, name: str) -> bool:
        """Tell whether a request that names ``name`` means this model."""
        known = {self.name, self.title, self.model.model_id}
        if self.alias:
            known.add(f"{self.name}@{self.alias}")
        return name.removeprefix("models:/") in known


def follows(uri: str) -> bool:
    """Tell whether a URI may come to mean another model."""
    return _ALIAS.fullmatch(uri) is not None


def resolve(uri: str) -> Release:
    """Return the release that a URI means now.

    Raises:
        UserError: There is none.
    """
    if match := _ALIAS.fullmatch(uri):
        name, alias = match.groups()
        try:
            version = str(MlflowClient().get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"model='{uri}' is not in this store: {reason}; promote a model first, or give "
                f"models:/{name}/VERSION"
            ) from error
        return Release(find_model(f"models:/{name}/{version}"), name, version, alias)
    model = find_model(uri)
    if match := _VERSION.fullmatch(uri):
        return Release(model, match[1], match[2])
    return Release(model, model.model_id)


def verified(release: Release, folder: Path) -> str:
    """Return the digest of a release's files after comparing it with what is recorded.

    Raises:
        UserError: They are not the files that were promoted, or logged.
    """
    from tbr_lightning.modeling.export import weights_digest

    found = weights_digest(folder)
    expected = release.model.tags.get("tbr.weights_digest")
    if expected is None:
        raise UserError(
            f"{release.title} has no recorded digest to check its weights by: promote it, or "
            "serve it unchecked with verify=false"
        )
    if found != expected:
        raise UserError(
            f"the weights of {release.title} in {folder} are not those that were recorded "
            f"(SHA-256 {found[:12]}…, recorded {expected[:12]}…): remove that folder to fetch "
            "them again, and find out who changed them"
        )
    return found
