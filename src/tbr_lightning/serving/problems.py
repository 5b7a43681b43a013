"""Errors in the format of OpenAI's API, so that its clients understand them."""

from __future__ import annotations

import json
import logging
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: Status of the HTTP reply.
        kind: Value of ``error.type``.
        param: Name of the field at fault.
        code: Value of ``error.code``, for programs.
        headers: Further headers of the reply.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status, self.param, self.code = status, param, code
        self.kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers = headers or {}

    def reply(self) -> web.Response:
        """Return the reply."""
        return web.Response(
            status=self.status,
            body=self.body(),
            headers=self.headers,
            content_type="application/json",
        )

    def body(self) -> bytes:
        """Return the reply's body."""
        return json.dumps({"error": self.as_dict()}).encode()

    def as_dict(self) -> dict[str, Any]:
        """Return the error itself."""
        return {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def unavailable(text: str, seconds: int = 2) -> RequestError:
    """Return the error of a server that can answer again soon."""
    return RequestError(503, text, code="engine_unavailable", headers={"Retry-After": str(seconds)})


def translated(status: int, body: bytes) -> RequestError:
    """Return an engine's error as ours; the engine's own message is only logged."""
    told = body[:500].decode(errors="replace")
    if status == 503:
        return unavailable("the engine is out of order and will be started again")
    if 400 <= status < 500:
        try:
            found = json.loads(body)
            told = str(found.get("detail") or found.get("error") or found.get("message") or told)
        except ValueError:
            pass
        return RequestError(400, f"the engine refused the request: {told[:300]}")
    log.error("the engine answered HTTP %d: %s", status, told)
    return RequestError(500, "the engine failed on this request")
