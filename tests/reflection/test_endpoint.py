"""The external teacher against a real HTTP server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.errors import UserError
from tbr_lightning.reflection.endpoint import complete


class Endpoint(BaseHTTPRequestHandler):
    """Answers chat completions; what it does is set on its server."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.headers["Authorization"], body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        text = f"On {body['messages'][0]['content']}: So the request is harmful."
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": self.server.finish,
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        }
        payload = json.dumps(answer if status == 200 else {"error": {"message": "no"}}).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    made.seen, made.statuses, made.finish = [], [], "stop"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("TEACHER_KEY", "secret")
    yield made
    made.shutdown()
    made.server_close()


def config(server: ThreadingHTTPServer, **more: object) -> ReflectionConfig:
    return ReflectionConfig(
        teacher="external",
        base_url=f"http://127.0.0.1:{server.server_port}/v1",
        model="teacher",
        api_key_env="TEACHER_KEY",
        **more,
    )


def test_every_prompt_is_answered_with_its_tokens(server: ThreadingHTTPServer) -> None:
    replies = dict(complete([f"p{n}" for n in range(12)], config(server)))
    assert sorted(replies) == list(range(12))
    assert all(replies[n].text.startswith(f"On p{n}:") for n in replies)
    assert replies[0].completion_tokens == 7
    assert {key for key, _ in server.seen} == {"Bearer secret"}
    assert server.seen[0][1]["model"] == "teacher"


def test_rate_limits_and_failures_are_retried(server: ThreadingHTTPServer) -> None:
    server.statuses = [429, 500, 503]
    assert len(dict(complete(["p"], config(server)))) == 1
    assert len(server.seen) == 4


def test_a_reply_that_ends_by_length_is_marked(server: ThreadingHTTPServer) -> None:
    server.finish = "length"
    assert dict(complete(["p"], config(server)))[0].cut


@pytest.mark.parametrize(
    ("status", "says"), [(401, "refused the key in TEACHER_KEY"), (404, "'teacher' is not known")]
)
def test_what_no_retry_mends_is_told(server: ThreadingHTTPServer, status: int, says: str) -> None:
    server.statuses = [status] * 50
    with pytest.raises(UserError, match=says):
        list(complete(["p"], config(server)))
    assert len(server.seen) == 1


def test_an_unreachable_endpoint_is_told(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tbr_lightning.reflection import endpoint

    monkeypatch.setattr(endpoint, "_RETRIES", 0)
    settings = config(server)
    settings.base_url = "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match="does not answer"):
        list(complete(["p"], settings))
