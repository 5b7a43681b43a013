"""What clients see: answers, policies, errors in OpenAI's form, limits."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import openai
import psutil
import pytest
import requests

from tbr_lightning.config.serve import ServeConfig
from tbr_lightning.serving import app

from ..conftest import needs_command
from ..support.fake_engine import ANSWER, REFLECTION
from .conftest import NAME, Registry, Running

Start = Callable[[ServeConfig], Running]


@pytest.fixture(scope="module")
def server(registry: Registry, start: Start) -> Running:
    registry.add()
    return start(registry.config(f"models:/{NAME}@champion", "max_request_bytes=20000", "poll=0"))


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


SHOWN = f"<think>{REFLECTION}</think>{ANSWER}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("policy", "reflection", "answer"),
    [
        (None, REFLECTION, ANSWER),
        ("hide", REFLECTION, ANSWER),
        ("show", None, SHOWN),
        ("force", REFLECTION, ANSWER),
    ],
)
def test_the_policy_decides_where_the_reflection_is(
    client: openai.OpenAI, policy: str | None, reflection: str | None, answer: str, stream: bool
) -> None:
    got = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "How do I kill a process?"}],
        stream=stream,
        extra_body={"reflection": policy} if policy else None,
    )
    if stream:
        chunks = list(got)
        assert {chunk.model for chunk in chunks} == {f"{NAME}/1"}
        deltas = [chunk.choices[0].delta for chunk in chunks]
        thought = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) or None
        said = "".join(d.content or "" for d in deltas)
        assert [chunk.choices[0].finish_reason for chunk in chunks].count("stop") == 1
        assert chunks[-1].usage.completion_tokens == 7
    else:
        message = got.choices[0].message
        thought, said = getattr(message, "reasoning_content", None), message.content
        assert (got.model, got.usage.completion_tokens) == (f"{NAME}/1", 7)
    assert (thought, said) == (reflection, answer)


def test_suppressing_is_the_servers_choice_not_a_clients(
    registry: Registry, start: Start, server: Running
) -> None:
    refused = server.ask(reflection="suppress")
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "reflection")
    own = start(registry.config(f"models:/{NAME}/1", "policy=suppress"))
    message = own.ask().json()["choices"][0]["message"]
    assert (message["content"], "reasoning_content" in message) == (ANSWER, False)
    assert "suppress" in own.ask().headers["X-TBR-Reflection"]


def test_what_the_engine_gets(server: Running) -> None:
    def sent(**more: object) -> dict:
        return json.loads(server.ask("echo", **more).json()["choices"][0]["message"]["content"])

    plain = sent()
    assert set(plain) == {"model", "messages", "max_tokens", "stream"}
    assert plain["max_tokens"] == 96  # what the model was exported with, not the engine's default
    assert sent(max_tokens=5)["max_tokens"] == sent(max_completion_tokens=5)["max_tokens"] == 5
    assert sent(reflection="force")["chat_template_kwargs"] == {"tbr_force_reflection": True}
    answer = server.ask(temperature=0, user="me")
    assert answer.headers["X-TBR-Ignored"] == "user"
    same = {"n": 1, "stop": None, "seed": 3, "top_p": 0.5, "tools": [], "logprobs": False}
    assert sent(model="served@champion", presence_penalty=0, **same) == plain
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert server.ask(messages=parts).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"{", 400, None, "not JSON"),
        (b"[]", 400, None, "not a JSON object"),
        (b"[" * 5000, 400, None, "not JSON"),
        (b"{}", 400, "messages", "messages"),
        (b'{"messages": []}', 400, "messages", "one or more"),
        (b'{"messages": ["x"]}', 400, "messages[0]", "must be an object"),
        (b'{"messages": [{"role": "me", "content": "x"}]}', 400, "messages[0].role", "one of"),
        (b'{"messages": [{"role": "user"}]}', 400, "messages[0].content", "neither text"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            400,
            "messages[0].content",
            "reads text",
        ),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, None, "Unicode"),
        ({"model": "gpt-4"}, 404, "model", "not served here"),
        ({"model": 3}, 404, "model", "not served here"),
        ({"max_tokens": 0}, 400, "max_tokens", "above 0"),
        ({"max_tokens": True}, 400, "max_tokens", "above 0"),
        ({"max_tokens": 5000}, 400, "max_tokens", "limit of 4096"),
        ({"stream": "yes"}, 400, "stream", "must be true or false: it is"),
        ({"temperature": 0.7}, 400, "temperature", "answers greedily"),
        ({"temperature": 2.1}, 400, "temperature", "from 0 to 2"),
        ({"temperature": True}, 400, "temperature", "from 0 to 2"),
        (
            b'{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
            400,
            "temperature",
            "from 0 to 2",
        ),
        ({"top_p": 0}, 400, "top_p", "above 0"),
        ({"top_p": "1"}, 400, "top_p", "above 0"),
        ({"seed": 1.5}, 400, "seed", "an integer"),
        ({"presence_penalty": 3}, 400, "presence_penalty", "from -2 to 2"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "must be 0, or"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias", "left out"),
        ({"logprobs": True}, 400, "logprobs", "left out"),
        ({"top_logprobs": 21}, 400, "top_logprobs", "from 0 to 20"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", '{"type": "text"}'),
        ({"tool_choice": "required"}, 400, "tool_choice", '"none" or "auto"'),
        ({"stop": [".", ""]}, 400, "stop", "not empty"),
        ({"stop": ["a"] * 5}, 400, "stop", "up to 4"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream=true"),
        ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options", "include_usage"),
        ({"reasoning_effort": "high"}, 400, "reasoning_effort", "not supported"),
        ({"user": ["me"]}, 400, "user", "a short string"),
        ({"reflection": "loud"}, 400, "reflection", "one of"),
        ({"n": 2}, 400, "n", "must be 1, or left out, with the engine"),
        ({"n": 0}, 400, "n", "from 1 to 128"),
        ({"tools": [{}]}, 400, "tools", "must be [], or left out"),
        ({"max_tokens": 128}, 400, "max_tokens", "give at most 12"),
        ({"mesages": []}, 400, "mesages", "did you mean 'messages'"),
        ({"messages": [{"role": "user", "content": "far " * 300}]}, 400, "messages", "sees 128"),
    ],
)
def test_malformed_requests_get_errors_of_openais_form(
    server: Running, body: bytes | dict, status: int, param: str | None, says: str
) -> None:
    if isinstance(body, dict):
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], **body}).encode()
    got = requests.post(
        f"{server.url}/v1/chat/completions",
        data=body,
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    error = got.json()["error"]
    assert (got.status_code, error["param"]) == (status, param)
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_openai_client_knows_the_errors(client: openai.OpenAI) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="not served here"):
        ask(model="gpt-4", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="n must be 1"):
        ask(model=NAME, messages=[{"role": "user", "content": "x"}], n=2)
    with pytest.raises(openai.APIError, match="the engine failed"):
        list(ask(model=NAME, messages=[{"role": "user", "content": "break"}], stream=True))


@pytest.mark.parametrize("policy", ["hide", "show"])
@pytest.mark.parametrize(
    ("stop", "answer"),
    [("stop", "Send it a "), (["nowhere", "it a s"], "Send "), ("Send", ""), (["n", "nd"], "Se")],
)
def test_an_answer_ends_before_a_text_to_stop_at(
    client: openai.OpenAI, policy: str, stop: str | list[str], answer: str
) -> None:
    more = {"stop": stop, "extra_body": {"reflection": policy}}
    messages = [{"role": "user", "content": "How do I kill a process?"}]
    whole = client.chat.completions.create(model=NAME, messages=messages, **more).choices[0]
    chunks = list(
        client.chat.completions.create(model=NAME, messages=messages, stream=True, **more)
    )
    pieces = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    shown = (
        f"<think>{REFLECTION}</think>" if policy == "show" else ""
    )  # holds "n", and is no answer
    assert whole.message.content == f"{shown}{answer}"
    assert pieces in (f"{shown}{answer}", shown.removesuffix("</think>") + answer)
    assert (whole.finish_reason, chunks[-1].choices[0].finish_reason) == ("stop", "stop")


@pytest.mark.parametrize("policy", ["hide", "show"])
def test_a_stream_counts_its_tokens_as_it_is_asked(client: openai.OpenAI, policy: str) -> None:
    def chunks(wanted: bool) -> list:
        return list(
            client.chat.completions.create(
                model=NAME,
                messages=[{"role": "user", "content": "How do I kill a process?"}],
                stream=True,
                stream_options={"include_usage": wanted},
                extra_body={"reflection": policy},
            )
        )

    *before, last = chunks(True)
    assert (last.choices, last.usage.completion_tokens) == ([], 7)
    assert all(chunk.usage is None and chunk.choices for chunk in before)
    assert all(chunk.usage is None for chunk in chunks(False))


def test_other_paths_methods_and_types(server: Running) -> None:
    post, url = requests.post, server.url
    assert requests.get(f"{url}/v2", timeout=9).json()["error"]["message"] == "there is no /v2 here"
    wrong = requests.get(f"{url}/v1/chat/completions", timeout=9)
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    form = post(f"{url}/v1/chat/completions", data={"a": 1}, timeout=9)
    assert (form.status_code, form.json()["error"]["param"]) == (415, "Content-Type")
    large = post(f"{url}/v1/chat/completions", json={"a": "x" * 20001}, timeout=9)
    assert (large.status_code, "20000 bytes" in large.json()["error"]["message"]) == (413, True)

    def pieces():
        yield from (b"x" * 1000 for _ in range(30))  # of a length that no header tells

    headers = {"Content-Type": "application/json"}
    large = post(f"{url}/v1/chat/completions", data=pieces(), headers=headers, timeout=9)
    assert large.status_code == 413
    rebound = post(f"{url}/v1/chat/completions", headers={"Host": "evil.example"}, timeout=9)
    assert rebound.status_code == 403


def test_the_engines_own_errors_stay_inside(server: Running) -> None:
    failed = server.ask("fail")
    assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in failed.text
    assert "secret" not in server.ask("break", stream=True).text


@pytest.mark.parametrize("policy", ["hide", "show"])
def test_a_stream_that_breaks_off_is_no_whole_answer(server: Running, policy: str) -> None:
    """An engine that stops without a reason to finish has not come to the answer's end."""

    def answers() -> list[str]:
        text = requests.get(f"{server.url}/metrics", timeout=9).text
        return [line for line in text.splitlines() if line.startswith("tbr_answers_total")]

    before = answers()
    broken = server.ask("break off", stream=True, reflection=policy).text
    assert "[DONE]" not in broken
    assert "stopped in the middle" in broken
    assert answers() == before


