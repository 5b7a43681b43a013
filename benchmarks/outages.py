"""What a soak disturbs: a tracker on PostgreSQL, its disk, and the ways to it and to its store."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(port: int, path: str, body: Any = None, timeout: float = 120) -> int:
    """Return the status of a request; 0 where nobody answers."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if body is None:
            link.request("GET", path)
        else:
            link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        link.close()


def wait_until(holds: Any, what: str, seconds: float = 600) -> None:
    """Poll until something holds; end the program if it takes too long."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise SystemExit(f"{what} does not come up")
        time.sleep(0.5)


class Proxy:
    """Passes connections on to a port of loopback; late, or not at all, when told so."""

    def __init__(self, target: int) -> None:
        self.target, self.delay, self.open = target, 0.0, True
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.port = 0

        async def serve() -> None:
            server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await server.serve_forever()

        threading.Thread(target=lambda: self._loop.run_until_complete(serve()), daemon=True).start()
        ready.wait()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.open:
                raise ConnectionError
            there = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._copy(reader, there[1]), self._copy(there[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.delay:
                await asyncio.sleep(self.delay)
            if not self.open:
                break
            writer.write(data)
            await writer.drain()
        writer.close()


class Postgres:
    """A PostgreSQL of the soak's own, made in a folder that its user can enter."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("initdb") or max(
            map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None
        )
        if found is None:
            raise SystemExit("PostgreSQL is missing: apt-get install postgresql")
        self.programs, self.port, self.data = Path(found).parent, free_port(), folder / "data"
        # The server refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        password = folder / "password"
        password.write_text(secrets.token_urlsafe())
        self.environment = {"PGPASSWORD": password.read_text()}
        if self.user:
            shutil.chown(password, self.user)
        self._run("initdb", f"--pgdata={self.data}", "--username=postgres", f"--pwfile={password}")
        # A small write-ahead log, since the disk is small.
        settings = f"port={self.port}\nlisten_addresses='127.0.0.1'\nmax_wal_size='64MB'\n"
        settings += f"unix_socket_directories='{folder}'\n"
        with (self.data / "postgresql.conf").open("a") as out:
            out.write(settings)
        access = "host all all 127.0.0.1/32 scram-sha-256\n"
        (self.data / "pg_hba.conf").write_text(access)
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _run(self, name: str, *words: str, check: bool = True) -> int:
        quiet = subprocess.DEVNULL
        return subprocess.run(
            [self.programs / name, *words],
            user=self.user,
            cwd="/",
            stdout=quiet,
            stderr=quiet,
            check=check,
        ).returncode

    def start(self) -> None:
        """Start it, again and again while it recovers, if it does not run."""
        words = ("-D", str(self.data))
        log = ("-l", str(self.data / "log"))
        wait_until(
            lambda: (
                self._run("pg_ctl", *words, "status", check=False) == 0
                or self._run("pg_ctl", *words, "-w", *log, "start", check=False) == 0
            ),
            "PostgreSQL",
        )

    def kill(self) -> None:
        """End it as a crash would: it recovers from its log when it is started again."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "stop", check=False)


class Tracker:
    """`mlflow server` on a PostgreSQL, which can be killed, stopped and started again.

    Args:
        folder: Of the database, and of artifacts without another place.
        artifacts: Place of artifacts, such as ``s3://BUCKET``.
        environment: Further variables of the server.
    """

    def __init__(self, folder: Path, artifacts: str, environment: dict[str, str]) -> None:
        self.folder, self.port, self.artifacts = folder, free_port(), artifacts
        self.database = Postgres(folder)
        self.environment = self.database.environment | environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.database.start()
        log = (self.folder.parent / "tracker.log").open("ab")
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", self.database.uri]
        words += ["--artifacts-destination", self.artifacts or str(self.folder / "artifacts")]
        self.process = process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | self.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )

        def answers() -> bool:
            if process.poll() is not None:
                raise SystemExit(f"the tracker ended: see {log.name}")
            return status(self.port, "/health", timeout=5) == 200

        wait_until(answers, "the tracker")

    def signal(self, how: signal.Signals) -> None:
        """Send a signal to all its processes."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        if how == signal.SIGKILL:
            self.process.wait()

    def end(self) -> None:
        """Kill it and its database."""
        self.signal(signal.SIGKILL)
        self.database.kill()


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a small file system on a folder, where that is allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    allowed = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    if not allowed:
        print("no file system can be mounted here: the fault 'disk full' is left out")
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Leave no room in a folder's file system for a while."""
    file = folder / "fill"
    with contextlib.suppress(OSError), file.open("wb") as out:
        while True:
            out.write(bytes(1 << 16))
            out.flush()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
