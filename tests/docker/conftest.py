"""The files of ``docker/`` as Compose would read them, and a PostgreSQL of the tests' own."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml

from ..conftest import ROOT, needs_command

DOCKER = ROOT / "docker"
SCRIPTS = DOCKER / "scripts"
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def interpolated(file: Path) -> str:
    """Return a compose file with each variable at its default, as Compose does without a .env."""
    text = _VARIABLE.sub(r"\2", file.read_text())
    assert "${" not in text, "a variable has no default"
    return text


def variables(file: Path) -> dict[str, str]:
    """Return the variables of a compose file with their defaults."""
    return dict(_VARIABLE.findall(file.read_text()))


@pytest.fixture(scope="session")
def stack() -> dict[str, Any]:
    """compose.yaml at its defaults."""
    return dict(yaml.safe_load(interpolated(DOCKER / "compose.yaml")))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Postgres:
    """A running server and the folder with the secrets it was made with."""

    port: int
    secrets: Path

    def password(self, name: str) -> str:
        return (self.secrets / f"{name}_password").read_text()


@pytest.fixture(scope="session")
def postgres(stack: dict[str, Any]) -> Iterator[Postgres]:
    """PostgreSQL set up as compose.yaml does: its flags, its user, its script on a new volume."""
    # Debian keeps the server's programs out of the path.
    found = shutil.which("initdb") or max(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None
    )
    programs = Path(found or needs_command("postgresql")).parent
    user = None
    if Path("/proc/self").stat().st_uid == 0:
        user = "postgres"  # the server refuses to run as root
    folder = Path(mkdtemp(prefix="tbr-postgres-"))
    port = free_port()
    subprocess.run([sys.executable, DOCKER / "make_secrets.py", folder / "secrets"], check=True)
    for path in (folder, folder / "secrets"):
        # A container sees the folder's files only, not the folder, which is closed to others.
        path.chmod(0o755)
    if user:
        shutil.chown(folder, user)
    service = stack["services"]["postgres"]["environment"]
    data = folder / "data"

    def as_postgres(*words: str | Path, **more: Any) -> None:
        subprocess.run(words, user=user, cwd=folder, check=True, capture_output=True, **more)

    as_postgres(
        programs / "initdb",
        f"--pgdata={data}",
        "--username=postgres",
        f"--pwfile={folder}/secrets/postgres_password",
        *service["POSTGRES_INITDB_ARGS"].split(),
    )
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    as_postgres(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        as_postgres(
            DOCKER / "postgres" / "databases.sh",
            env={
                "PATH": f"{programs}:/usr/bin:/bin",
                "PGHOST": str(folder),
                "PGPORT": str(port),
                "MLFLOW_PASSWORD_FILE": f"{folder}/secrets/mlflow_password",
                "LEDGER_PASSWORD_FILE": f"{folder}/secrets/ledger_password",
                "LEDGER_READER_PASSWORD_FILE": f"{folder}/secrets/ledger_reader_password",
            },
        )
        yield Postgres(port, folder / "secrets")
    finally:
        as_postgres(programs / "pg_ctl", "-D", data, "-m", "fast", "stop")
        shutil.rmtree(folder)


def wait_until(condition: Any, seconds: float = 60) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
