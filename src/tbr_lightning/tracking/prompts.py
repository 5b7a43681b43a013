"""Prompts of teachers and judges in MLflow's prompt registry, with their versions on each run."""

from __future__ import annotations

import re
import sys
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError, first_line
from tbr_lightning.outages import refused
from tbr_lightning.tracking.run import Run

_URI = re.compile(r"prompts:/([a-zA-Z0-9_.-]+)/(\d+)")
_ANY = "prompts:/"


def in_registry(name: str | None) -> bool:
    """Return whether a prompt is named in the registry rather than as a file."""
    return name is not None and name.startswith(_ANY)


def registered_text(uri: str, field: str) -> str:
    """Return the text of a version in the registry of the store that MLflow is connected to.

    Args:
        uri: ``prompts:/NAME/VERSION``. A version never changes; an alias or the latest version
            may, so that two runs of one config would differ unseen.
        field: The config key that named it, for messages.

    Raises:
        UserError: It names no version, there is none, or its text is a chat.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        raise UserError(f"{field}='{uri}' names no version: give prompts:/NAME/VERSION")
    try:
        version = mlflow.genai.load_prompt(uri, link_to_model=False)
    except MlflowException as error:
        raise refused(error, f"{field}='{uri}' cannot be read: {first_line(error)}") from error
    if not isinstance(version.template, str):
        raise UserError(f"{field}='{uri}' is a list of messages: give a prompt of one text")
    return version.template


def log_prompt(run: Run, role: str, name: str, text: str) -> str | None:
    """Register a prompt unless this text is a version of it already, and link it to a run.

    Args:
        run: Run that uses it.
        role: What it is to the run, as in ``teacher``: names the tag ``tbr.ROLE_prompt``.
        name: Name of the prompt; characters that the registry does not take become ``-``.
        text: Its template.

    Returns:
        The version as ``prompts:/NAME/VERSION``, or ``None`` where the store keeps no prompts; that
        is said.
    """
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", name)
    client = MlflowClient()
    try:
        version = _version_of(client, name, text) or _registered(client, name, text)
        client.link_prompt_version_to_run(run.id, version)
    except (MlflowException, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        print(
            f"the prompt {name} is not in the prompt registry, since the store does not take it "
            f"({first}); its text is kept with the run",
            file=sys.stderr,
        )
        run.log_text(text, f"{role}_prompt.txt")
        return None
    uri = f"{_ANY}{name}/{version.version}"
    run.set_tags({f"tbr.{role}_prompt": uri})
    return uri


def _version_of(client: MlflowClient, name: str, text: str) -> Any | None:
    """Return the first version with this text, or ``None``."""
    found, token = [], None
    if mlflow.genai.load_prompt(name, allow_missing=True, link_to_model=False) is None:
        return None
    while True:
        page = client.search_prompt_versions(name, page_token=token)
        found += [one for one in page if one.template == text]
        token = page.token
        if not token:
            return min(found, key=lambda one: int(one.version), default=None)


def _registered(client: MlflowClient, name: str, text: str) -> Any:
    """Register a version, and take it back if another process registered the text before it."""
    made = mlflow.genai.register_prompt(name, text)
    first = _version_of(client, name, text)
    if first is not None and int(first.version) < int(made.version):
        client.delete_prompt_version(name, str(made.version))
        return first
    return made
