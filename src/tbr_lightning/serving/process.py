"""One engine's process: started behind its supervisor, watched, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp

_PROBE_EVERY = 2.0
_PROBE_TIMEOUT = 10.0
_PROBES_LOST = 3  # in a row, before an engine that does not answer is taken for dead
_GRACE = 10.0  # seconds for the supervisor to end the engine
_LONGEST_SOCKET = 100  # the system's limit is 104 to 108 bytes
# uvicorn closes a connection that idles for 5 s: ours go before, so that no request meets one.
_KEEP_ALIVE = 2.0


class EngineError(Exception):
    """An engine did not start, or does not answer; the text says why."""


class EngineProcess:
    """A running engine.

    Attributes:
        session: HTTP session to it, over its socket.
        pid: Process id of the engine itself.
    """

    def __init__(self, process: asyncio.subprocess.Process, socket: Path) -> None:
        self.process = process
        self.pid = 0
        self._socket = socket
        self._told: deque[str] = deque(maxlen=40)
        self._reader = asyncio.create_task(self._read())
        self.session = aiohttp.ClientSession(
            "http://engine",
            connector=aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=_KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    @classmethod
    async def start(
        cls, command: Sequence[str], socket: Path, cwd: Path, secret: str, timeout: float
    ) -> EngineProcess:
        """Start a command and wait until it answers on its socket.

        Args:
            command: Command to start.
            socket: Socket on which it will listen.
            cwd: Folder in which it runs; removed if the server is killed.
            secret: Environment variable that it must not inherit.
            timeout: Maximum time to wait, in seconds.

        Raises:
            EngineError: It ended, or took too long.
        """
        environment = {key: value for key, value in os.environ.items() if key != secret}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tbr_lightning.serving.supervisor",
            str(cwd),
            *command,
            cwd=cwd,
            # Weights and tokenizer are in the folder: nothing is to be looked up elsewhere.
            env={**environment, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C reaches the server alone, which lets open requests end first.
            start_new_session=True,
        )
        engine = cls(process, socket)
        try:
            async with asyncio.timeout(timeout):
                while not await engine.healthy():
                    if process.returncode is not None:
                        await engine._reader
                        raise EngineError(f"the engine ended at its start{engine.last_words()}")
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            await engine.stop()
            raise EngineError(
                f"the engine did not answer within start_timeout={timeout:g} seconds"
                f"{engine.last_words()}"
            ) from error
        except BaseException:
            await engine.stop()
            raise
        return engine

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.returncode is None

    async def healthy(self) -> bool:
        """Return whether the engine reports that it can answer."""
        try:
            async with self.session.get(
                "/health", timeout=aiohttp.ClientTimeout(total=_PROBE_TIMEOUT)
            ) as reply:
                return reply.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def failure(self) -> str:
        """Wait until the engine ends or stops answering, and return which."""
        lost = 0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.process.wait()), _PROBE_EVERY)
            if not self.alive:
                return f"the engine ended with code {self.process.returncode}{self.last_words()}"
            lost = 0 if await self.healthy() else lost + 1
            if lost >= _PROBES_LOST:
                return f"the engine did not answer {lost} times in a row{self.last_words()}"

    async def stop(self) -> None:
        """End the engine; returns when it is gone."""
        await self.session.close()
        if self.process.stdin is not None:
            with suppress(OSError):  # the guard is gone
                self.process.stdin.write(b"stop")
            self.process.stdin.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.process.wait()), _GRACE)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
        if self.pid and await self.process.wait() < 0:  # a killed guard ended nothing
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.process.wait()
        self._socket.unlink(missing_ok=True)

    def last_words(self) -> str:
        """Return the end of the engine's output, as a clause, or an empty text."""
        return f": {self._told[-1][:300]}" if self._told else ""

    async def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the buffer: dropped
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip().rpartition("\r")[2]
            if not self.pid and text.startswith("pid "):
                self.pid = int(text[4:])
            elif text.strip() and "%|" not in text:  # no progress bars
                self._told.append(text.strip())


def socket_in(folder: Path, number: int) -> Path:
    """Return a path for an engine's socket, short enough for the system.

    Raises:
        EngineError: The folder for temporary files has too long a name.
    """
    path = folder / f"{number}.sock"
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise EngineError(
            f"the path {path} is too long for a socket: set TMPDIR to a shorter folder than "
            f"{tempfile.gettempdir()}"
        )
    return path
