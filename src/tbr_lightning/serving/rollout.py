"""Which version gets the requests: the first one, and every later one that its alias names."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tbr_lightning.config.serve import POLICIES, ServeConfig
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.evaluation.judges.base import Judge
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.outages import OutageError
from tbr_lightning.serving.engines import Engine
from tbr_lightning.serving.metrics import Metrics
from tbr_lightning.serving.process import EngineError
from tbr_lightning.serving.release import Release, follows, resolve
from tbr_lightning.serving.replica import Replica, bring_up, post
from tbr_lightning.serving.request import parse
from tbr_lightning.serving.response import ReplyStats, rewrite
from tbr_lightning.serving.smoke_test import UnfitError, smoke_test
from tbr_lightning.serving.weights import vocabulary

log = logging.getLogger(__name__)


class Deployment:
    """The served version and, for a while, its successor.

    Attributes:
        current: Replica that takes new requests; ``None`` until the first version is up.
        closing: Whether the server is shutting down, and takes no new requests.
        problem: Reason why the alias' version is not served, or the alias cannot be read.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        engine: Engine,
        prompts: Sequence[Prompt],
        judge: Judge | None,
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.metrics = config, metrics
        self.current: Replica | None = None
        self.closing = False
        self.problem: str | None = None
        self._engine, self._prompts, self._judge, self._say = engine, prompts, judge, say
        self._refused: Release | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._checks = itertools.count(1)
        self._checking = replace(config, overrides=list(POLICIES))

    async def open(self, release: Release) -> None:
        """Serve a first version.

        Raises:
            UserError: It cannot be served, or does not pass the check.
        """
        try:
            replica = await self._fit(release)
        except (UnfitError, EngineError) as error:
            raise UserError(f"{release.title} is not served: {error}") from error
        self._put(replica)

    async def follow(self) -> None:
        """Poll the alias forever, and serve the version it names once that has passed the check."""
        if not self.config.poll or not follows(self.config.model_uri):
            return
        while True:
            await asyncio.sleep(self.config.poll)
            try:
                await self._look()
            except Exception as error:
                # A store that is down for a while must not end the server.
                self._trouble(f"the alias cannot be read: {first_line(error)}")

    async def _look(self) -> None:
        assert self.current is not None
        try:
            release = await asyncio.to_thread(resolve, self.config.model_uri)
        except UserError as error:
            self._trouble(str(error))
            return
        served = self.current.served
        if release.is_same(served.release):
            self._refused = self.problem = None
            return
        if self._refused is not None and release.is_same(self._refused):
            return
        self._say(f"{release.alias} is {release.title} now: loading it beside {served.title}")
        try:
            replica = await self._fit(release)
        except OutageError:
            raise  # of the store, not of this version: the next look tries it again
        except (UnfitError, EngineError, UserError) as error:
            # Not tried again until the alias moves: it would only fail the same way.
            self._refused = release
            self.metrics.switches.labels("rolled_back").inc()
            self._trouble(f"{release.title} is not served, {served.title} stays: {error}")
            return
        old = self.current
        self._put(replica)
        self._refused = self.problem = None
        self.metrics.switches.labels("switched").inc()
        retiring = asyncio.create_task(self._retire(old))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _fit(self, release: Release) -> Replica:
        """Bring up a release and check it; return its replica."""
        replica = await bring_up(release, self._engine, self.config)
        try:
            told = "it answers; check.enabled=false leaves out the check"
            if self._judge is not None:
                told = await smoke_test(
                    lambda text: self._ask(replica, text),
                    self._prompts,
                    self._judge,
                    self.config,
                    replica.served.weights,
                )
            else:
                await self._ask(replica, "Hello")
        except BaseException:
            await replica.close()
            raise
        self._say(f"{release.title} is ready ({replica.files.by}): {told}")
        return replica

    async def _ask(self, replica: Replica, text: str) -> ReplyStats:
        """Ask a replica as a client would, and return its reply with the reflection apart."""
        policy = "hide" if self.config.policy == "show" else self.config.policy
        raw = json.dumps({"messages": [{"role": "user", "content": text}], "reflection": policy})
        ask = parse(
            raw.encode(),
            f"check-{next(self._checks)}",
            self._checking,
            replica.served,
        )
        process = replica.process
        if process is None:
            raise UnfitError(f"the engine was gone before '{text}' was asked")
        try:
            async with asyncio.timeout(self.config.timeout):
                reply = await post(process, ask.body, ask.number)
                data = await reply.read()
        except TimeoutError as error:
            raise UnfitError(
                f"'{text}' got no answer within timeout={self.config.timeout:g} seconds: raise it, "
                "or leave the check out with check.enabled=false"
            ) from error
        except OSError as error:
            raise UnfitError(f"'{text}' got no answer{process.last_words()}") from error
        if reply.status != 200:
            raise UnfitError(
                f"'{text}' got HTTP {reply.status}: {data[:200].decode(errors='replace')}"
            )
        return rewrite(data, policy, replica.served)[1]

    def _put(self, replica: Replica) -> None:
        """Route requests to a replica from now on. Nothing is awaited: no request gets lost."""
        self.current = replica
        release = replica.served.release
        self.metrics.serves(
            release.name, release.version or "", release.model.model_id, replica.files.digest
        )
        self.metrics.up.set(1)
        self._tasks[id(replica)] = asyncio.create_task(
            replica.keep_alive(self.config, self.metrics)
        )

    async def _retire(self, replica: Replica) -> None:
        """Wait for a replica's open requests, then end its engine."""
        drained = await replica.drained(self.config.drain)
        if not drained:
            log.error(
                "%s: %d requests were open after drain=%g s and are cut off",
                replica.served.title,
                replica.in_flight,
                self.config.drain,
            )
        await self._stop_watching(replica)
        await replica.close()
        self._say(f"{replica.served.title} is retired")

    async def _stop_watching(self, replica: Replica) -> None:
        task = self._tasks.pop(id(replica), None)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        """End every engine; open requests have had their time."""
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self.current is not None:
            await self._stop_watching(self.current)
            await self.current.close()

    def _trouble(self, text: str) -> None:
        if text != self.problem:
            log.error("%s", text)
        self.problem = text

    def status(self) -> tuple[bool, dict[str, Any]]:
        """Return whether requests are answered, and the contents of ``/health``."""
        replica = self.current
        ready = replica is not None and replica.process is not None and not self.closing
        state = "ok" if ready else "closing" if self.closing else "loading"
        if replica is not None and replica.process is None and not self.closing:
            state = "restarting"
        found: dict[str, Any] = {"status": state, "problem": self.problem}
        if replica is not None:
            release = replica.served.release
            if replica.files.changed:
                found["problem"] = self.problem or (
                    f"the files of {release.title} in the store were written to since they were "
                    "loaded: what is served is the copy that was checked, and the next load is "
                    "refused"
                )
            found |= {
                "model": release.name,
                "version": release.version,
                "alias": release.alias,
                "model_id": release.model.model_id,
                "verification": replica.files.by,
                "digest": replica.files.digest,
                "engine": self._engine.name,
                "policy": self.config.policy,
                "restarts": replica.restarts,
                "in_flight": replica.in_flight,
            }
        return ready, found


def described(replicas: Sequence[Replica], created: int) -> list[dict[str, object]]:
    """Return what ``/v1/models`` says of served models, each under an id of its own.

    Args:
        replicas: What answers; requests that name only the model reach the first.
        created: When the server started, in seconds since 1970.
    """
    found: list[dict[str, object]] = []
    for replica in replicas:
        release = replica.served.release
        name = release.name
        if any(name == other["id"] for other in found):
            name += f"@{release.alias}" if release.alias else f"/{release.version}"
        found.append(
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "tbr-lightning",
                "version": release.version,
                "alias": release.alias,
                "model_id": release.model.model_id,
                "digest": replica.files.digest,
                "context": replica.served.weights.context,
                "vocabulary": vocabulary(replica.served.weights),
            }
        )
    return found
