"""The registered model: its versions, and who is challenger, champion and previous."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.tracking.models import LoggedModel, registered_model_id

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


def holder(name: str, alias: str) -> str | None:
    """Return the version that holds an alias, or ``None``."""
    try:
        return str(MlflowClient().get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


def version_of(name: str, model: LoggedModel) -> str:
    """Return the version that registers a logged model, registering it if none does."""
    client = MlflowClient()
    for version in client.search_model_versions(f"name = '{name}'"):
        if registered_model_id(version) == model.model_id:
            return str(version.version)
    with suppress(MlflowException):  # it is registered already
        client.create_registered_model(name)
    made = client.create_model_version(name, model.uri, model.run_id, model_id=model.model_id)
    return str(made.version)


def tag_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags on a version."""
    client = MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def move(name: str, alias: str, version: str) -> None:
    """Give an alias to a version."""
    MlflowClient().set_registered_model_alias(name, alias, version)


def crown(name: str, version: str) -> None:
    """Make a version the champion, and the champion before it the previous one."""
    before = holder(name, CHAMPION)
    if before is not None and before != version:
        move(name, PREVIOUS, before)
    move(name, CHAMPION, version)


def versions(name: str) -> list[dict[str, str]]:
    """Return every version, newest first, with its aliases and the gate's tags."""
    client = MlflowClient()
    aliases: dict[str, list[str]] = {}
    try:
        for alias, version in client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(version), []).append(alias)
        found = client.search_model_versions(f"name = '{name}'")
    except MlflowException:
        return []
    rows = [
        {
            "version": str(item.version),
            "aliases": ", ".join(sorted(aliases.get(str(item.version), []))),
            "model": f"models:/{registered_model_id(item)}",
            "verdict": str(item.tags.get("tbr.verdict", "")),
        }
        for item in found
    ]
    return sorted(rows, key=lambda row: -int(row["version"]))
