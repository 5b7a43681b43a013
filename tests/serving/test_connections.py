"""A server stays up: connections without headers, and prompts that its model cannot take."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadStatusLine
from jinja2 import TemplateError

from tbr_lightning.errors import UserError
from tbr_lightning.serving import connections
from tbr_lightning.serving.chat import plain
from tbr_lightning.serving.connections import Bodies, Handler, Limiter
from tbr_lightning.serving.files import Checked, private_copy, remove_left, stamp_of
from tbr_lightning.serving.problems import RequestError
from tbr_lightning.serving.prompt import laid_out, renderer
from tbr_lightning.serving.server import Bounded

UNFINISHED = b"GET / HTTP/1.1\r\nHost: x\r\nX-Never: "
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def _served(most: int, handler: Handler = _hello) -> tuple[asyncio.Server, Limiter, int]:
    limiter = Limiter(most)
    app = web.Application(middlewares=[limiter.middleware])
    app.router.add_route("*", "/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    limiter.handler = runner.server
    server = await asyncio.get_running_loop().create_server(limiter, "127.0.0.1", 0)
    return server, limiter, server.sockets[0].getsockname()[1]


async def _asked(port: int, sent: bytes = WHOLE) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def test_connections_without_headers_make_room_for_requests() -> None:
    async def scene() -> None:
        server, limiter, port = await _served(most=4)
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        for _, writer in idle:
            writer.write(UNFINISHED)
        assert (await _asked(port)).endswith(b"hello")
        assert limiter.open <= 4
        for _, writer in idle:
            writer.close()
        server.close()

    asyncio.run(scene())


def test_at_the_limit_of_requests_under_way_a_new_one_is_refused_at_once() -> None:
    async def scene() -> None:
        held = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            await held.wait()
            return web.Response(text="done")

        server, limiter, port = await _served(2, slow)
        under_way = [asyncio.create_task(_asked(port)) for _ in range(2)]
        while limiter.open < 2 or limiter.idle:
            await asyncio.sleep(0.01)
        assert (await _asked(port)).startswith(b"HTTP/1.1 503 ")
        held.set()
        assert all(answer.endswith(b"done") for answer in await asyncio.gather(*under_way))
        while limiter.open:
            await asyncio.sleep(0.01)
        server.close()

    asyncio.run(scene())


def test_headers_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS_TIMEOUT", 0.05)

    async def scene() -> None:
        server, limiter, port = await _served(most=4)
        with suppress(ConnectionResetError):
            assert await _asked(port, UNFINISHED) == b""
        assert limiter.open == 0
        server.close()

    asyncio.run(scene())


@pytest.mark.parametrize("more", [b"", UNFINISHED], ids=["silent", "unfinished"])
def test_connections_that_were_used_once_make_room_too(more: bytes) -> None:
    """A first request that is answered keeps nobody else out, whatever follows it."""

    async def scene() -> None:
        server, limiter, port = await _served(most=4)
        used = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"hello")
            writer.write(more)
            used.append(writer)
        assert limiter.open == 4
        assert [(await _asked(port)).endswith(b"hello") for _ in range(6)] == [True] * 6
        for writer in used:
            writer.close()
        server.close()

    asyncio.run(scene())


def test_a_used_connection_has_a_deadline_for_its_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", 0.05)

    async def scene() -> None:
        server, limiter, port = await _served(most=4)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + UNFINISHED)
        with suppress(ConnectionResetError):
            assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"hello")
        assert (limiter.open, limiter.of) == (0, {})
        writer.close()
        server.close()

    asyncio.run(scene())


BODY = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"


def test_bodies_that_come_slowly_keep_no_others_out() -> None:
    async def scene() -> None:
        bodies = Bodies(2)

        async def echo(request: web.Request) -> web.Response:
            try:
                return web.Response(body=await bodies.read(request))
            except RequestError as error:
                return web.Response(status=error.status)

        server, _, port = await _served(100, echo)
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        for _, writer in slow:
            writer.write(BODY + b"a")
            await writer.drain()
        assert (await _asked(port, BODY + b"abcd")).endswith(b"abcd")
        told = await asyncio.wait_for(slow[0][0].readline(), 10)
        assert told.startswith(b"HTTP/1.1 408 ")
        for _, writer in slow:
            writer.close()
        server.close()

    asyncio.run(scene())


def test_a_body_has_a_deadline() -> None:
    async def scene() -> None:
        async def read(request: web.Request) -> web.Response:
            with pytest.raises(RequestError, match="did not come in time"):
                await Bodies(2, 0.05).read(request)
            return web.Response(status=408)

        server, _, port = await _served(4, read)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(BODY)
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        server.close()

    asyncio.run(scene())


STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}"
    "{% elif m['role'] != ('user', 'assistant')[loop.index0 % 2] %}{{ raise_exception('turns') }}"
    "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
)


def _said(*turns: str) -> list[dict[str, str]]:
    return [dict(zip(("role", "content"), turn.split(":"), strict=True)) for turn in turns]


def test_a_system_turn_that_is_refused_goes_before_the_first_user_turn() -> None:
    render = renderer(STRICT, {})
    assert render is not None
    assert laid_out(_said("user:a", "assistant:b"), render)[1] == "<user>a<assistant>b"
    messages, prompt = laid_out(_said("system:Be brief.", "user:a"), render)
    assert prompt == "<user>Be brief.\n\na"
    assert [message["role"] for message in messages] == ["user"]


@pytest.mark.parametrize(
    ("turns", "says"),
    [(["user:a", "user:b"], "turns"),
     (["assistant:a"], "turns"), (["system:a"], "no system turn")],
)  # fmt: skip
def test_what_the_template_refuses_is_told_in_its_words(turns: list[str], says: str) -> None:
    render = renderer(STRICT, {})
    assert render is not None
    with pytest.raises(TemplateError, match=says):
        laid_out(_said(*turns), render)


def test_a_template_that_only_the_engine_can_render_is_left_to_it() -> None:
    assert renderer("{{ messages | nonesuch }}", {}) is None
    assert renderer("{{ here_only() }}", {}) is None


def test_what_is_served_is_a_copy(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "model").mkdir(parents=True)
    weights = store / "model" / "model.safetensors"
    weights.write_bytes(b"Yes.")
    copy = private_copy(store, tmp_path / "served" / "artifacts")
    files = Checked(copy, "d", "by", (store,), stamp_of((store,)))
    assert not files.changed
    weights.write_bytes(b"Never.")
    assert (copy / "model" / "model.safetensors").read_bytes() == b"Yes."
    assert files.changed


def test_a_copy_for_which_there_is_no_room_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name in ("a", "b"):
        (store / name).write_text(name)

    def full(_: IO[bytes], target: IO[bytes], __: int) -> None:
        target.write(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tbr_lightning.serving.files._CLONE", 0)  # as where nothing is cloned
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(UserError, match="the disk is full"):
        private_copy(store, tmp_path / "served" / "artifacts")
    assert not (tmp_path / "served" / "artifacts").exists()


def test_copies_of_servers_that_are_gone_are_removed(tmp_path: Path) -> None:
    for name in (f"{os.getpid()}-mine", "99999999-gone", "other"):
        (tmp_path / name).mkdir()
    remove_left(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{os.getpid()}-mine", "other"}


def test_clients_cannot_fill_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.Logger("aiohttp.server")
    handler = logging.StreamHandler(sys.stderr)
    bounded = Bounded()
    handler.addFilter(bounded)
    log.addHandler(handler)
    for _ in range(5):
        try:
            raise BadStatusLine("GET \x00")
        except BadStatusLine:
            log.exception("Error handling request from %s", "127.0.0.1")
    assert capsys.readouterr().err == ""
    for number in range(500):
        log.error("line %d", number)
    assert len(capsys.readouterr().err.splitlines()) == bounded.lines
    bounded._since -= 2 * bounded.seconds
    log.error("later %d", 1)
    assert capsys.readouterr().err == "later 1 (440 lines before it were left out)\n"


def test_a_models_answer_is_no_program_for_a_terminal() -> None:
    assert (
        plain("a\x1b[31m\x9b2J\rb\n\tc\u202ed é 👍")
        == "a\ufffd[31m\ufffd2J\ufffdb\n\tc\ufffdd é 👍"
    )


def test_a_system_text_that_a_template_leaves_out_goes_before_the_request() -> None:
    silent = (
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    render = renderer(silent, {})
    assert render is not None
    messages, prompt = laid_out(_said("system:Be brief.", "user:a"), render)
    assert prompt == "<user>Be brief.\n\na"
    assert [message["role"] for message in messages] == ["user"]
