"""External reflections: requests per second against a local endpoint that takes 200 ms a request.

    python benchmarks/external_reflections.py

The endpoint is a process of its own. With 64 requests under way the most it can answer is 320 a
second; what is missing to that is our own work, storing each reflection included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import tempfile
import time
import urllib.request
from pathlib import Path

import uvicorn

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.data.example import Example
from tbr_lightning.reflection.collect import collect
from tbr_lightning.reflection.store import reflection_store
from tbr_lightning.reflection.teachers import endpoint_teacher

DELAY = 0.2


async def endpoint(scope: dict, receive, send) -> None:
    if scope["type"] != "http":
        return
    more = scope["method"] == "POST"
    while more:
        more = (await receive()).get("more_body", False)
    await asyncio.sleep(DELAY)
    message = {"role": "assistant", "content": "It would hurt. So the request is harmful."}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "teacher"}
    body = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(port: int) -> None:
    uvicorn.run(endpoint, host="127.0.0.1", port=port, log_level="error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=64)
    args = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    for _ in range(50):
        time.sleep(0.2)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2)
            break
        except OSError:
            continue
    config = ReflectionConfig(
        teacher="external",
        endpoint=EndpointConfig(
            base_url=f"http://127.0.0.1:{port}/v1", model="teacher", concurrency=args.concurrency
        ),
    )
    rows = [Example(f"Harm {n}.", "No.", "harmful", "benchmark") for n in range(args.rows)]
    with tempfile.TemporaryDirectory() as folder:
        store = reflection_store(Path(folder) / "reflections.db")
        start = time.perf_counter()
        found = collect(rows, endpoint_teacher(config), store)
        seconds = time.perf_counter() - start
    server.terminate()
    most = args.concurrency / DELAY
    rate = found.asked / seconds
    print(f"{found.asked} requests in {seconds:.1f} s: {rate:.0f}/s of at most {most:.0f}/s")


if __name__ == "__main__":
    main()
