"""Storages: two runners on PostgreSQL, a changed file, and storages that cannot be used."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.errors import UserError
from tbr_lightning.tuning.space import active
from tbr_lightning.tuning.storage import open_study
from tbr_lightning.tuning.study import read_study

from .conftest import Start, outcome, times, wait_for

pytestmark = pytest.mark.slow

Write = Callable[..., Path]


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's own programs, which Debian keeps out of the path."""
    found = shutil.which("pg_ctl")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").is_file()), None)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a throw-away PostgreSQL server."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    pytest.importorskip("psycopg", reason="pip install 'tbr-lightning[postgres]'")
    # Not one of pytest's folders: those only their owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="tbr-postgres-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The server refuses to run as root.
    user = []
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    def call(name: str, *words: str) -> None:
        command = [*user, str(programs / name), *words]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "tbr", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://tbr@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_one_of_several_holds_a_lock_on_postgresql(postgres: str) -> None:
    opened = open_study(read_study("lock", "lock.yaml", STUDY), postgres)
    with (
        opened.locked("end", wait=False) as first,
        opened.locked("end", wait=False) as second,
        opened.locked() as another,
    ):
        assert (first, second, another) == (True, False, True)
    with opened.locked("end", wait=False) as first:
        assert first


def test_two_runners_share_a_study_on_postgresql_and_one_may_die(
    start: Start, write: Write, postgres: str, tmp_path: Path
) -> None:
    file, runs = write(trials=8), tmp_path / "runs"
    dies, lives = (start(file, postgres, workers=2, seconds=0.5) for _ in range(2))
    wait_for(lambda: len(times(runs)) > 2)
    os.killpg(dies.pid, signal.SIGKILL)
    assert outcome(lives)["counts"] == {"COMPLETE": 8}
    run = times(runs)
    assert sorted(run) == list(range(8))
    assert sum(map(len, run.values())) <= 10


STUDY = """
space: {x: {low: 0.0, high: 1.0}}
objectives: {x: minimize}
trials: 3
"""


def test_a_file_changed_under_an_unfinished_study_is_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = read_study("s", "s.yaml", STUDY)
    opened = open_study(study, url)
    opened.study.tell(opened.study.ask(active(study.space, {})), 0.5)
    changed = read_study("s", "s.yaml", STUDY.replace("high: 1.0", "high: 2.0"))
    with pytest.raises(UserError) as caught:
        open_study(changed, url)
    text = str(caught.value)
    assert "1 finished trials" in text
    assert "space: x: high was 1.0 and is 2.0" in text
    assert "sweep.new=true" in text
    assert open_study(read_study("s", "s.yaml", STUDY + "workers: 2"), url).key == study.key
    beside = open_study(changed, url, new=True)
    assert beside.key != study.key
    # Once it is there, it is resumed like any other.
    assert open_study(changed, url).key == beside.key


def test_a_lock_is_one_runners_at_a_time_and_a_dead_ones_no_more(tmp_path: Path) -> None:
    opened = open_study(read_study("s", "s.yaml", STUDY), f"sqlite:///{tmp_path}/s.db")
    program = f"""
import fcntl, time
lock = open("{tmp_path}/s.db.end.lock", "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(300)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with opened.locked("end", wait=False) as held, opened.locked() as another:
            assert (held, another) == (False, True)
        other.kill()
        other.wait()
        with opened.locked("end", wait=False) as held:
            assert held


def test_a_finished_study_may_be_changed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = read_study("s", "s.yaml", STUDY)
    opened = open_study(study, url)
    opened.study.tell(opened.study.ask(active(study.space, {})), 0.5)
    opened.study.set_user_attr("finished", True)
    open_study(read_study("s", "s.yaml", STUDY + "seed: 4"), url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("studies.db", "is not a URL"),
        ("mysql://u@h/d", "is not supported"),
        ("sqlite://", "is not supported"),
        ("sqlite:////proc/none/studies.db", "cannot be used"),
        ("sqlite:///there.db", "not a database"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told(url: str, says: str) -> None:
    Path("there.db").write_text("a file of another kind, long enough to be read as one" * 20)
    with pytest.raises(UserError) as caught:
        open_study(read_study("s", "s.yaml", STUDY), url)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreachable_storage_is_told_without_its_password(closed_port: int) -> None:
    pytest.importorskip("psycopg")
    url = f"postgresql://me:secret@127.0.0.1:{closed_port}/studies"
    with pytest.raises(UserError) as caught:
        open_study(read_study("s", "s.yaml", STUDY), url)
    text: Any = str(caught.value)
    assert "secret" not in text
    assert "cannot be used" in text
    assert "\n" not in text
