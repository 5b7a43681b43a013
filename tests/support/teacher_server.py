"""A teacher on loopback: an OpenAI-compatible endpoint that fails on order and logs what it saw."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class TeacherServer(ThreadingHTTPServer):
    """Answers every chat completion with a reflection that finds harm.

    Attributes:
        seen: Bodies of the requests, in order.
        keys: Authorization headers.
        statuses: Status of each next reply, before all others are 200.
        finish: Finish reason of every reply.
        delay: Seconds before a reply.
        body: Sent instead of a completion, if set.
        text: What the teacher says; ``{prompt}`` is the request.
        fields: More fields of its message.
        filtered: Prompts that hold it are ended by a filter.
        most: Requests that were under way at the same time, at most.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict] = []
        self.keys: list[str] = []
        self.statuses: list[int] = []
        self.finish, self.delay, self.body = "stop", 0.0, None
        self.fields: dict[str, str] = {}
        self.filtered: str | None = None
        self.under_way = self.most = 0
        self.counting = threading.Lock()
        self.text = "On {prompt} This would hurt someone. So the request is harmful."
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one segment; without it each reply waits for an acknowledgement.
    wbufsize = -1

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": [{"id": "teacher"}]}).encode())

    def do_POST(self) -> None:
        server: TeacherServer = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append(request)
        server.keys.append(self.headers["Authorization"])
        status = server.statuses.pop(0) if server.statuses else 200
        with server.counting:
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        time.sleep(server.delay)
        with server.counting:
            server.under_way -= 1
        prompt = request["messages"][0]["content"]
        message = {"role": "assistant", "content": server.text.replace("{prompt}", prompt[-80:])}
        message |= server.fields
        finish = server.finish
        if server.filtered is not None and server.filtered in prompt:
            finish, message["content"] = "content_filter", ""
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "finish_reason": finish, "message": message}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        }
        body = server.body or json.dumps(answer if status == 200 else {"error": {}}).encode()
        self._send(status, body)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