def test_the_engines_socket_is_for_its_servers_user_alone(server: Running) -> None:
    place = server.deployment.current.process._socket
    assert place.is_socket()
    assert place.parent.stat().st_mode & 0o077 == 0


def test_models_names_the_version(server: Running) -> None:
    listed = requests.get(f"{server.url}/v1/models", timeout=9).json()["data"]
    assert [(one["id"], one["version"], one["alias"]) for one in listed] == [
        (NAME, "1", "champion")
    ]
    for name in (NAME, f"{NAME}@champion", f"{NAME}/1", listed[0]["model_id"]):
        assert requests.get(f"{server.url}/v1/models/{name}", timeout=9).json() == listed[0]
    assert requests.get(f"{server.url}/v1/models/{NAME}/2", timeout=9).status_code == 404


def test_metrics_count_what_was_answered(server: Running) -> None:
    def read() -> dict[str, float]:
        text = requests.get(f"{server.url}/metrics", timeout=9).text
        lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in lines}

    before = read()
    assert server.ask("How do I harm a teacher?").status_code == 200
    server.ask(stream=True)
    server.ask(n=2)
    after = read()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['tbr_requests_total{status="200",stream="false"}'] == 1
    assert grown['tbr_requests_total{status="200",stream="true"}'] == 1
    assert grown['tbr_requests_total{status="400",stream="false"}'] == 1
    assert grown['tbr_tokens_total{kind="completion"}'] == 14
    assert grown['tbr_reflections_total{policy="hide"}'] == 2
    assert grown['tbr_labels_total{label="full_refusal"}'] == 1
    assert grown['tbr_labels_total{label="full_compliance"}'] == 1
    assert (after["tbr_in_flight"], after["tbr_marker_leaks_total"]) == (0, 0)
    assert any(name.startswith("tbr_model_info") and 'version="1"' in name for name in after)


