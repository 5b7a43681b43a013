"""Bodies that are made to cost much: packed, deep, long; each is refused, and cheaply."""

from __future__ import annotations

import resource
import socket
import zlib
from collections.abc import Callable

import pytest
import requests

from .conftest import NAME, Registry, Running


@pytest.fixture(scope="module")
def server(registry: Registry, start: Callable[..., Running]) -> Running:
    registry.add()
    return start(registry.config(f"models:/{NAME}/1", "poll=0"))


def _post(server: Running, body: bytes, **headers: str) -> requests.Response:
    return requests.post(
        f"{server.url}/v1/chat/completions",
        data=body,
        headers={"Content-Type": "application/json", **headers},
        timeout=60,
    )


def _packed(megabytes: int, *, gzipped: bool) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin, filler, end = b'{"messages": [{"role": "user", "content": "', b"a" * (1 << 20), b'"}]}'
    # Parts that know nothing of each other: the same one is packed once.
    parts = [packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH) for part in (begin, filler)]
    packed = parts[0] + parts[1] * megabytes + packer.compress(end) + packer.flush()
    checksum = zlib.crc32 if gzipped else zlib.adler32
    check = checksum(begin)
    for part in [filler] * megabytes + [end]:
        check = checksum(part, check)
    if not gzipped:
        return b"\x78\xda" + packed + check.to_bytes(4, "big")
    size = len(begin) + len(filler) * megabytes + len(end)
    head = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return head + packed + check.to_bytes(4, "little") + size.to_bytes(4, "little")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_small_body_that_unpacks_to_a_large_one(server: Running, encoding: str) -> None:
    packed = _packed(300, gzipped=encoding == "gzip")
    assert len(packed) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = _post(server, packed, **{"Content-Encoding": encoding})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert got.status_code in (400, 413, 415), got.text
    assert grown < 100 << 10  # kilobytes
    assert server.ask().status_code == 200


DEEP = 450_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
        b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 900_000 + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "stop": [' + b'"a",' * 200_000 + b'""]}',
        b'{"messages": [{"role": "user", "content": [' + b'{"type":"text","text":""},' * 38_000
        + b'{"type":"text","text":""}]}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {'
        + b",".join(b'"%d": 1' % n for n in range(60_000)) + b"}}",
        b"{" + b",".join(b'"k%d": 1' % n for n in range(60_000)) + b"}",
    ],
    ids=["deep lists", "deep objects", "a long number", "stops", "parts", "biases", "fields"],
)  # fmt: skip
def test_a_body_of_odd_form(server: Running, body: bytes) -> None:
    assert len(body) < 1 << 20
    got = _post(server, body)
    assert got.status_code in (200, 400), got.text[:500]
    assert len(got.content) < 2000
    assert server.ask().status_code == 200


def test_a_client_that_does_not_read_its_stream_gives_its_place_back(
    registry: Registry, start: Callable[..., Running]
) -> None:
    version = registry.add(answer="word " * 60_000, alias=None)
    server = start(
        registry.config(f"models:/{NAME}/{version}", "timeout=1", "poll=0", "check.enabled=false")
    )
    body = b'{"messages": [{"role": "user", "content": "x"}], "stream": true}'
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        deaf.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
            b"Content-Type: application/json\r\n\r\n" % len(body) + body
        )
        assert deaf.recv(100).startswith(b"HTTP/1.1 200 ")
        server.until(lambda: server.health()["in_flight"] == 0)
