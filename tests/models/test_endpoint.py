"""The external teacher against a real HTTP server on loopback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models import endpoint
from tbr_lightning.models.endpoint import Pace, Reply
from tbr_lightning.models.endpoint import complete as ask
from tbr_lightning.reflection.teachers import endpoint_teacher

from ..support.teacher_server import TeacherServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TeacherServer]:
    made = TeacherServer()
    monkeypatch.setenv("TEACHER_KEY", "secret")
    yield made
    made.shutdown()
    made.server_close()


def complete(prompts: Sequence[str], limits: EndpointConfig) -> Iterator[tuple[int, Reply]]:
    return ask(prompts, limits, max_tokens=256, group="reflection.endpoint")


def config(server: TeacherServer, **more: object) -> EndpointConfig:
    settings = {"base_url": server.url, "model": "teacher", "api_key_env": "TEACHER_KEY"} | more
    return EndpointConfig(**settings)  # type: ignore[arg-type]


def test_every_prompt_is_answered_with_its_tokens(server: TeacherServer) -> None:
    replies = dict(ask([f"p{n}" for n in range(12)], config(server), max_tokens=256, seed=3))
    assert sorted(replies) == list(range(12))
    assert all(replies[n].text.startswith(f"On p{n} ") for n in replies)
    assert replies[0].completion_tokens == 7
    assert set(server.keys) == {"Bearer secret"}
    assert (server.seen[0]["model"], server.seen[0]["seed"]) == ("teacher", 3)


def test_the_only_model_of_an_endpoint_needs_no_name(server: TeacherServer) -> None:
    assert dict(complete(["p"], config(server, model=None)))
    assert server.seen[0]["model"] == "teacher"


def test_rate_limits_and_failures_are_retried(server: TeacherServer) -> None:
    server.statuses = [429, 500, 503]
    assert len(dict(complete(["p"], config(server)))) == 1
    assert len(server.seen) == 4


def test_no_more_requests_are_under_way_than_allowed(server: TeacherServer) -> None:
    server.delay = 0.2
    replies = complete([f"p{n}" for n in range(20)], config(server, concurrency=4))
    assert len(list(replies)) == 20
    assert server.most == 4


def test_a_reply_that_ends_by_length_is_marked(server: TeacherServer) -> None:
    server.finish = "length"
    assert dict(complete(["p"], config(server)))[0].cut


@pytest.mark.parametrize(
    ("status", "says"), [(401, "refused the key in TEACHER_KEY"), (404, "'teacher' is not known")]
)
def test_what_no_retry_mends_is_told(server: TeacherServer, status: int, says: str) -> None:
    server.statuses = [status] * 50
    with pytest.raises(UserError, match=says):
        list(complete(["p"], config(server)))
    assert len(server.seen) == 1


def test_what_came_before_an_error_is_yielded(server: TeacherServer) -> None:
    server.statuses = [200] * 5 + [401] * 50
    got = []
    with pytest.raises(UserError, match="refused the key"):
        got.extend(complete([f"p{n}" for n in range(20)], config(server, concurrency=1)))
    replies = complete([f"p{n}" for n in range(20)], config(server, concurrency=4))
    server.statuses = [200] * 5 + [401] * 50
    got = []
    with pytest.raises(UserError, match="refused the key"):
        got.extend(replies)
    assert len(got) == 5


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b"[]"])
def test_a_malformed_body_is_told(server: TeacherServer, body: bytes) -> None:
    server.body = body
    with pytest.raises(UserError, match="not a chat completion"):
        list(complete(["p"], config(server, retries=0)))


def test_time_outs_and_unreachable_endpoints_are_told(
    server: TeacherServer, closed_port: int
) -> None:
    server.delay = 1.0
    with pytest.raises(UserError, match=r"reflection\.endpoint\.timeout=0\.2"):
        list(complete(["p"], config(server, timeout=0.2, retries=0)))
    with pytest.raises(UserError, match="does not answer"):
        list(
            complete(
                ["p"], config(server, base_url=f"http://127.0.0.1:{closed_port}/v1", retries=0)
            )
        )


def test_a_spent_budget_stops_and_keeps_what_was_paid(server: TeacherServer) -> None:
    prompts = [f"p{n}" for n in range(20)]
    got = []
    with pytest.raises(UserError, match=r"max_requests=6 is spent after 6 requests"):
        got.extend(complete(prompts, config(server, max_requests=6)))
    assert len(got) == len(server.seen) == 6
    prices = {"prompt_price": 100_000, "completion_price": 100_000, "concurrency": 1}
    got = []
    with pytest.raises(UserError, match=r"max_cost=3\.0 is spent after 3 requests"):
        got.extend(complete(prompts, config(server, max_cost=3.0, **prices)))
    assert len(got) == 3


def test_exactly_the_budget_is_no_error(server: TeacherServer) -> None:
    assert len(dict(complete(["a", "b"], config(server, max_requests=2)))) == 2


class Clock:
    """A clock that stands still but while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(endpoint, "time", made)
    return made


