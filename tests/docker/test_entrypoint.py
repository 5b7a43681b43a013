"""The entry point of the train and serve images, run as the images run it."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import environment, needs_command, put_store
from .conftest import SCRIPTS, free_port, wait_until

pytestmark = pytest.mark.slow


def start(*words: str, tini: bool = False, **more: str) -> subprocess.Popen[str]:
    first = [needs_command("tini"), "-s", "--"] if tini else []
    return subprocess.Popen(
        [*first, sys.executable, SCRIPTS / "verb.py", *words],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*words: str, **more: str) -> tuple[int, str, str]:
    process = start(*words, **more)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@contextmanager
def answering(port: int, *answers: tuple[int, str]) -> Iterator[list[str]]:
    """Serve HTTP answers in turn, the last one for ever; yields the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["seed=3"], {}, ["train", "seed=3"]),
        ([], {"TBR_VERB": "serve"}, ["serve"]),
        (["status"], {"TBR_VERB": "promote"}, ["promote", "status"]),
        (["promote", "status"], {}, ["promote", "status"]),
        (["--help"], {}, ["train", "--help"]),
        (["evaluate", "model=a"], {"TBR_VERB": "serve"}, ["evaluate", "model=a"]),
        (
            ["seed=3"],
            {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
            ["train", "seed=3", "tracking=server"],
        ),
        (
            ["tracking=local"],
            {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
            ["train", "tracking=local"],
        ),
        (["seed=3"], {"MLFLOW_TRACKING_URI": "sqlite:///a.db"}, ["train", "seed=3"]),
    ],
)
def test_the_words_become_a_verb(
    words: list[str],
    environment: dict[str, str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    import verb

    command = verb.command(words, environment)
    assert command == [sys.executable, "-m", f"tbr_lightning.{expected[0]}", *expected[1:]]


def test_the_verbs_are_those_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    import verb

    from tbr_lightning.config.verbs import VERBS

    assert set(verb.VERBS) == set(VERBS)


def test_the_verb_answers_with_its_own_code_and_words(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"  # nobody is there, and nobody is needed
    code, out, _ = finish("--help", MLFLOW_TRACKING_URI=uri)
    assert (code, "usage: python -m tbr_lightning.train" in out) == (0, True)
    code, _, err = finish("seeds=3")
    assert (code, "did you mean 'seed'" in err) == (2, True)


def test_it_waits_until_the_tracker_answers() -> None:
    port = free_port()
    process = start("--no-such-option", MLFLOW_TRACKING_URI=f"http://user:secret@127.0.0.1:{port}")
    assert process.stdout is not None
    said = process.stdout.readline()
    assert "waiting for the MLflow server" in said
    assert "secret" not in said
    assert process.poll() is None
    with answering(port, (503, "starting"), (200, "{}")) as asked:
        out, err = process.communicate(timeout=60)
    assert len(asked) == 2
    assert asked[0].startswith("/api/2.0/mlflow/")
    # The verb itself answers now.
    assert (process.returncode, "is not an option" in err) == (2, True)
    assert out == ""


def test_it_gives_up_with_a_sentence() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    code, _, err = finish("seed=3", MLFLOW_TRACKING_URI=uri, TBR_WAIT_SECONDS="0.2")
    assert code == 69
    assert f"the MLflow server at {uri} did not answer within 0.2 s" in err
    assert "Traceback" not in err
    code, _, err = finish("seed=3", MLFLOW_TRACKING_URI=uri, TBR_WAIT_SECONDS="soon")
    assert (code, err) == (2, "TBR_WAIT_SECONDS=soon is not a number of seconds\n")


def test_a_refused_name_is_told_at_once() -> None:
    port = free_port()
    with answering(port, (403, "Invalid Host header - possible DNS rebinding attack detected")):
        code, _, err = finish("seed=3", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    assert code == 69
    assert f"refuses the name 127.0.0.1:{port}: add it to its MLFLOW_SERVER_ALLOWED_HOSTS" in err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read (No such file or directory): run `make secrets`"),
        ("", "is empty"),
        ("two words", "holds several words"),
    ],
)
def test_a_secret_that_cannot_be_used(tmp_path: Path, content: str | None, sentence: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    code, _, err = finish("seed=3", TBR_SERVE_TOKEN_FILE=str(file))
    assert code == 2
    assert f"TBR_SERVE_TOKEN_FILE={file} {sentence}" in err
    assert "two words" not in err
    assert "Traceback" not in err


def test_a_secret_is_not_given_twice(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-the-file")
    code, _, err = finish(
        "seed=3", TBR_SERVE_TOKEN_FILE=str(tmp_path / "token"), TBR_SERVE_TOKEN="from-the-shell"
    )
    assert code == 2
    assert err == "TBR_SERVE_TOKEN and TBR_SERVE_TOKEN_FILE are both set: unset one of them\n"


def test_serving_beyond_loopback_needs_the_token(tmp_path: Path) -> None:
    code, _, err = finish("host=0.0.0.0", TBR_VERB="serve")
    assert code == 2
    assert "host='0.0.0.0' is not a loopback address" in err
    assert "TBR_SERVE_TOKEN" in err
    # With the token of the file it gets as far as looking for the model.
    put_store(tmp_path)
    (tmp_path / "token").write_text("a-token-of-the-tests-own\n")
    code, out, err = finish(
        "host=0.0.0.0",
        f"port={free_port()}",
        "model=models:/nobody@champion",
        TBR_VERB="serve",
        TBR_SERVE_TOKEN_FILE=str(tmp_path / "token"),
    )
    assert code == 2
    assert "nobody" in err
    assert "a-token-of-the-tests-own" not in out + err


def test_a_signal_ends_the_wait() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    process = start("seed=3", MLFLOW_TRACKING_URI=uri)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM


def test_signals_reach_the_verb_itself() -> None:
    process = start("train", tini=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: children.read_text().split())
    (child,) = children.read_text().split()
    # The same process: it was replaced, not left waiting for a child of its own.
    wait_until(lambda: b"tbr_lightning.train" in Path(f"/proc/{child}/cmdline").read_bytes())

    def caught() -> int:
        status = Path(f"/proc/{child}/status").read_text()
        return int(status.split("SigCgt:")[1].split()[0], 16)

    wait_until(lambda: caught() >> (signal.SIGTERM - 1) & 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "train: interrupted" in err) == (130, True)
    assert not Path(f"/proc/{child}").exists()


def test_the_health_check() -> None:
    def health(url: str) -> int:
        return subprocess.run(
            [sys.executable, SCRIPTS / "health.py", url],
            env=environment(http_proxy="http://127.0.0.1:9"),
            stdout=subprocess.DEVNULL,
            check=False,
        ).returncode

    port = free_port()
    url = f"http://127.0.0.1:{port}/health"
    assert health(url) == 1
    with answering(port, (200, "OK"), (503, "draining")) as asked:
        assert health(url) == 0
        assert health(url) == 1
    assert asked == ["/health", "/health"]