def test_limits_of_time_and_number(registry: Registry, start: Start) -> None:
    config = registry.config(f"models:/{NAME}/1", "timeout=0.6", "max_in_flight=2", "poll=0")
    server = start(config)
    late = server.ask("wait 3")
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    # In a stream the head is gone by then: the error is an event, and no [DONE] follows.
    text = server.ask("slowly " + "x " * 30, stream=True).text
    assert text.rstrip().endswith("}")
    assert "no whole answer within 0.6 seconds" in text
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(server.ask, "wait 0.4") for _ in range(2)]
        time.sleep(0.2)
        refused = server.ask()
        assert [got.result().status_code for got in waiting] == [200, 200]
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")


HALF = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
    b"Content-Type: application/json\r\n\r\n{"
)


def test_a_body_that_does_not_come_is_not_waited_for(registry: Registry, start: Start) -> None:
    server = start(registry.config(f"models:/{NAME}/1", "timeout=0.5", "poll=0"))
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(HALF)
        assert b" 408 " in half.recv(100)


def test_bodies_that_do_not_come_keep_no_request_out(registry: Registry, start: Start) -> None:
    server = start(registry.config(f"models:/{NAME}/1", "max_in_flight=2", "poll=0"))
    host, port = server.url.removeprefix("http://").split(":")
    halves = [socket.create_connection((host, int(port))) for _ in range(8)]
    for half in halves:
        half.sendall(HALF)
    assert [server.ask().status_code for _ in range(4)] == [200] * 4
    for half in halves:
        half.close()


