"""Credentials in URLs stay out of whatever is logged or printed."""

from __future__ import annotations

import re
from typing import Any


def without_credentials(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with the user and password of every URL replaced by ``***``."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return re.sub(r"://[^/@\s]+@", "://***@", value) if isinstance(value, str) else value

    return {key: clean(item) for key, item in settings.items()}
