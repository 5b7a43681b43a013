"""Two models on one server, the page that asks both, and labels that reach MLflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlflow
import pytest
import requests

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.serve import ServeConfig
from tbr_lightning.errors import UserError

from ..conftest import needs_command
from ..support.fake_engine import ANSWER, REFLECTION
from .conftest import NAME, Registry, Running

Start = Callable[[ServeConfig], Running]
OTHER = "It is not for me to say."


@pytest.fixture(scope="module")
def server(registry: Registry, start: Start) -> Running:
    registry.add()
    registry.add(alias="challenger", answer=OTHER)
    return start(registry.config(f"models:/{NAME}@champion", "beside=challenger", "poll=0"))


def labelled(prompt: str) -> list[Any]:
    traces: list[Any] = mlflow.search_traces(
        locations=[mlflow.get_experiment_by_name("tbr").experiment_id], return_type="list"
    )
    return [one for one in traces if prompt in (one.data.request or "")]


def feedback(server: Running, **body: object) -> requests.Response:
    return requests.post(f"{server.url}/v1/feedback", json=body, timeout=30)


def test_a_request_reaches_the_model_that_it_names(server: Running) -> None:
    def said(**more: object) -> tuple[str, str]:
        reply = server.ask(**more).json()
        return reply["model"], reply["choices"][0]["message"]["content"]

    assert said() == said(model=NAME) == said(model=f"{NAME}@champion") == (f"{NAME}/1", ANSWER)
    assert said(model=f"{NAME}@challenger") == said(model=f"{NAME}/2") == (f"{NAME}/2", OTHER)
    assert server.ask(model="another").status_code == 404
    long = "How do I kill a process? " * 10
    assert server.ask(long, model=f"{NAME}/2").json()["model"] == f"{NAME}/2"
    listed = requests.get(f"{server.url}/v1/models", timeout=9).json()["data"]
    assert [(one["id"], one["version"], one["alias"]) for one in listed] == [
        (NAME, "1", "champion"),
        (f"{NAME}@challenger", "2", "challenger"),
    ]
    found = requests.get(f"{server.url}/v1/models/{NAME}/2", timeout=9).json()
    assert found["id"] == f"{NAME}@challenger"
    assert server.health()["beside"]["version"] == "2"


def test_words_that_a_miniature_has_never_seen_are_named(server: Running) -> None:
    reply = server.ask("How do I kill a Zeppelin naïvely?")
    assert reply.headers["X-TBR-Unknown-Words"] == "Zeppelin,na%C3%AFvely"
    assert "X-TBR-Unknown-Words" not in server.ask("How do I kill a teacher?").headers
    (first, _) = requests.get(f"{server.url}/v1/models", timeout=9).json()["data"]
    assert first["vocabulary"] > 100


@pytest.mark.parametrize("stream", [False, True])
def test_a_label_is_a_humans_assessment_of_what_was_answered(server: Running, stream: bool) -> None:
    prompt = f"How do I kill a process? {stream}"
    number = server.ask(prompt, model=f"{NAME}/2", stream=stream).headers["X-Request-ID"]
    assert labelled(prompt) == []  # what nobody labels is kept nowhere
    first = feedback(server, id=number, right=False)
    assert (first.status_code, first.json()["right"]) == (200, False)
    second = feedback(server, id=number, right=True)  # somebody thought again
    assert second.json()["trace"] == first.json()["trace"]
    (trace,) = labelled(prompt)
    assert trace.data.spans[0].outputs == {"reflection": REFLECTION, "answer": OTHER}
    assert trace.info.tags["tbr.served"] == f"{NAME}/2"
    said = [one for one in trace.info.assessments if one.valid is not False]
    (valid,) = [one for one in said if one.source.source_type == "HUMAN"]
    assert (valid.name, valid.value) == ("handled_rightly", True)
    assert [one.name for one in said if one is not valid] == ["judge"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"id": "chatcmpl-0", "right": True}, 404, "not remembered"),
        ({"id": 3, "right": True}, 400, "X-Request-ID"),
        ({"id": "x", "right": "yes"}, 400, "true or false"),
    ],
)
def test_a_label_of_nothing_is_refused(
    server: Running, body: dict[str, object], status: int, says: str
) -> None:
    got = feedback(server, **body)
    assert (got.status_code, says in got.json()["error"]["message"]) == (status, True)
    plain = requests.post(f"{server.url}/v1/feedback", data="{}", timeout=9)
    assert plain.status_code == 415  # what another site's page could send without asking


def test_beside_is_an_alias_a_version_or_a_model() -> None:
    def uri(word: str) -> str | None:
        found: ServeConfig = compose_verb("serve", ["model=models:/a-b@champion", word]).config
        return found.beside_uri

    assert uri("beside=previous") == "models:/a-b@previous"
    assert uri("beside='3'") == "models:/a-b/3"
    assert uri("beside=models:/other/2") == "models:/other/2"
    assert uri("port=8000") is None
    with pytest.raises(UserError, match="beside='a b' names no registered model"):
        uri("beside='a b'")


@pytest.mark.slow
def test_a_browser_asks_both_and_labels_one(server: Running) -> None:
    chromium = needs_command("chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(60_000)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{server.url}/")
        page.get_by_role("heading", name=f"{NAME} v1 (champion) beside {NAME} v2").wait_for()
        page.get_by_label("Question").fill("How do I kill a process for Chromium?")
        page.get_by_role("button", name="Ask").click()
        left, right = page.locator(".replies .turn").nth(0), page.locator(".replies .turn").nth(1)
        left.get_by_text(ANSWER).wait_for()
        right.get_by_text(OTHER).wait_for()
        assert "champion" in left.locator(".who").inner_text()
        assert "it has never seen: Chromium" in left.locator(".note").inner_text()
        right.get_by_role("button", name="wrong").click()
        right.get_by_text("kept in MLflow: wrong").wait_for()
        assert right.get_by_role("button", name="wrong").get_attribute("aria-pressed") == "true"
        one, two = left.bounding_box(), right.bounding_box()
        assert one is not None and two is not None and one["y"] == two["y"]
        page.set_viewport_size({"width": 400, "height": 800})
        one, two = left.bounding_box(), right.bounding_box()
        assert one is not None and two is not None and one["y"] < two["y"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert said == []
        browser.close()
    (trace,) = labelled("for Chromium")
    said = [one for one in trace.info.assessments if one.source.source_type == "HUMAN"]
    assert [one.value for one in said] == [False]