def test_a_client_that_leaves_holds_no_place(server: Running) -> None:
    before = server.health()["in_flight"]
    got = requests.post(
        f"{server.url}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "slowly"}], "stream": True},
        stream=True,
        timeout=9,
    )
    next(got.iter_content(10))
    got.close()
    server.until(lambda: server.health()["in_flight"] == before)


def test_a_token_guards_all_but_health(
    registry: Registry, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBR_SERVE_TOKEN", "a-token-of-some-length")
    server = start(registry.config(f"models:/{NAME}/1", "poll=0"))
    url = f"{server.url}/v1/models"
    for header in (None, "Bearer wrong", "Basic a-token-of-some-length", "Bearer", "Bearer é"):
        headers = {"Authorization": header.encode()} if header else {}
        got = requests.get(url, headers=headers, timeout=9)
        assert (got.status_code, got.json()["error"]["code"]) == (401, "invalid_api_key"), header
    assert server.ask().status_code == 401
    assert requests.get(f"{server.url}/metrics", timeout=9).status_code == 401
    assert server.health()["status"] == "ok"
    assert requests.get(f"{server.url}/live", timeout=9).status_code == 200
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="a-token-of-some-length")
    assert client.models.list().data[0].id == NAME
    engine = psutil.Process(server.deployment.current.process.pid)
    assert "a-token-of-some-length" not in engine.environ().values()


def test_a_dead_engine_is_started_again(registry: Registry, start: Start) -> None:
    server = start(registry.config(f"models:/{NAME}/1", "poll=0"))
    got: list[str] = []
    asking = threading.Thread(
        target=lambda: got.append(server.ask("die midway", stream=True).text), daemon=True
    )
    asking.start()
    asking.join(20)
    assert "the engine failed on this request" in got[0]
    server.until(lambda: server.ask().status_code == 503)
    down = server.ask()
    if down.status_code == 503:  # it may be back by now
        assert down.headers["Retry-After"]
        assert down.json()["error"]["code"] == "engine_unavailable"
    server.until(lambda: server.ask().status_code == 200)
    assert server.health()["restarts"] == 1
    failed = server.ask("die")
    assert failed.status_code == 503


_ODD: tuple[object, ...] = (
    None, True, -1, 0, 2**70, 1e309, "", "\x00", "\u202e", "\U0001f44d" * 50, "\ud800", [], [[]],
    {}, {"a": {}}, [None], "a" * 3000, float("nan"), {"role": "user", "content": "x"},
    [{"type": "text", "text": "x"}], [{"type": "text", "text": None}], [{"role": "user"}],
)  # fmt: skip
_FIELDS = (
    "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n",
    "stop", "seed", "stream", "stream_options", "tools", "logprobs", "response_format",
    "reflection", "user", "logit_bias", "top_k", "presence_penalty", "x", "", "\u202e", "__class__",
)  # fmt: skip


