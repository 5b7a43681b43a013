"""Credentials in URLs stay out of whatever is logged, stored or printed."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

# A password may hold the sign that ends it: the last one before the path counts.
# USER@HOST is the placeholder in messages that say what to give.
_USER = re.compile(r"://(?!USER@HOST\b)[^/\s'\"]+@")
# As people mistype them: a slash in the password (not a port before a path), or no scheme.
_SLASHED = re.compile(r"://[^/:\s'\"@]+:(?!\d+/)[^\s'\"@]*/[^\s'\"@]*@")
_BARE = re.compile(
    r"(?<![^\s'\"=(\[{,])[\w.%+-]+:[^/\s'\"@][^\s'\"@]*@(?=localhost\b|[\w-]+[.:][\w-])"
)
_QUERY = re.compile(
    r"([?&#;][^=&#;\s]*(?:key|token|secret|pass|pwd|sig|auth|cred)[^=&#;\s]*=)[^&#;\s'\"]+", re.I
)


def without_credentials(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with user, password and keys of every URL replaced by ``***``."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return hidden(value) if isinstance(value, str) else value

    return {key: clean(item) for key, item in settings.items()}


def hidden(text: str) -> str:
    """Return a text with user, password and keys of every URL in it replaced by ``***``."""
    for users, plain in ((_USER, "://***@"), (_SLASHED, "://***@"), (_BARE, "***@")):
        text = users.sub(plain, text)
    return _QUERY.sub(r"\1***", text)


def shown_url(url: str) -> str:
    """Return the scheme, host and path of a URL: what names an endpoint."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
