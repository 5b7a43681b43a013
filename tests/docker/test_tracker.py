"""The MLflow service of the stack, real: its entry point, PostgreSQL, artifacts, signals."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy

from ..conftest import environment, needs_command
from .conftest import SCRIPTS, Postgres, free_port, wait_until

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Tracker:
    port: int
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, host: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def settings(stack: dict[str, Any], postgres: Postgres, folder: Path) -> dict[str, str]:
    """Return the service's environment, with this machine's places for those of the stack."""
    given = stack["services"]["mlflow"]["environment"]
    uri = given["MLFLOW_BACKEND_STORE_URI"]
    return environment(
        **given
        | {
            "MLFLOW_BACKEND_STORE_URI": uri.replace("postgres:5432", f"127.0.0.1:{postgres.port}"),
            "PGPASSWORD_FILE": str(postgres.secrets / "mlflow_password"),
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )


@pytest.fixture(scope="module")
def tracker(
    stack: dict[str, Any], postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("tracker")
    port = free_port()
    process = subprocess.Popen(
        [
            *(needs_command("tini"), "-s", "-g", "--"),
            *(sys.executable, SCRIPTS / "tracker.py", "server"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        env=settings(stack, postgres, folder),
        cwd=folder,
    )
    running = Tracker(port, process, folder)
    try:
        probe = [sys.executable, SCRIPTS / "health.py", f"{running.uri}/health"]

        def healthy() -> bool:
            assert process.poll() is None, "the server ended"
            return subprocess.call(probe, stdout=subprocess.DEVNULL) == 0

        wait_until(healthy, 300)
        yield running
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_clients_of_the_stack_are_answered_and_others_are_not(tracker: Tracker) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert tracker.get(path, "mlflow:5000")[0] == 200
    assert tracker.get(path, f"127.0.0.1:{tracker.port}")[0] == 200
    assert tracker.get(path, "localhost:5000")[0] == 200
    code, text = tracker.get(path, "evil.example")
    assert (code, "Invalid Host header" in text) == (403, True)


def test_the_entry_point_waits_for_it_by_name(tracker: Tracker) -> None:
    def promote(uri: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, SCRIPTS / "verb.py", "promote", "status", "name=nobody"],
            env=environment(MLFLOW_TRACKING_URI=uri),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    code, text = promote(tracker.uri)
    assert (code, "nobody" in text) == (2, True), text
    # The same server by a name that it does not know: its health answers, its API does not.
    code, text = promote(f"http://127.1:{tracker.port}")
    assert (code, "refuses the name 127.1:" in text) == (69, True), text


def test_runs_go_to_postgresql_and_artifacts_to_the_volume(
    tracker: Tracker, postgres: Postgres, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracker.uri)
    run = client.create_run(client.create_experiment("docker"))
    client.log_metric(run.info.run_id, "loss", 0.5)
    client.log_text(run.info.run_id, "an artifact", "note.txt")
    (file,) = (tracker.folder / "artifacts").rglob("note.txt")
    assert file.read_text() == "an artifact"
    with connect(postgres, "mlflow") as connection:
        rows = connection.execute(sqlalchemy.text("SELECT value FROM metrics")).all()
    assert rows == [(0.5,)]


def connect(postgres: Postgres, role: str, database: str | None = None) -> sqlalchemy.Connection:
    url = sqlalchemy.URL.create(
        "postgresql",
        username=role,
        password=postgres.password(role),
        host="127.0.0.1",
        port=postgres.port,
        database=database or role,
    )
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect()


def test_the_ledger_is_apart(postgres: Postgres) -> None:
    with connect(postgres, "ledger") as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE entries (n integer)"))
        connection.execute(sqlalchemy.text("INSERT INTO entries VALUES (1)"))
        connection.commit()
        supers = connection.execute(
            sqlalchemy.text("SELECT rolname FROM pg_roles WHERE rolsuper")
        ).scalars()
        assert list(supers) == ["postgres"]
    with connect(postgres, "ledger_reader", "ledger") as connection:
        assert connection.execute(sqlalchemy.text("SELECT n FROM entries")).all() == [(1,)]
        for change in ("INSERT INTO entries VALUES (2)", "DELETE FROM entries"):
            with pytest.raises(sqlalchemy.exc.ProgrammingError, match="permission denied"):
                connection.execute(sqlalchemy.text(change))
            connection.rollback()
    for role, other in (("mlflow", "ledger"), ("ledger", "mlflow"), ("ledger_reader", "mlflow")):
        with pytest.raises(sqlalchemy.exc.OperationalError, match="permission denied"):
            connect(postgres, role, other)


def test_the_database_can_be_upgraded(
    tracker: Tracker, stack: dict[str, Any], postgres: Postgres, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "tracker.py", "upgrade"],
        env=settings(stack, postgres, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert postgres.password("mlflow") not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "code", "sentence"),
    [
        ({}, 2, "MLFLOW_BACKEND_STORE_URI is not set"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://a:hunter2@b/c"}, 2, "holds a password"),
        (
            {"MLFLOW_BACKEND_STORE_URI": "postgresql://a@127.0.0.1:9/c", "TBR_WAIT_SECONDS": "0"},
            69,
            "127.0.0.1:9 did not answer within 0 s",
        ),
        (
            {
                "MLFLOW_BACKEND_STORE_URI": "postgresql://a@127.0.0.1:9/c",
                "PGPASSWORD_FILE": "/nowhere/password",
            },
            2,
            "PGPASSWORD_FILE=/nowhere/password cannot be read",
        ),
    ],
)
def test_what_is_missing_is_said(given: dict[str, str], code: int, sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "tracker.py"],
        env=environment(**given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_stop_ends_every_process(tracker: Tracker) -> None:
    """The last test of this file: it ends the server."""
    family = psutil.Process(tracker.process.pid).children(recursive=True)
    assert len(family) >= 3  # mlflow, uvicorn, its workers
    tracker.process.send_signal(signal.SIGTERM)
    tracker.process.wait(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    with pytest.raises(OSError, match="refused"):
        tracker.get("/health", "localhost")