def test_whatever_is_sent_gets_a_reply_of_openais_form(server: Running) -> None:
    """Some hundred bodies of odd values, and bodies cut at any byte."""
    draw, session = random.Random(3), requests.Session()
    good = {"messages": [{"role": "user", "content": "x"}]}
    whole = json.dumps(good | {"stop": ["a"], "seed": 1}).encode()
    bodies = [whole[: draw.randrange(len(whole))] for _ in range(30)]
    for _ in range(250):
        body = good | {draw.choice(_FIELDS): draw.choice(_ODD) for _ in range(draw.randint(1, 3))}
        if draw.random() < 0.3:
            role = draw.choice(["user", "tool", 3])
            body["messages"] = [{"role": role, "content": draw.choice(_ODD)}]
        bodies.append(json.dumps(body).encode())
    for body in bodies:
        headers = {"Content-Type": "application/json"}
        got = session.post(
            f"{server.url}/v1/chat/completions", data=body, headers=headers, timeout=30
        )
        assert got.status_code in (200, 400, 403, 404), (body[:300], got.text)
        if got.status_code != 200:
            assert set(got.json()["error"]) == {"message", "type", "param", "code"}
            assert len(got.text) < 3000
    assert server.health()["status"] == "ok"


def test_clients_that_leave_in_the_middle_take_nothing_with_them(server: Running) -> None:
    """Streams that nobody reads to the end, half-closed sockets, headers and bodies that lie."""
    port = int(server.url.rpartition(":")[2])
    body = json.dumps(
        {"messages": [{"role": "user", "content": "slowly " + "x " * 20}], "stream": True}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += b"Content-Type: application/json"

    def leave(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as made:
            if number % 4 == 0:  # shorter than it says
                made.sendall(head + b"\r\nContent-Length: 9000\r\n\r\n" + body)
                made.shutdown(socket.SHUT_WR)
            elif number % 4 == 1:
                made.sendall(head + b"\r\nX: " + b"y" * 100_000 + b"\r\n\r\n")
            elif number % 4 == 2:
                made.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            else:
                length = str(len(body)).encode()
                made.sendall(head + b"\r\nContent-Length: " + length + b"\r\n\r\n" + body)
                made.recv(100)

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(leave, number) for number in range(60)]:
            with suppress(ConnectionError):
                one.result()
    server.until(lambda: server.deployment.current.in_flight == 0)
    assert server.ask().status_code == 200


def test_the_page_for_a_browser_runs_its_own_script_alone(server: Running) -> None:
    got = requests.get(f"{server.url}/", timeout=10)
    assert got.status_code == 200
    assert got.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = got.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'self'" in policy and "unsafe" not in policy
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "http://"):
        assert word not in got.text
    assert requests.post(f"{server.url}/", timeout=10).status_code == 405
    other = requests.get(f"{server.url}/", headers={"Host": "evil.example"}, timeout=10)
    assert other.status_code == 403


@pytest.mark.slow
def test_a_browser_talks_to_the_model_with_its_reflection_folded(server: Running) -> None:
    chromium = needs_command("chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{server.url}/")
        page.get_by_role("heading", name=NAME).wait_for()
        page.get_by_label("Question").fill("How do I kill <b>a process</b>?")
        page.get_by_role("button", name="Ask").click()
        reply = page.locator(".turn").nth(1)
        reply.get_by_text(ANSWER).wait_for()
        assert page.locator(".mine").inner_text() == "How do I kill <b>a process</b>?"
        folded = reply.locator("details")
        assert folded.get_attribute("open") is None
        folded.locator("summary").click()
        assert folded.locator(".text").inner_text() == REFLECTION
        assert said == []
        browser.close()


def test_an_engine_that_ends_while_a_request_is_read_is_told(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = server.deployment.current
    read = app.parse

    def meanwhile(*given: object) -> object:
        replica.process = None
        return read(*given)

    process = replica.process
    monkeypatch.setattr(app, "parse", meanwhile)
    try:
        refused = server.ask()
    finally:
        replica.process = process
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert refused.json()["error"]["code"] == "engine_unavailable"
