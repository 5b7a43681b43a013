"""Who may ask."""

from __future__ import annotations

import hmac
import re

from aiohttp import web

from tbr_lightning.config.serve import is_loopback
from tbr_lightning.serving.problems import RequestError

_PUBLIC = ("/health", "/live")
"""For load balancers, which have no token; they say no more than which model is served."""


def admit(request: web.Request, token: bytes | None) -> None:
    """Let a request pass, or say why not.

    Args:
        request: Its path, ``Host`` and ``Authorization`` decide.
        token: The bearer token; without one only requests to a loopback host pass.

    Raises:
        RequestError: 401 or 403.
    """
    if token is None:
        # Without a token a web page could reach the server under a name of its own.
        if not is_loopback(re.sub(r":\d+$", "", request.host).strip("[]")):
            raise RequestError(403, "this server answers requests to a loopback host only")
        return
    if request.path in _PUBLIC:
        return
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(errors="replace"), token)
    if kind.lower() != "bearer" or not right:
        raise RequestError(
            401,
            "the bearer token is missing or wrong",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
