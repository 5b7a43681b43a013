"""The registered model in MLflow: its versions, its aliases, and what is written on them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.models.logged import LoggedModel, find_model, registered_model_id

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
ALIASES = (PREVIOUS, CHAMPION, CHALLENGER)
"""Those that the ledger decides, in the order in which they are moved; others are left alone."""

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class Registered:
    """A registered model.

    Attributes:
        aliases: Version that holds each of :data:`ALIASES`.
        tags: Tags on the registered model.
    """

    aliases: dict[str, str]
    tags: dict[str, str]


def registered(name: str) -> Registered | None:
    """Return the registered model of a name, or ``None``."""
    try:
        found = MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise
    holders = {alias: str(version) for alias, version in found.aliases.items()}
    return Registered(
        {alias: holders[alias] for alias in ALIASES if alias in holders},
        dict(found.tags),
    )


def unknown(name: str) -> UserError:
    """Return the error that no model of this name is registered, with the names that there are."""
    names = [one.name for one in MlflowClient().search_registered_models(max_results=10)]
    others = f", or give one of {', '.join(names)}" if names else ""
    return UserError(f"name='{name}' is not registered: promote a model first{others}")


def holder(name: str, alias: str) -> str | None:
    """Return the version that holds an alias, or ``None``.

    Raises:
        MlflowException: The registry does not answer.
    """
    try:
        return str(MlflowClient().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise


def model_of(name: str, version: str) -> LoggedModel:
    """Return the logged model behind a version.

    Raises:
        UserError: There is no such version, or its model is gone.
    """
    return find_model(f"models:/{name}/{version}")


def registered_ids(name: str) -> dict[str, str]:
    """Return which logged model each version registers."""
    found = MlflowClient().search_model_versions(f"name = '{name}'")
    return {str(version.version): registered_model_id(version) for version in found}


def known_version(name: str, model: LoggedModel) -> str | None:
    """Return the version that registers a logged model, or ``None``; of several the first."""
    known = [int(one) for one, id_ in registered_ids(name).items() if id_ == model.model_id]
    return str(min(known)) if known else None


def version_of(name: str, model: LoggedModel) -> str:
    """Return the version that registers a logged model, registering it if none does."""
    client = MlflowClient()
    with suppress(MlflowException):  # it is registered already
        client.create_registered_model(name)
    if known := known_version(name, model):
        return known
    made = client.create_model_version(name, model.uri, model.run_id, model_id=model.model_id)
    return str(made.version)


def tag_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags on a version."""
    client = MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def describe_version(name: str, version: str, markdown: str) -> None:
    """Set the description that a version's page shows."""
    MlflowClient().update_model_version(name, version, markdown)


def describe_model(name: str, markdown: str) -> None:
    """Set the description that the registered model's page shows."""
    MlflowClient().update_registered_model(name, markdown)


def tag_model(name: str, key: str, value: str) -> None:
    """Set a tag on the registered model."""
    MlflowClient().set_registered_model_tag(name, key, value)


def move(name: str, alias: str, version: str | None) -> None:
    """Give an alias to a version, or remove it; a version that was deleted gets none."""
    client = MlflowClient()
    if version is None:
        client.delete_registered_model_alias(name, alias)
        return
    try:
        client.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise


def versions(name: str) -> list[dict[str, str]]:
    """Return every version, newest first, with its aliases, model and tags' last decision."""
    there = registered(name)
    if there is None:
        return []
    rows = [
        {
            "version": str(item.version),
            "aliases": ", ".join(a for a, v in there.aliases.items() if v == str(item.version)),
            "model": f"models:/{registered_model_id(item)}",
            "verdict": str(item.tags.get("tbr.verdict", "")),
        }
        for item in MlflowClient().search_model_versions(f"name = '{name}'")
    ]
    return sorted(rows, key=lambda row: -int(row["version"]))