def test_a_pace_spreads_requests(clock: Clock) -> None:
    pace = Pace(600)
    for _ in range(4):
        pace.wait()
    assert clock.now == pytest.approx(0.3)
    clock.now += 60  # what was not asked meanwhile is not made up for
    for _ in range(3):
        pace.wait()
    assert clock.now == pytest.approx(60.5)


def test_tokens_per_minute_counts_prompts_and_replies(server: TeacherServer, clock: Clock) -> None:
    limits = config(server, tokens_per_minute=600, concurrency=1)
    # 40 characters are about 10 tokens; with a reply of up to 90 each request takes 10 s of 600.
    replies = ask(["x" * 40] * 4, limits, max_tokens=90)
    assert len(list(replies)) == 4
    assert clock.now == pytest.approx(30)


def test_a_chat_is_paced_by_the_length_of_its_messages(server: TeacherServer, clock: Clock) -> None:
    limits = config(server, tokens_per_minute=600, concurrency=1)
    chat = [{"role": "system", "content": "a" * 20}, {"role": "user", "content": "b" * 20}]
    assert len(list(ask([chat] * 4, limits, max_tokens=90))) == 4
    assert clock.now == pytest.approx(30)  # as one text of 40 characters


def test_failures_that_are_not_in_a_row_do_not_give_up(server: TeacherServer) -> None:
    server.statuses = [500, 500, 200, 500, 500, 200]
    limits = config(server, retries=0, concurrency=1)
    found = dict(ask([f"p{n}" for n in range(6)], limits, max_tokens=9, give_up=3))
    assert [bool(found[n].error) for n in range(6)] == [True, True, False, True, True, False]
    server.statuses = [500] * 6
    found = dict(ask([f"p{n}" for n in range(6)], limits, max_tokens=9, give_up=3))
    assert ["not asked" in found[n].error for n in range(6)] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_cost": 1.0}, "prompt_price"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"max_requests": 0}, "max_requests"),
        ({"api_key_env": "sk-1234"}, "^(?!.*1234).*name of an environment variable"),
    ],
)
def test_settings_that_cannot_work_are_told(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        EndpointConfig(**settings)  # type: ignore[arg-type]


def test_asking_again_for_the_same_answer_is_refused() -> None:
    with pytest.raises(UserError, match="raise the temperature"):
        ReflectionConfig(teacher="external", attempts=3)


@pytest.mark.parametrize("url", ["http://teacher.example/v1", "http://me:secret@10.0.0.9/v1"])
def test_a_key_goes_to_no_host_unencrypted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TEACHER_KEY", "" if "@" in url else "secret")
    asked = EndpointConfig(base_url=url, model="teacher", api_key_env="TEACHER_KEY")
    with pytest.raises(UserError, match="unencrypted: give an https address") as told:
        list(complete(["p"], asked))
    assert "secret" not in str(told.value)


def test_what_an_endpoint_refuses_before_it_understands_anything_is_asked_again(
    server: TeacherServer,
) -> None:
    prompts, got = [f"p{n}" for n in range(20)], []
    server.statuses = [400] * 200
    with pytest.raises(UserError):
        got.extend(complete(prompts, config(server, concurrency=1)))
    assert not got
    server.statuses = [400, 400]
    replies = dict(complete(prompts, config(server, concurrency=1)))
    assert len(replies) == 20
    assert [n for n, reply in replies.items() if reply.filtered]
    server.statuses = [400] * 3
    assert all(reply.filtered for reply in dict(complete(["p"], config(server))).values())


def test_the_name_of_an_only_model_is_part_of_its_teachers(server: TeacherServer) -> None:
    settings = ReflectionConfig(teacher="external", endpoint=config(server, model=None))
    assert endpoint_teacher(settings).name.endswith("/teacher")
