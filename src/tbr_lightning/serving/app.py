"""The HTTP side: who may ask, what goes on to the engine, and errors in OpenAI's format."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import aiohttp
from aiohttp import web
from mlflow.exceptions import MlflowException

from tbr_lightning.config.serve import ServeConfig, is_loopback
from tbr_lightning.errors import first_line
from tbr_lightning.evaluation.judges.rules import rules
from tbr_lightning.serving.chat_page import chat_page
from tbr_lightning.serving.connections import Bodies, Handler, Limiter
from tbr_lightning.serving.feedback import Answers
from tbr_lightning.serving.problems import RequestError, translated, unavailable
from tbr_lightning.serving.replica import Replica, post
from tbr_lightning.serving.request import ChatRequest, label_of, model_in, parse
from tbr_lightning.serving.response import ReplyStats, Stream, leaks, rewrite
from tbr_lightning.serving.rollout import Deployment, described
from tbr_lightning.serving.traces import TraceLog, answered
from tbr_lightning.serving.weights import unknown_words

log = logging.getLogger(__name__)


def make_app(
    deployment: Deployment,
    beside: Deployment | None = None,
    traces: TraceLog | None = None,
    limiter: Limiter | None = None,
) -> web.Application:
    """Return the application in front of a deployment's engines.

    Args:
        deployment: Deployment that gets the requests.
        beside: Deployment that gets those that name its model and not the first one's.
        traces: Log that keeps answers as traces; ``None`` keeps none.
        limiter: Limiter of the connections that requests come on.
    """
    server = _Server(deployment, beside, traces or TraceLog(0, deployment.metrics))
    app = web.Application(
        client_max_size=deployment.config.max_request_bytes,
        middlewares=[*([limiter.middleware] if limiter else []), server.guarded],
    )
    app.router.add_get("/", chat_page)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/v1/feedback", server.feedback)
    app.router.add_get("/v1/models", server.models)
    app.router.add_get("/v1/models/{name:.+}", server.model)
    app.router.add_get("/health", server.health)
    app.router.add_get("/live", server.live)
    app.router.add_get("/metrics", server.metrics)
    return app


_SMALL = 4096  # bytes of a body that is read, and counted in tokens, at once
_LAST_WORDS = 1.0  # seconds for the end of a stream, beyond a request's own time


class _Server:
    def __init__(self, deployment: Deployment, beside: Deployment | None, traces: TraceLog) -> None:
        self._deployment, self._beside = deployment, beside
        self._answers, self._traces = Answers(traces), traces
        self._config: ServeConfig = deployment.config
        self._metrics = deployment.metrics
        token = self._config.token()
        self._token = None if token is None else token.encode()
        self._bodies = Bodies(self._config.max_in_flight, self._config.timeout)
        self._numbers = itertools.count(1)
        self._open = 0
        self._parsing = asyncio.Semaphore(2)
        self._started = int(time.time())
        self._series = secrets.token_hex(4)

    @web.middleware
    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let permitted requests in, and turn every failure into an error in OpenAI's format."""
        try:
            admit(request, self._token)
            return await handler(request)
        except RequestError as error:
            return error.reply()
        except web.HTTPRequestEntityTooLarge:
            limit = self._config.max_request_bytes
            return RequestError(413, f"the request is larger than {limit} bytes").reply()
        except web.HTTPNotFound:
            return RequestError(404, f"there is no {request.path} here").reply()
        except web.HTTPMethodNotAllowed as error:
            text = f"{request.method} is not allowed on {request.path}"
            allowed = ", ".join(sorted(error.allowed_methods))
            return RequestError(405, text, headers={"Allow": allowed}).reply()
        except (ConnectionResetError, asyncio.CancelledError):
            raise  # the client went away
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return RequestError(500, "the server failed on this request").reply()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat request through the current version's engine."""
        arrived = time.perf_counter()
        stream, status = "false", 500
        try:
            # A body on its way is no open request: those have a limit of their own.
            raw = await self._body(request)
            deadline = asyncio.get_running_loop().time() + self._config.timeout
            with self._opened():
                replica = await self._chosen(raw)
                # Nothing is awaited between choosing a replica and holding it: it cannot retire.
                with replica.held():
                    ask = await self._parsed(raw, replica, deadline)
                    stream = str(ask.stream).lower()
                    reply = await self._answered(request, replica, ask, arrived, deadline)
            status = reply.status
            return reply
        except TimeoutError as error:
            status = 504
            raise RequestError(
                504, f"no answer within {self._config.timeout:g} seconds", code="timeout"
            ) from error
        except RequestError as error:
            status = error.status
            raise
        except web.HTTPException as error:
            status = error.status
            raise
        except (ConnectionResetError, asyncio.CancelledError):
            status = 499
            raise
        finally:
            self._metrics.requests.labels(str(status), stream).inc()
            self._metrics.seconds.labels(stream).observe(time.perf_counter() - arrived)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Count a request as open, or refuse it."""
        if self._open >= self._config.max_in_flight:
            raise RequestError(
                429, f"{self._open} requests are open: try again", headers={"Retry-After": "1"}
            )
        self._open += 1
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._open -= 1
            self._metrics.in_flight.dec()

    async def _chosen(self, raw: bytes) -> Replica:
        named = None
        if self._beside is not None:
            named = model_in(raw) if len(raw) <= _SMALL else await asyncio.to_thread(model_in, raw)
        return self._replica(named)

    async def _parsed(self, raw: bytes, replica: Replica, deadline: float) -> ChatRequest:
        number = f"chatcmpl-{self._series}-{next(self._numbers)}"
        if len(raw) <= _SMALL:
            return parse(raw, number, self._config, replica.served)
        # Elsewhere and few at once, so that everybody else is answered meanwhile.
        async with asyncio.timeout_at(deadline), self._parsing:
            return await asyncio.to_thread(parse, raw, number, self._config, replica.served)

    async def _body(self, request: web.Request) -> bytes:
        if request.content_type != "application/json":
            raise RequestError(
                415, "the request's Content-Type is not application/json", param="Content-Type"
            )
        if (request.content_length or 0) > self._config.max_request_bytes:
            raise web.HTTPRequestEntityTooLarge(
                max_size=self._config.max_request_bytes, actual_size=request.content_length or 0
            )
        return await self._bodies.read(request)

    def _replica(self, named: str | None) -> Replica:
        replica = self._deployment.current
        second = self._beside.current if self._beside is not None else None
        if (
            named is not None
            and second is not None
            and second.served.release.answers_to(named)
            and (replica is None or not replica.served.release.answers_to(named))
        ):
            replica = second
        if self._deployment.closing:
            raise unavailable("the server is shutting down", 10)
        if replica is None:
            raise unavailable("the model is being loaded", 5)
        if replica.process is None:
            raise unavailable("the engine is being started again", 2)
        return replica

    async def _answered(
        self,
        request: web.Request,
        replica: Replica,
        ask: ChatRequest,
        arrived: float,
        deadline: float,
    ) -> web.StreamResponse:
        process = replica.process
        if process is None:  # it ended while the request was read
            raise unavailable("the engine is being started again", 2)
        headers = {
            "X-Request-ID": ask.number,
            "X-TBR-Model": replica.served.title,
            "X-TBR-Reflection": ask.policy,
        }
        if unknown := unknown_words(replica.served.weights, ask.prompt):
            # Percent-encoded: a header holds ASCII.
            headers["X-TBR-Unknown-Words"] = ",".join(map(quote, unknown))
        if ask.wishes.labels:
            headers["X-TBR-Ignored"] = ",".join(ask.wishes.labels)
        try:
            async with asyncio.timeout_at(deadline):
                reply = await post(process, ask.body, ask.number)
                raw = b"" if ask.stream and reply.status == 200 else await reply.read()
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise unavailable("the engine failed on this request: try again") from error
        async with reply:
            if reply.status != 200:
                raise translated(reply.status, raw)
            if ask.stream:
                return await self._streamed(
                    request,
                    reply,
                    replica,
                    ask,
                    headers=headers,
                    arrived=arrived,
                    deadline=deadline,
                )
        body, facts = rewrite(raw, ask.policy, replica.served, ask.wishes)
        self._count(facts, ask, replica, arrived)
        return web.Response(body=body, headers=headers, content_type="application/json")

    async def _streamed(
        self,
        request: web.Request,
        reply: aiohttp.ClientResponse,
        replica: Replica,
        ask: ChatRequest,
        *,
        headers: dict[str, str],
        arrived: float,
        deadline: float,
    ) -> web.StreamResponse:
        """Forward a reply as it comes. A failure after its head is reported in an event."""
        stream = Stream(ask.policy, replica.served, ask.wishes)
        response = web.StreamResponse(
            headers={**headers, "Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        problem: RequestError | None = None
        first = True
        try:
            async with asyncio.timeout_at(deadline):
                async for data in reply.content.iter_any():
                    if made := stream.feed(data):
                        await response.write(made)
                        if first and b'content":' in made:
                            self._metrics.first_byte.observe(time.perf_counter() - arrived)
                            first = False
            if stream.failed is not None:
                log.error("the engine failed on a request: %s", stream.failed)
                problem = RequestError(500, "the engine failed on this request")
            elif not stream.ended:
                problem = unavailable("the engine stopped in the middle of its answer: try again")
        except TimeoutError:
            seconds = self._config.timeout
            problem = RequestError(504, f"no whole answer within {seconds:g} seconds")
        except aiohttp.ClientConnectionResetError:
            raise  # the client's own connection
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            problem = unavailable("the engine failed on this request: try again")
        if problem is None:
            self._count(stream.facts(), ask, replica, arrived)
        last = b"[DONE]" if problem is None else problem.body()
        end = max(deadline, asyncio.get_running_loop().time() + _LAST_WORDS)
        try:
            async with asyncio.timeout_at(end):
                await response.write(b"data: " + last + b"\n\n")
                await response.write_eof()
        except TimeoutError as error:  # a client that does not read would keep its place for ever
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client does not read its reply") from error
        return response

    def _count(self, facts: ReplyStats, ask: ChatRequest, replica: Replica, arrived: float) -> None:
        reply = answered(ask, facts, replica, time.perf_counter() - arrived)
        self._traces.offer(reply)
        self._answers.keep(reply)
        metrics = self._metrics
        metrics.tokens.labels("prompt").inc(facts.prompt_tokens)
        metrics.tokens.labels("completion").inc(facts.completion_tokens)
        metrics.answers.labels(ask.policy).inc()
        if facts.reflection is not None:
            metrics.reflections.labels(ask.policy).inc()
        if leaks(replica.served.weights.think_format, facts.answer):
            metrics.leaks.inc()
        if self._config.count_refusals:
            verdict = rules(facts.answer, cut=facts.cut, prompt=ask.prompt)
            metrics.labels.labels(verdict.label).inc()

    async def feedback(self, request: web.Request) -> web.Response:
        """Write a person's label of a reply to MLflow."""
        number, right = label_of(await self._body(request))
        if number not in self._answers:
            text = f"the reply '{number}' is not remembered: the newest replies can be labelled"
            raise RequestError(404, text, param="id")
        try:
            trace = await self._answers.label(number, right=right)
        except (MlflowException, OSError) as error:
            log.error("a label was not written: %s", first_line(error))
            raise unavailable("MLflow did not take the label: try again", 10) from error
        return web.json_response({"id": number, "right": right, "trace": trace})

    async def models(self, request: web.Request) -> web.Response:
        """List the served models."""
        return web.json_response({"object": "list", "data": self._described()})

    async def model(self, request: web.Request) -> web.Response:
        """Describe a served model under one of its names."""
        name = request.match_info["name"]
        for deployment, found in zip(self._up(), self._described(), strict=True):
            replica = deployment.current
            if replica is not None and replica.served.release.answers_to(name):
                return web.json_response(found)
        text = f"the model '{name}' is not served here"
        raise RequestError(404, text, param="model", code="model_not_found")

    def _up(self) -> list[Deployment]:
        both = [self._deployment, *([self._beside] if self._beside is not None else [])]
        return [one for one in both if one.current is not None]

    def _described(self) -> list[dict[str, object]]:
        return described([one.current for one in self._up() if one.current], self._started)

    async def health(self, request: web.Request) -> web.Response:
        """Report whether requests are answered now, and by which version."""
        ready, found = self._deployment.status()
        if self._beside is not None:
            found["beside"] = self._beside.status()[1]
        return web.json_response(found, status=200 if ready else 503)

    async def live(self, request: web.Request) -> web.Response:
        """Report that the server itself runs, with or without its engine."""
        return web.json_response({"status": "ok"})

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the counters."""
        from tbr_lightning.serving.metrics import CONTENT_TYPE

        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})


_PUBLIC = ("/", "/health", "/live")
"""For browsers and load balancers, which have no token: they say no more than what is served."""


def admit(request: web.Request, token: bytes | None) -> None:
    """Let a request pass, or raise the error that refuses it.

    Args:
        request: Request whose path, ``Host`` and ``Authorization`` decide.
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
