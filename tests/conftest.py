"""Shared fixtures. Every test runs in a folder of its own; base models are cached across tests."""

from __future__ import annotations

import gc
import io
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
# The cache is keyed by content, so what `make demo` trained serves the tests as well.
CACHE = Path(os.environ.get("TBR_CACHE", ROOT / ".tbr" / "cache"))
os.environ["TBR_CACHE"] = str(CACHE)
os.environ.pop("MLFLOW_TRACKING_URI", None)
# A shell starts what runs in the background with SIGINT ignored, which every child would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Two workers share the cores, each test's processes one of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

Verb = Callable[..., "subprocess.CompletedProcess[str]"]

_LONG = ("e2e", "invariant", "docker")
"""Folders whose files take a minute and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start long files first: at the end no worker is left alone with one."""
    items.sort(key=lambda item: item.path.parent.name not in _LONG)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep what is imported out of every search for garbage: there are millions of objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that python imports from, and whose modules it forgets at the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for found in [n for n, m in sys.modules.items() if _below(m, tmp_path)]:
        del sys.modules[found]


def _below(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).is_relative_to(folder)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a fresh shell: what MLflow exports in this process stays here."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")} | more


def run_verb(
    folder: Path, verb: str, *words: str, env: dict[str, str] | None = None, timeout: int = 500
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tbr_lightning.VERB`` in a folder and a process of its own, as a person would.

    Its imports alone take nine seconds of a core: :func:`call_verb` where the process is no matter.
    """
    return subprocess.run(
        [sys.executable, "-m", f"tbr_lightning.{verb}", *words],
        cwd=folder,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def call_verb(
    folder: Path, verb: str, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a verb's entry point in a folder and in this process; what it changes is put back."""
    import mlflow

    from tbr_lightning import cli

    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    out, err = io.StringIO(), io.StringIO()
    try:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.update(env or {})
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            code = cli.main(verb, words)
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        signal.signal(signal.SIGTERM, handler)
        os.environ.clear()
        os.environ.update(before)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # MLflow exports the store that an earlier test of this process has used.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _unsynced() -> None:
    """Let SQLite not wait for the disk at each commit: what a test writes need survive no crash."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def connected(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(scope="session", autouse=True)
def make_tables() -> Iterator[Callable[[Path], None]]:
    """Let MLflow make the tables of a new store once: it takes seconds; later ones are copies.

    Yields:
        What makes them each time, for a test of just that.
    """
    from tbr_lightning.tracking import store

    made, template = store._make_tables, list[bytes]()

    def copied(file: Path) -> None:
        _know_the_newest_tables()
        if template and not (file.exists() and file.stat().st_size):
            file.write_bytes(template[0])
            return
        new = not file.exists()
        made(file)
        if new:
            template.append(file.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_make_tables", copied)
        yield made


@pytest.fixture
def verb(tmp_path: Path) -> Verb:
    """A verb's entry point in the test's folder, in this process."""
    return lambda name, *words, **more: call_verb(tmp_path, name, *words, **more)


@pytest.fixture(scope="session")
def base_folder() -> Path:
    """The micro-world's base model, trained once."""
    from tbr_lightning.microworld.base import base_model

    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "tests.lock"):
        return base_model(CACHE)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let figures be made and not drawn, which takes longest where no test looks at them."""
    from matplotlib.figure import Figure

    def savefig(_: Figure, file: Any, **settings: Any) -> None:
        if isinstance(file, io.StringIO):
            file.write("<svg></svg>")
        else:
            Path(file).write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", savefig)


@dataclass(frozen=True)
class Tuned:
    """A model tuned by the paper's recipe, in a store of its own.

    Attributes:
        folder: With ``mlflow.db``, ``mlartifacts`` and ``.tbr``.
        uri: Of the model.
        said: What the training printed.
    """

    folder: Path
    uri: str
    said: str

    def copy_to(self, folder: Path) -> None:
        """Copy store and runs, to be written to; artifacts stay where they are."""
        shutil.copy(self.folder / "mlflow.db", folder)
        shutil.copytree(self.folder / ".tbr", folder / ".tbr", dirs_exist_ok=True)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Tuned:
    """The recipe's model, trained once for all workers: copy its store, or leave it as it is."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, said = shared / "tuned", shared / "tuned" / "said.txt"
    with FileLock(shared / "tuned.lock"):
        if not said.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            words = ("data=microworld", "model=tiny", "reflection=external", "seed=3")
            done = call_verb(folder, "train", *words, "run_name=train external seed 3")
            assert done.returncode == 0, done.stderr
            said.write_text(done.stdout)
    found = re.search(r"models:/m-[0-9a-f]{32}", said.read_text())
    assert found is not None
    return Tuned(folder, found[0], said.read_text())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data, where it is at hand."""
    for place in (os.environ.get("TBR_SHARED_DATA"), ROOT.parent / "shared" / "data"):
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("no real data: set TBR_SHARED_DATA or put it at ../shared/data")


def needs_command(name: str) -> str:
    """Return the path of a command; where it is missing, fail in CI and skip on a laptop."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed (Debian package {name})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@lru_cache
def _know_the_newest_tables() -> None:
    """Let MLflow read its migrations once, not again for every store that is opened."""
    from mlflow.store.db import utils

    utils._get_latest_schema_revision = lru_cache(utils._get_latest_schema_revision)


@lru_cache
def _empty_store() -> bytes:
    from tbr_lightning.config.schema import TrackingConfig
    from tbr_lightning.tracking.store import connect

    with tempfile.TemporaryDirectory() as folder:
        connect(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=folder))
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        return (Path(folder) / "mlflow.db").read_bytes()


def put_store(folder: Path) -> str:
    """Put an empty MLflow store into a folder; MLflow itself takes seconds to make its tables."""
    (folder / "mlflow.db").write_bytes(_empty_store())
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody answers: it is taken, and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A folder with an MLflow store of the test's own, closed again afterwards."""
    import mlflow

    put_store(tmp_path)
    yield tmp_path
    while mlflow.active_run() is not None:
        mlflow.end_run()
