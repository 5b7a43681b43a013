"""The ledger on a real PostgreSQL: the same as on SQLite."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tbr_lightning.errors import UserError
from tbr_lightning.registry.alias_sync import recover
from tbr_lightning.registry.audit import audit
from tbr_lightning.registry.entry import NewEntry, broken_link
from tbr_lightning.registry.ledger import ConflictError, Ledger
from tbr_lightning.tracking.signing import Keys

from ..conftest import put_store
from ..support import made

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARIES, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs psycopg"),
]
DRAFT = NewEntry("baseline", "1", {"champion": (None, "1")}, "first «é»", ("r1",), {"1": "d1"})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return made.keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a throw-away cluster on loopback."""
    binaries = BINARIES[-1].parent
    # It refuses to run as root, and root's folders of tests are closed to others.
    as_other = os.getuid() == 0
    folder = Path(f"/tmp/tbr-postgres-{os.getpid()}") if as_other else tmp_path_factory.mktemp("pg")
    folder.mkdir(exist_ok=True)
    before = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if as_other else []
    if as_other:
        shutil.chown(folder, "nobody", "nogroup")

    def run(*words: str) -> None:
        subprocess.run([*before, *words], check=True, capture_output=True, cwd="/", timeout=120)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    run(f"{binaries}/initdb", "-D", data, "-U", "tbr", "-A", "trust", "-N", "--no-locale")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = f"{binaries}/pg_ctl"
    run(control, "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql://tbr:secret@127.0.0.1:{port}/postgres"
    finally:
        run(control, "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_of_many_at_once_one_succeeds(server: str, keys: Keys) -> None:
    def attempt(_: int) -> bool:
        try:
            Ledger(server, keys).append("many", DRAFT, None)  # makes the table too
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    (entry,) = Ledger(server, keys).entries("many")
    assert broken_link([entry]) is None
    assert (entry.why, entry.moves) == (DRAFT.why, DRAFT.moves)


def test_one_holds_the_others_off(server: str, keys: Keys) -> None:
    ledger, entered = Ledger(server, keys), threading.Event()

    def second() -> None:
        with Ledger(server, keys).alone("m"):
            entered.set()

    with ledger.alone("m"):
        other = threading.Thread(target=second)
        other.start()
        with Ledger(server, keys).alone("another model"):  # is nobody's business here
            pass
        time.sleep(0.3)
        assert not entered.is_set()
    other.join(30)
    assert entered.is_set()


def test_the_registry_moves_over_it(server: str, tmp_path: Path) -> None:
    put_store(tmp_path)
    registry = made.registry(tmp_path, server)
    for weights in ("one", "two"):
        made.crown(registry, made.model(tmp_path, weights))
    assert recover(registry).aliases == {"champion": "2", "previous": "1"}
    assert audit(registry).problems == ()
    assert "secret" not in registry.ledger.shown
    assert not (tmp_path / "ledger.db").exists()


def test_a_wrong_database_is_told_without_the_password(server: str, keys: Keys) -> None:
    with pytest.raises(UserError, match="cannot be used") as told:
        Ledger(server.replace("/postgres", "/absent"), keys)
    assert "secret" not in str(told.value)
