"""A limit of open connections and of the time for a request's headers.

Descriptors are kept for the engine and for probes: connections that never end their headers would
otherwise use up all that the process may have.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, cast

HEADERS_TIMEOUT = 10.0  # seconds from a connection's beginning to the end of its first headers
BACKLOG = 100  # connections that are taken from the system at once, before they are counted
_KEPT = 300  # descriptors for the engine, files and those that are taken but not counted yet
_LEAST = 64
_END = b"\r\n\r\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def most_connections() -> int:
    """Return how many connections may be open, by the descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_LEAST, min(soft - _KEPT, 10_000))


class Limiter:
    """Makes the protocol of each connection, and counts the open ones.

    Args:
        handler: Makes aiohttp's protocol of one connection.
        most: Maximum number open at once. At the limit the oldest one whose first headers are not
            complete makes room; if there is none, the new one is refused with status 503.
    """

    def __init__(self, handler: Callable[[], asyncio.Protocol], most: int) -> None:
        self.handler, self.most = handler, most
        self.open = 0
        self.waiting: dict[Limited, None] = {}  # the oldest first

    def __call__(self) -> Limited:
        """Return the protocol of a new connection."""
        return Limited(self)


class Limited(asyncio.Protocol):
    """One connection: aiohttp's protocol, once it is let in."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = b""
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or refuse it."""
        limiter, self._transport = self._limiter, cast("asyncio.Transport", transport)
        if limiter.open >= limiter.most and limiter.waiting:
            next(iter(limiter.waiting)).drop()
        if limiter.open >= limiter.most:
            self._transport.write(_FULL)
            self._transport.close()
            return
        limiter.open += 1
        self._counted = True
        limiter.waiting[self] = None
        self._timer = asyncio.get_running_loop().call_later(HEADERS_TIMEOUT, self.drop)
        self._inner = limiter.handler()
        self._inner.connection_made(transport)

    def drop(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Pass on what came in, and note when the first headers are complete."""
        if self._inner is None:
            return
        if self in self._limiter.waiting:
            self._seen = (self._seen + data)[-len(data) - len(_END) :]
            if _END in self._seen:
                self._settled()
        self._inner.data_received(data)

    def eof_received(self) -> Any:
        """Forward to the wrapped protocol."""
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        inner = self._inner
        self._leave()
        if inner is not None:
            inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Forward to the wrapped protocol."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Forward to the wrapped protocol."""
        if self._inner is not None:
            self._inner.resume_writing()

    def _settled(self) -> None:
        self._limiter.waiting.pop(self, None)
        self._seen = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._settled()
        if self._counted:
            self._counted = False
            self._limiter.open -= 1
