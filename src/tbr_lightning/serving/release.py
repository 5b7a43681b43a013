"""The served model: found by its URI in the registry, with what the ledger records of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.models.logged import LoggedModel, find_model
from tbr_lightning.outages import refused
from tbr_lightning.tracking.signing import PUBLIC, keys_of

_ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")
_VERSION = re.compile(r"models:/([^/@]+)/(\d+)")


@dataclass(frozen=True)
class Release:
    """A model with the name that it is served by.

    Attributes:
        model: The model to serve.
        name: Name of the registered model; the model's id, if it was named by that.
        version: Version in the registry, or ``None``.
        alias: Alias that led to it, or ``None``.
    """

    model: LoggedModel
    name: str
    version: str | None = None
    alias: str | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name}/{self.version}" if self.version else self.name

    def is_same(self, other: Release) -> bool:
        """Return whether another release is the same version and model, whatever its tags say."""
        mine = (self.name, self.version, self.alias, self.model.model_id)
        return mine == (other.name, other.version, other.alias, other.model.model_id)

    def answers_to(self, name: str) -> bool:
        """Return whether a request that names ``name`` means this model."""
        known = {self.name, self.title, self.model.model_id}
        if self.alias:
            known.add(f"{self.name}@{self.alias}")
        return name.removeprefix("models:/") in known


def follows(uri: str) -> bool:
    """Return whether a URI may come to mean another model."""
    return _ALIAS.fullmatch(uri) is not None


def resolve(uri: str) -> Release:
    """Return the release that a URI means now.

    Raises:
        UserError: There is no such model.
        OutageError: The store does not answer.
    """
    if match := _ALIAS.fullmatch(uri):
        name, alias = match.groups()
        try:
            version = str(MlflowClient().get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            raise refused(
                error,
                f"model='{uri}' is not in this store: {first_line(error)}; promote a model first, "
                f"or give models:/{name}/VERSION",
            ) from error
        return Release(find_model(f"models:/{name}/{version}"), name, version, alias)
    model = find_model(uri)
    if match := _VERSION.fullmatch(uri):
        return Release(model, match[1], match[2])
    return Release(model, model.model_id)


@dataclass(frozen=True)
class Recorded:
    """What the ledger has of a release.

    Attributes:
        digest: Digest of its files; ``None`` if there is none.
        is_signed: Whether an entry is signed.
        is_refused: Whether the gate's last decision on it was to refuse it.
    """

    digest: str | None = None
    is_signed: bool = False
    is_refused: bool = False


def recorded(release: Release, tracking: TrackingConfig, paths: PathsConfig) -> Recorded:
    """Return what the ledger has of a release.

    Raises:
        UserError: The ledger is broken, or has the alias on another version, or another model
            behind the version; a file of public keys was named, and nothing signed with them says
            what the release is.
    """
    keys = keys_of(paths)
    unnamed = UserError(
        f"no signed entry of the ledger names {release.title}, and {PUBLIC} is set, so that only "
        "what is signed counts: promote it, or serve it with verify=false"
    )
    if release.version is None:
        if keys.required:
            raise unnamed
        return Recorded()
    from tbr_lightning.registry.alias_sync import DECISIONS, followed
    from tbr_lightning.registry.aliases import ALIASES, registered
    from tbr_lightning.registry.entry import aliases_after, models_after, weights_after
    from tbr_lightning.registry.ledger import Ledger, ledger_url, unsigned

    ledger = Ledger(ledger_url(tracking), keys, write=False)
    # The tag first: what is appended meanwhile has not been followed yet.
    there = registered(release.name)
    entries = ledger.entries(release.name)
    cut = followed(there, entries)[1] if there is not None else None
    if problem := ledger.problem(entries) or cut or ledger.put_back(release.name, entries):
        elsewhere = "" if entries else ", or name the ledger with tracking.ledger=URL"
        raise UserError(f"the ledger is not intact ({problem}): see 'promote verify'{elsewhere}")
    if entries and release.alias in ALIASES:
        holder = aliases_after(entries).get(release.alias)
        if holder != release.version:
            raise UserError(
                f"the alias {release.alias} of {release.name} points at version {release.version}, "
                f"the ledger records {holder or 'nobody'}: see 'promote status'"
            )
    model = models_after(entries).get(release.version, release.model.model_id)
    if model != release.model.model_id:
        raise UserError(
            f"version {release.version} of {release.name} is {release.model.uri}, the ledger "
            f"decided on models:/{model}: see 'promote status'"
        )
    known = weights_after(entries).get(release.version)
    if known is None and keys.required:
        raise unnamed
    decided = [e.action for e in entries if e.version == release.version and e.action in DECISIONS]
    return Recorded(known, unsigned(entries) < len(entries), decided[-1:] == ["refuse"])
