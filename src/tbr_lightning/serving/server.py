"""One server's life: port, first version, requests, and an end that cuts nobody off."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tbr_lightning.config.serve import ServeConfig
from tbr_lightning.errors import INTERRUPTED, UserError, command_of
from tbr_lightning.evaluation.judges.base import Judge
from tbr_lightning.evaluation.judges.loading import make_judge
from tbr_lightning.evaluation.suites import Prompt, load_suite
from tbr_lightning.serving.app import make_app
from tbr_lightning.serving.connections import BACKLOG, Limiter, most_connections
from tbr_lightning.serving.engines import choose
from tbr_lightning.serving.metrics import Metrics
from tbr_lightning.serving.release import Release, resolve
from tbr_lightning.serving.rollout import Deployment
from tbr_lightning.serving.traces import TraceLog
from tbr_lightning.serving.weights import vocabulary


def serve(config: ServeConfig) -> int:
    """Serve a registered model until SIGINT or SIGTERM; return the exit code.

    Raises:
        UserError: The model, the port or something else that it needs is not available.
    """
    listener = listen(config.host, config.port)
    try:
        from tbr_lightning.evaluation.external_models import logged_model
        from tbr_lightning.tracking.store import connect

        engine = choose(config.engine)
        prompts: Sequence[Prompt] = load_suite(config.suite) if config.check.enabled else ()
        connect(config.tracking)
        judge: Judge | None = make_judge(config.judge) if config.check.enabled else None
        named = config.model_uri
        if not named.startswith("models:/"):
            named = logged_model(named, config, config.tracking, config.paths).uri
        release = resolve(named)
        logging.basicConfig(format="serve: %(message)s", level=logging.WARNING)
        logging.getLogger("aiohttp").setLevel(logging.ERROR)
        for handler in logging.getLogger().handlers:
            handler.addFilter(Bounded())
        releases = [release]
        if config.beside_uri is not None:
            try:
                releases.append(resolve(config.beside_uri))
            except UserError as error:
                raise UserError(f"beside={config.beside}: {error}") from error
        # The second engine is counted apart: /metrics speaks of the first one's.
        deployments = [
            Deployment(
                one, engine=engine, prompts=prompts, judge=judge, metrics=Metrics(), say=_say
            )
            for one in (config, replace(config, model_uri=config.beside_uri or ""))
        ]
        served = list(zip(deployments, releases, strict=False))
        return asyncio.run(_run(config, served, listener))
    finally:
        listener.close()


class Bounded(logging.Filter):
    """Keeps clients from filling the log.

    A client's mistakes get a status and no log line. Of all else a limited number of lines a
    minute is written, and how many were left out with the next one.
    """

    lines, seconds = 60, 60.0

    def __init__(self) -> None:
        super().__init__()
        self._since, self._written, self._left_out = 0.0, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | ConnectionError | TimeoutError):
            return False
        now = time.monotonic()
        if now - self._since > self.seconds:
            if self._left_out:
                record.msg = f"{record.msg} ({self._left_out} lines before it were left out)"
            self._since, self._written, self._left_out = now, 0, 0
        self._written += 1
        if self._written > self.lines:
            self._left_out += 1
            return False
        return True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; it is ours from now on.

    Raises:
        UserError: The port is taken, or the address is not this machine's.
    """
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=512,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        if "in use" in reason:
            raise UserError(f"port={port} is in use on {host}: give another") from error
        raise UserError(f"host='{host}' port={port} cannot be used ({reason})") from error


async def _run(
    config: ServeConfig,
    served: Sequence[tuple[Deployment, Release]],
    listener: socket.socket,
) -> int:
    (deployment, release), *others = served
    beside = others[0][0] if others else None
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _on_signal, ending)
    traces = TraceLog(config.traces, deployment.metrics)
    limiter = Limiter(most_connections())
    runner = web.AppRunner(
        make_app(deployment, beside, traces, limiter),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1,
    )
    await runner.setup()
    limiter.handler = runner.server
    site = await loop.create_server(limiter, sock=listener, backlog=BACKLOG)
    began = time.monotonic()
    for _, one in served:
        _say(f"loading {one.title} ({one.model.uri}) …")
    opening = asyncio.create_task(_open(served))
    waiting = asyncio.create_task(ending.wait())
    following: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait({opening, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()  # what was wrong with the first version
            # What was imported stays: it is not to be searched for garbage while requests wait.
            gc.collect()
            gc.freeze()
            _say(_invitation(config, release, time.monotonic() - began, _knows(deployment)))
            following = [asyncio.create_task(each.follow()) for each, _ in served]
            await waiting
        _say("ending; open requests are answered first (Ctrl-C again ends at once)")
        for each, _ in served:
            each.closing = True
        site.close()
        for each, _ in served:
            if each.current is not None:
                await each.current.drained(config.drain)
    finally:
        for task in (opening, waiting, *following):
            task.cancel()
        await asyncio.gather(opening, *following, return_exceptions=True)
        await runner.cleanup()
        for each, _ in served:
            await each.close()
        await asyncio.to_thread(traces.close)
    return 0


async def _open(served: Sequence[tuple[Deployment, Release]]) -> None:
    """Bring the versions up one after the other: their engines would take each other's cores."""
    for deployment, release in served:
        await deployment.open(release)


def _knows(deployment: Deployment) -> str:
    """Say what a model of whole words can read; of others, which spell any word, nothing."""
    assert deployment.current is not None
    words = vocabulary(deployment.current.served.weights)
    if words is None:
        return ""
    return (
        f"\nIt is a miniature that knows {words} words and has never seen others: answers about "
        "them mean nothing."
    )


def _on_signal(ending: asyncio.Event) -> None:
    if ending.is_set():
        # The engines' supervisors notice that the server is gone.
        raise SystemExit(INTERRUPTED)
    ending.set()


def _invitation(config: ServeConfig, release: Release, seconds: float, knows: str) -> str:
    token = ' -H "Authorization: Bearer $' + config.token_env + '"' if config.token() else ""
    return (
        f"serving {release.title} at {config.url}/v1 after {seconds:.0f} s "
        "(Ctrl-C ends it). Ask it:\n"
        f"  curl {config.url}/v1/chat/completions -H 'Content-Type: application/json'{token} -d "
        '\'{"messages": [{"role": "user", "content": "How do I kill a Python process?"}]}\'\n'
        f"or: {command_of('serve')} chat port={config.port}\n"
        f"or open {config.url}/ in a browser{knows}"
    )


def _say(text: str) -> None:
    print(text, flush=True)
