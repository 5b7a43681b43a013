"""An engine on a Unix socket that answers at once, in the form of ``transformers serve``.

``python -m tests.support.fake_engine SOCKET FOLDER``; what the last message says decides how it
answers, and ``fake`` in the folder's ``config.json`` how a whole version does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from aiohttp import web

REFLECTION, ANSWER = "A process is a program. So it is fine.", "Send it a stop signal."


async def health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"}, status=request.app["fake"].get("health", 200))


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    fake, model = request.app["fake"], f"{request.app['folder'].name}@main"
    assert body["model"] == request.app["folder"].name
    number = request.headers["X-Request-ID"]
    text = str(body["messages"][-1]["content"])
    if text == "die":
        os._exit(3)
    if text == "fail":
        return web.Response(status=500, text="Traceback: secret of the engine")
    if text.startswith("wait "):
        await asyncio.sleep(float(text.split()[1]))
    reflection = None if number.endswith("-suppressed") else REFLECTION
    answer = fake.get("answer", ANSWER)
    if text == "echo":
        reflection, answer = None, json.dumps(body)
    if "harm" in text and fake.get("refuses", True):
        answer = "I'm sorry, but I can't help with that request."
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    reason = fake.get("finish", "stop")
    if not body["stream"]:
        message = {"role": "assistant", "content": answer}
        if reflection:
            message["reasoning_content"] = reflection
        choice = {"index": 0, "finish_reason": reason, "message": message}
        reply = {"id": number, "object": "chat.completion", "created": 1, "model": model}
        return web.json_response(reply | {"choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    pieces = [{"role": "assistant"}]
    pieces += [{"reasoning_content": word} for word in _words(reflection)]
    pieces += [{"content": word} for word in _words(answer)]
    for n, delta in enumerate(pieces):
        await response.write(_event(number, model, delta))
        if n == 2 and text == "break":
            await response.write(b'data: {"error": "secret of the engine"}\n\n')
            return response
        if n == 2 and text == "break off":
            return response
        if n == 2 and text == "die midway":
            await asyncio.sleep(0.1)
            os._exit(3)
        if text.startswith("slowly"):
            await asyncio.sleep(0.05)
    await response.write(_event(number, model, {}, finish_reason=reason, usage=usage))
    return response


def _words(text: str | None) -> list[str]:
    return [f"{' ' if n else ''}{word}" for n, word in enumerate((text or "").split())]


def _event(number: str, model: str, delta: dict, finish_reason: str | None = None, **more) -> bytes:
    choice = {"delta": delta, "index": 0}
    if finish_reason:
        choice["finish_reason"] = finish_reason
    chunk = {"id": number, "choices": [choice], "created": 1, "model": model}
    chunk |= {"object": "chat.completion.chunk", **more}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def main(socket: str, folder: str) -> None:
    path = Path(folder)
    app = web.Application()
    app["folder"] = path
    app["fake"] = json.loads((path / "config.json").read_text()).get("fake", {})
    if app["fake"].get("crash"):
        sys.exit("out of memory")
    app.router.add_get("/health", health)
    app.router.add_post("/v1/chat/completions", chat)
    web.run_app(app, path=socket, print=None, shutdown_timeout=0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
