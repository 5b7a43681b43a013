"""A run's numbers reach the store once and in order, whether or not it answers at the time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.tracking.metric_spool import MetricBuffer, last_logged_steps
from tbr_lightning.tracking.store import connect

from ..conftest import environment


def opened(folder: Path, uri: str | None = None) -> str:
    """Start a run in a store and return its id."""
    tracking = TrackingConfig(
        uri=uri or f"sqlite:///{folder}/mlflow.db", artifacts=None, experiment="x"
    )
    experiment = connect(tracking)
    return str(MlflowClient().create_run(experiment).info.run_id)


def points(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient().get_metric_history(run_id, key)]


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the size of each request."""
    sizes: list[int] = []
    send = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: list[object]) -> None:
        sizes.append(len(metrics))
        send(self, run_id, metrics=metrics)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    return sizes


def test_many_numbers_go_in_one_request_and_in_order(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, sizes = opened(store), counting(monkeypatch)
    buffer = MetricBuffer(run_id, store / "spool", seconds=60)
    for step in range(1, 300):
        buffer.add({"a": step / 2, "b": -step, "c": float("nan")}, step)
    assert sizes == []
    assert buffer.flush()
    assert sizes == [897]
    assert points(run_id, "a") == [(step, step / 2) for step in range(1, 300)]
    assert points(run_id, "b") == [(step, -step) for step in range(1, 300)]
    buffer.close()
    assert not (store / "spool").exists()


def test_what_was_logged_before_an_interruption_is_left_out_by_its_name(store: Path) -> None:
    run_id = opened(store)
    first = MetricBuffer(run_id, store / "spool")
    for step in (1, 2, 3):
        first.add({"train/loss": step}, step)
    first.add({"validation/loss": 1.0}, 1)
    first.close()
    logged = last_logged_steps(run_id, store / "spool")
    assert logged == {"train/loss": 3, "validation/loss": 1}
    again = MetricBuffer(run_id, store / "spool", after=logged)
    for step in (2, 3, 4):
        again.add({"train/loss": step, "validation/loss": 2.0}, step)
    again.close()
    assert points(run_id, "train/loss") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [step for step, _ in points(run_id, "validation/loss")] == [1, 2, 3, 4]


def test_a_request_that_failed_half_way_doubles_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = opened(store)
    buffer = MetricBuffer(run_id, store / "spool", seconds=60)
    for step in range(1, 2500):
        buffer.add({"a": step}, step)
    sizes = counting(monkeypatch)
    send = MlflowClient.log_batch

    def fails_later(self: MlflowClient, run_id: str, metrics: list[object]) -> None:
        if len(sizes) == 2:
            raise ConnectionError("gone")
        send(self, run_id, metrics=metrics)

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", fails_later)
        assert not buffer.flush()
    assert len(points(run_id, "a")) == 2000
    assert buffer.flush()
    assert points(run_id, "a") == [(step, step) for step in range(1, 2500)]


def test_what_is_refused_waits_in_the_spool_with_the_time_of_its_step(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone")

    run_id, begun = opened(store), int(time.time() * 1000)
    capsys.readouterr()  # what the database says that was made
    buffer = MetricBuffer(run_id, store / "spool", seconds=60)
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", refuse)
        broken.setattr(MlflowClient, "log_table", refuse)
        for step in (1, 2):
            buffer.add({"a": step}, step)
            assert not buffer.flush()
        assert str(buffer.refused) == "gone"
        buffer.table(pd.DataFrame({"x": [1]}), "rows.json")
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "the tracker does not answer (gone): metrics are spooled",
        "the table rows.json could not be logged (gone)",
    ]
    # Another process, which has nothing of its own, sends them.
    MetricBuffer(run_id, store / "spool").close()
    assert points(run_id, "a") == [(1, 1), (2, 2)]
    for metric in MlflowClient().get_metric_history(run_id, "a"):
        assert begun <= metric.timestamp <= time.time() * 1000
    assert buffer.flush()
    assert buffer.refused is None
    assert points(run_id, "a") == [(1, 1), (2, 2)]


@pytest.mark.parametrize("end", [b"", b'["a", 1.0, 17', b"\x00\x00\x00", b"\xff\xfe"])
def test_a_spool_that_is_cut_gives_what_is_whole(store: Path, end: bytes) -> None:
    run_id = opened(store)
    (store / "spool").write_bytes(
        b'["a", 1.0, 1700000000000, 1]\n["a", NaN, 1700000000000, 2]\n' + end
    )
    logged = last_logged_steps(run_id, store / "spool")
    assert logged == {"a": 2}
    buffer = MetricBuffer(run_id, store / "spool", after=logged)
    buffer.add({"a": 3.0}, 3)
    buffer.close()
    assert [step for step, _ in points(run_id, "a")] == [1, 2, 3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """Run an MLflow server on the folder's store."""
    words = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    words += ["--port", str(port), "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, folder / "server.log")
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server does not start: {log.read_text()[-1000:]}")


@pytest.mark.slow
def test_a_tracker_that_is_down_for_a_while_misses_nothing(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    expected = [(step, step / 4) for step in range(1, 10)]
    with server(store, port):
        run_id = opened(store, uri)
        buffer = MetricBuffer(run_id, store / "spool", seconds=0)
        for step in (1, 2, 3):
            buffer.add({"train/loss": step / 4}, step)
    start = time.monotonic()
    for step in (4, 5, 6):
        buffer.add({"train/loss": step / 4}, step)
    assert not buffer.flush()
    # A run must not wait for a tracker that refuses the connection.
    assert time.monotonic() - start < 15
    told = capsys.readouterr().err
    assert told.count("metrics are spooled") == 1
    assert len((store / "spool").read_text().split()) == 12
    buffer.table(pd.DataFrame([{"a": 1}]), "probe/x.json")
    assert "probe/x.json could not be logged" in capsys.readouterr().err
    # The process is killed, and goes on from a checkpoint after step 4.
    buffer.close()
    assert "are sent when the run is resumed" in capsys.readouterr().err
    with server(store, port):
        logged = last_logged_steps(run_id, store / "spool")
        again = MetricBuffer(run_id, store / "spool", seconds=0, after=logged)
        for step in range(5, 10):
            again.add({"train/loss": step / 4}, step)
        again.close()
        assert points(run_id, "train/loss") == expected
    assert not (store / "spool").exists()
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    assert points(run_id, "train/loss") == expected


def test_a_torn_last_line_costs_itself_alone_and_the_spool_comes_first(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, spool = opened(store), store / "spool"
    spool.write_text('["a", 1.0, 1000, 1]\n["a", 2.0, 2000')  # cut by a crash
    sent: list[list[float]] = []

    def log_batch(self: MlflowClient, run_id: str, metrics: list[Any]) -> None:
        if not sent:
            sent.append([])
            raise MlflowException("down")
        sent.append([metric.value for metric in metrics])

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    buffer = MetricBuffer(run_id, spool, seconds=60)
    buffer.add({"a": 3.0}, 3)
    assert not buffer.flush()
    buffer.add({"a": 4.0}, 4)
    assert buffer.flush()
    assert sent[1:] == [[1.0, 3.0, 4.0]]
