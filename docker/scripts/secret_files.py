"""Secrets that come as files: ``NAME_FILE`` names the file whose content becomes ``NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from starting import StartError

NAMES = ("TBR_SERVE_TOKEN", "PGPASSWORD", "MLFLOW_TRACKING_PASSWORD", "OPENAI_API_KEY", "HF_TOKEN")
"""Environment variables that may come as a file."""


def read_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with every ``NAME_FILE`` replaced by ``NAME``.

    Args:
        environment: The process's environment.

    Raises:
        StartError: A file is missing, unreadable, empty or of several lines, or ``NAME`` and
            ``NAME_FILE`` are both set.
    """
    result = dict(environment)
    for name in NAMES:
        given = result.pop(f"{name}_FILE", "")
        if not given:
            continue
        if result.get(name):
            raise StartError(f"{name} and {name}_FILE are both set: unset one of them")
        try:
            text = Path(given).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise StartError(
                f"{name}_FILE={given} cannot be read ({error.strerror}): run `make secrets`, or "
                "mount the file where this user may read it"
            ) from error
        except UnicodeDecodeError as error:
            raise StartError(f"{name}_FILE={given} is not text: write the secret anew") from error
        if not text:
            raise StartError(f"{name}_FILE={given} is empty: write the secret into it")
        if len(text.split()) > 1:
            raise StartError(f"{name}_FILE={given} holds several words: write the secret alone")
        result[name] = text
    return result
