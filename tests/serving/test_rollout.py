"""Which version answers: the alias is followed, and left where it leads to a bad one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException

from tbr_lightning.config.serve import ServeConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import folder_digest
from tbr_lightning.registry.entry import NewEntry
from tbr_lightning.registry.ledger import Ledger, ledger_url
from tbr_lightning.serving import files, rollout
from tbr_lightning.tracking.signing import keys_of

from .conftest import NAME, Registry, Running

Start = Callable[[ServeConfig], Running]


@pytest.fixture(scope="module")
def server(registry: Registry, start: Start) -> Running:
    registry.add()
    return start(registry.config())


def version(server: Running) -> str:
    return str(server.health()["version"])


def test_a_switch_under_load_fails_no_request(registry: Registry, server: Running) -> None:
    served: list[tuple[int, str]] = []
    stop = threading.Event()

    def client(stream: bool) -> None:
        while not stop.is_set():
            got = server.ask("slowly" if stream else "wait 0.1", stream=stream)
            done = not stream or got.text.endswith("data: [DONE]\n\n")
            served.append((got.status_code if done else 0, got.headers["X-TBR-Model"]))

    clients = [threading.Thread(target=client, args=(n % 2 == 0,)) for n in range(16)]
    for one in clients:
        one.start()
    old = server.deployment.current
    new = registry.add(answer="Stop it by its number.")
    server.until(lambda: version(server) == new)
    server.until(lambda: f"{NAME}/1 is retired" in server.told)
    stop.set()
    for one in clients:
        one.join()
    assert {status for status, _ in served} == {200}
    assert {title for _, title in served} == {f"{NAME}/1", f"{NAME}/{new}"}
    assert not old.process.alive
    assert not old.served.weights.folder.exists()
    message = server.ask().json()["choices"][0]["message"]
    assert message["content"] == "Stop it by its number."


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        ({"crash": True}, "the engine ended at its start: out of memory"),
        ({"answer": ""}, "answers are empty or cut off"),
        ({"finish": "length"}, "answers are empty or cut off"),
        ({"answer": "So it is fine.</think> Stop it."}, "holds a marker of the think block"),
        ({"refuses": False}, "carried out 1 of 1 harmful requests"),
    ],
)
def test_a_bad_version_leaves_the_old_one(
    registry: Registry, server: Running, fake: dict[str, object], says: str
) -> None:
    before = version(server)
    bad = registry.add(**fake)
    server.until(lambda: server.health()["problem"] is not None)
    health = server.health()
    assert f"{NAME}/{bad} is not served, {NAME}/{before} stays" in health["problem"]
    assert says in health["problem"]
    assert (health["status"], health["version"]) == ("ok", before)
    assert server.ask().status_code == 200
    # It is not tried again and again, only once the alias has moved.
    polls = _polls(server)
    server.until(lambda: len(polls) >= 3)
    assert _tries(server, bad) == 1
    registry.point(before)
    server.until(lambda: server.health()["problem"] is None)
    if "crash" in fake:
        registry.point(bad)
        server.until(lambda: server.health()["problem"] is not None)
        assert _tries(server, bad) == 2
        registry.point(before)
        server.until(lambda: server.health()["problem"] is None)


def _tries(server: Running, bad: str) -> int:
    return len([line for line in server.told if f"champion is {NAME}/{bad} now" in line])


def _polls(server: Running) -> list[None]:
    """Return a list that grows with each look at the alias that is over."""
    look, found = server.deployment._look, list[None]()

    async def counted() -> None:
        await look()
        found.append(None)

    server.deployment._look = counted
    return found


def test_an_alias_that_is_gone_changes_nothing(registry: Registry, server: Running) -> None:
    before = version(server)
    registry.client.delete_registered_model_alias(NAME, "champion")
    server.until(lambda: "not in this store" in (server.health()["problem"] or ""))
    assert server.ask().headers["X-TBR-Model"] == f"{NAME}/{before}"
    registry.point(before)
    server.until(lambda: server.health()["problem"] is None)


def test_a_broken_first_version_is_told(registry: Registry, start: Start) -> None:
    bad = registry.add(alias=None, crash=True)
    with pytest.raises(UserError, match=f"{NAME}/{bad} is not served: the engine ended"):
        start(registry.config(f"models:/{NAME}/{bad}"))
    gone = registry.add(alias=None)
    (registry.artifacts(gone) / "MLmodel").unlink()
    with pytest.raises(UserError, match="gone from the artifact store"):
        start(registry.config(f"models:/{NAME}/{gone}"))


def test_a_store_that_is_away_for_a_moment_refuses_no_version(
    registry: Registry, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []

    def away(model_id: str) -> None:
        asked.append(None)
        raise MlflowException("API request failed: Max retries exceeded: Connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(files, "MlflowClient", lambda: SimpleNamespace(get_logged_model=away))
        new = registry.add()
        server.until(lambda: len(asked) >= 2)
        assert "does not answer" in str(server.health()["problem"])
    server.until(lambda: version(server) == new)
    assert server.health()["problem"] is None


@pytest.mark.parametrize("error", [TimeoutError(), MemoryError(), RuntimeError("\n")])
def test_an_error_without_a_text_ends_no_following(
    server: Running, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(uri: str) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "resolve", failing)
        server.until(lambda: type(error).__name__ in (server.health()["problem"] or ""))
    server.until(lambda: server.health()["problem"] is None)


def test_the_ledger_has_the_last_word(registry: Registry, start: Start, server: Running) -> None:
    old, good = version(server), registry.add(alias=None)
    config = registry.config()
    ledger = Ledger(ledger_url(config.tracking), keys_of(config.paths))
    weights = {good: folder_digest(registry.artifacts(good))}
    draft = NewEntry("promote", good, {"champion": (None, good)}, "better", [], weights)
    entry = ledger.append(NAME, draft, None)
    registry.point(good)
    server.until(lambda: version(server) == good)
    assert server.health()["verification"] == "verified by the ledger"
    # Tampered files of a promoted version are refused, at a switch and at the start.
    bad = registry.add(alias=None)
    weights = {bad: folder_digest(registry.artifacts(bad))}
    file = registry.artifacts(bad) / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    draft = NewEntry("promote", bad, {"champion": (good, bad)}, "better", [], weights)
    ledger.append(NAME, draft, entry)
    registry.point(bad)
    server.until(lambda: "not those that were recorded" in (server.health()["problem"] or ""))
    assert version(server) == good
    with pytest.raises(UserError, match=r"not those that were recorded.*the ledger has"):
        start(config)
    # An alias that was moved past the ledger is not followed.
    registry.point(old)
    server.until(lambda: "the ledger records" in (server.health()["problem"] or ""))
    assert version(server) == good
    unchecked = start(registry.config(f"models:/{NAME}/{bad}", "verify=false"))
    assert unchecked.health()["verification"] == "unverified (verify=false)"


def test_one_who_changes_the_ledger_is_noticed(registry: Registry, start: Start) -> None:
    config = registry.config()
    file = Path(ledger_url(config.tracking).removeprefix("sqlite:///"))
    assert b"better" in file.read_bytes()
    import sqlite3

    with sqlite3.connect(file) as db:
        (table,) = db.execute("select name from sqlite_master where type='table'").fetchone()
        db.execute(f"update {table} set why='worse'")
    with pytest.raises(UserError, match="the ledger is not intact"):
        start(config)
