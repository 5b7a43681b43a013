"""One version with its engine: brought up, asked, kept alive, retired."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from tbr_lightning.config.serve import ServeConfig
from tbr_lightning.errors import UserError
from tbr_lightning.serving.engines import Engine, Served
from tbr_lightning.serving.files import (
    Checked,
    check,
    copied,
    digest_of_copy,
    fetch,
    forget,
    lay_out,
    remove_left,
)
from tbr_lightning.serving.metrics import Metrics
from tbr_lightning.serving.process import EngineProcess, socket_in
from tbr_lightning.serving.release import Release
from tbr_lightning.serving.weights import Weights

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0
_STEADY = 60.0  # seconds after which an engine's failure starts a new series
_numbers = itertools.count(1)


@dataclass
class Replica:
    """A release with its engine.

    Attributes:
        served: Release, weights and engine.
        files: Files that it was made of, and what they were compared with.
        process: Process of the engine; ``None`` while it is being restarted.
        in_flight: Number of requests that it is answering.
        restarts: Number of restarts of its engine.
    """

    served: Served
    files: Checked
    process: EngineProcess | None = None
    in_flight: int = 0
    restarts: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Count a request for as long as it is open."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def drained(self, seconds: float) -> bool:
        """Wait until no request is open, for at most ``seconds``."""
        if not self.in_flight:
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def launch(self, config: ServeConfig) -> None:
        """Start the engine.

        Raises:
            EngineError: The engine does not come up.
        """
        home = self.served.weights.folder.parent
        socket = socket_in(home, next(_numbers))
        command = self.served.engine.command(self.served.weights, socket, config.engine_args)
        self.process = await EngineProcess.start(
            command, socket, home, config.token_env, config.start_timeout
        )

    async def keep_alive(self, config: ServeConfig, metrics: Metrics) -> None:
        """Restart the engine whenever it fails, after a pause that grows."""
        pause = 1.0
        while True:
            started = time.monotonic()
            if self.process is not None:
                reason = await self.process.failure()
                log.error("%s: %s; starting it again", self.served.title, reason)
                broken, self.process = self.process, None
                metrics.up.set(0)
                await broken.stop()
            if time.monotonic() - started > _STEADY:
                pause = 1.0
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                if config.verify:
                    # Where the alias is by now does not matter: this version was let in.
                    release = replace(self.served.release, alias=None)
                    await asyncio.to_thread(
                        check, release, self.files.artifacts, config.tracking, config.paths
                    )
                await self.launch(config)
            except Exception as error:  # whatever it is, giving up would end the service
                log.error("%s: %s; trying again in %g s", self.served.title, error, pause)
                continue
            self.restarts += 1
            metrics.restarts.inc()
            metrics.up.set(1)
            log.warning("%s: the engine answers again", self.served.title)

    async def close(self) -> None:
        """End the engine and remove what was made for it."""
        if self.process is not None:
            await self.process.stop()
        for folder in (self.served.weights.folder.parent, self.files.artifacts.parent):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def bring_up(release: Release, engine: Engine, config: ServeConfig) -> Replica:
    """Fetch and verify a release, and start an engine on it.

    Raises:
        UserError: Its files are gone, or not those that were recorded.
        EngineError: The engine does not come up.
    """

    def prepared() -> tuple[Checked, Weights]:
        source = fetch(release.model, Path(config.paths.cache))
        kept = Path(config.paths.cache).absolute() / "served"
        kept.mkdir(parents=True, exist_ok=True)
        remove_left(kept)
        # Both are readable by this user only. A socket's path is short, so its folder is elsewhere.
        private = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=kept))
        home = Path(tempfile.mkdtemp(prefix="tbr-"))
        try:
            artifacts, sources, stamp = copied(source, private)
            if config.verify:
                try:
                    files = check(release, artifacts, config.tracking, config.paths)
                except UserError:
                    forget(source, Path(config.paths.cache))
                    raise
            else:
                files = Checked(
                    artifacts, digest_of_copy(artifacts).whole, "unverified (verify=false)"
                )
            name = release.model.model_id
            weights = lay_out(artifacts, home, name, adapters=engine.adapters)
            return replace(files, sources=sources, stamp=stamp), weights
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(private, ignore_errors=True)
            raise

    files, weights = await asyncio.to_thread(prepared)
    replica = Replica(Served(release, weights, engine), files)
    try:
        await replica.launch(config)
    except BaseException:
        await replica.close()
        raise
    return replica


async def post(process: EngineProcess, body: bytes, number: str) -> aiohttp.ClientResponse:
    """Send a chat request to an engine; a connection that it has just closed is replaced once."""
    headers = {"Content-Type": "application/json", "X-Request-ID": number}
    try:
        return await process.session.post("/v1/chat/completions", data=body, headers=headers)
    except aiohttp.ServerDisconnectedError:
        if not process.alive:
            raise
        return await process.session.post("/v1/chat/completions", data=body, headers=headers)
