"""Limits of what clients may hold open: connections, and bodies that are on their way.

Descriptors are kept for the engine and for probes: connections that never end their headers, or
that were used once and then fall silent, would otherwise use up all that the process may have.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web

from tbr_lightning.serving.problems import RequestError

HEADERS_TIMEOUT = 10.0  # seconds from a connection's beginning to its first request
IDLE_TIMEOUT = 75.0  # seconds from an answer to the next request on its connection
BODY_TIMEOUT = 30.0  # seconds until a request's body is there
BACKLOG = 100  # connections that are taken from the system at once, before they are counted
_KEPT = 300  # descriptors for the engine, files and those that are taken but not counted yet
_LEAST = 64
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def most_connections() -> int:
    """Return how many connections may be open, by the descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_LEAST, min(soft - _KEPT, 10_000))


class Limiter:
    """Makes the protocol of each connection, and counts the open ones.

    Args:
        most: Maximum number open at once. At the limit the one that has had no request under way
            for longest makes room; if there is none, the new one is refused with status 503.
    """

    def __init__(self, most: int) -> None:
        self.most, self.open = most, 0
        self.idle: dict[Limited, None] = {}  # without a request under way; the oldest first
        self.of: dict[asyncio.Protocol, Limited] = {}
        self.handler: Callable[[], asyncio.Protocol] | None = None

    def __call__(self) -> Limited:
        """Return the protocol of a new connection."""
        return Limited(self)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note that a connection has a request under way, while it is handled."""
        connection = self.of.get(request.protocol)
        if connection is not None:
            connection.begin()
        try:
            return await handler(request)
        finally:
            if connection is not None:
                connection.wait(IDLE_TIMEOUT)


class Limited(asyncio.Protocol):
    """One connection: aiohttp's protocol, once it is let in."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or refuse it."""
        limiter, self._transport = self._limiter, cast("asyncio.Transport", transport)
        if limiter.open >= limiter.most and limiter.idle:
            next(iter(limiter.idle)).drop()
        if limiter.open >= limiter.most or limiter.handler is None:
            self._transport.write(_FULL)
            self._transport.close()
            return
        limiter.open += 1
        self._counted = True
        self._inner = limiter.handler()
        limiter.of[self._inner] = self
        self.wait(HEADERS_TIMEOUT)
        self._inner.connection_made(transport)

    def wait(self, seconds: float) -> None:
        """Note that no request is under way, and end the connection unless one comes in time."""
        self.begin()
        if self._counted:
            self._limiter.idle[self] = None
            self._timer = asyncio.get_running_loop().call_later(seconds, self.drop)

    def begin(self) -> None:
        """Note that a request is under way."""
        self._limiter.idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Pass on what came in."""
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> Any:
        """Forward to the wrapped protocol."""
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._leave()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Forward to the wrapped protocol."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Forward to the wrapped protocol."""
        if self._inner is not None:
            self._inner.resume_writing()

    def _leave(self) -> None:
        self.begin()
        if self._counted:
            self._counted = False
            self._limiter.open -= 1
            if self._inner is not None:
                self._limiter.of.pop(self._inner, None)


class Bodies:
    """Reads the bodies of requests: each within a time, and a limited number at once.

    At the limit the one that has taken longest makes room, so that bodies which come a byte at a
    time do not keep out those that come at once.

    Args:
        most: Maximum number that are read at once.
        seconds: Maximum time until a body is there; at most :data:`BODY_TIMEOUT` counts.
    """

    def __init__(self, most: int, seconds: float = BODY_TIMEOUT) -> None:
        self._most, self._seconds = most, min(seconds, BODY_TIMEOUT)
        self._read: dict[asyncio.Timeout, None] = {}  # the oldest first

    async def read(self, request: web.Request) -> bytes:
        """Return a request's body.

        Raises:
            RequestError: 408, it did not come in time.
            HTTPRequestEntityTooLarge: It is larger than the application allows.
        """
        if len(self._read) >= self._most:
            oldest = next(iter(self._read))
            del self._read[oldest]
            oldest.reschedule(0)
        try:
            async with asyncio.timeout(self._seconds) as limit:
                self._read[limit] = None
                try:
                    return await request.read()
                finally:
                    self._read.pop(limit, None)
        except TimeoutError as error:
            raise RequestError(
                408,
                "the request's body did not come in time: send it at once",
                headers={"Connection": "close"},
            ) from error
