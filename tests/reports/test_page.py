"""``report.html``: what it holds, that nothing in it is run, and how a browser shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tbr_lightning.evaluation import comparison, pages
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.reports import names
from tbr_lightning.reports.page import render

from ..conftest import needs_command

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    '<!--"&amp;\u2028\\u003c</textarea>{{ 7 * 7 }} $x$'
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def rows(count: int, refuse: int, **more: Any) -> list[Judged]:
    """Answer prompts of three kinds in turn; every ``refuse``-th look-alike is refused."""
    made = []
    for n in range(count):
        kind: Any = ("look_alike", "harmful", "general")[n % 3]
        refused = kind == "harmful" or (kind == "look_alike" and n // 3 % refuse == 0)
        said = "I cannot help with that." if refused else "Here is how it is done:"
        made.append(
            Judged(
                id=f"id{n}",
                prompt=f"prompt {n} {HOSTILE}",
                kind=kind,
                benchmark="xstest" if n % 2 else HOSTILE,
                category=f"category {n % 5}",
                reference="",
                reflection=f"thought {n} {HOSTILE}" if refused else None,
                answer=f"{said} word{n} {HOSTILE}",
                label="full_refusal" if refused else "full_compliance",
                because=said if refused else "",
                right=None if kind != "general" else True,
                new_tokens=9,
                **more,
            )
        )
    return made


class Parsed(HTMLParser):
    """Tags, and the text of scripts, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._raw = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if self._raw and self.scripts:
            self.scripts[-1] += data
        elif not self._raw:
            self.words.append(data)


def judged_again(data: dict[str, Any], place: int) -> list[Judged]:
    known = {one.name for one in fields(Judged)}
    return [
        Judged(**{k: v for k, v in {**sample, **sample["answers"][place]}.items() if k in known})
        for sample in data["samples"]
        if sample["answers"][place] is not None
    ]


@cache
def compared(count: int = 30) -> str:
    models = {f"before {HOSTILE}": rows(count, 1), "after": rows(count, 5)}
    found = comparison.compare(models)
    return render(pages.comparison_page(models, found, [("suite", HOSTILE)]))


def test_the_embedded_rows_are_the_results_rows() -> None:
    first, second = rows(30, 1), rows(30, 5)
    parsed = Parsed(compared())
    data = json.loads(parsed.scripts[0])
    assert data["models"] == [f"before {HOSTILE}", "after"]
    for place, expected in enumerate((first, second)):
        again = {row.id: row for row in judged_again(data, place)}
        assert again == {row.id: row for row in expected}
    # What went wrong comes first.
    wrong = [
        any(one["handled_rightly"] is False for one in sample["answers"])
        for sample in data["samples"]
    ]
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == 10


def test_several_answers_to_a_prompt_are_rows_of_their_own() -> None:
    many = [*rows(3, 1), *rows(3, 5, repeat=1)]
    samples = pages.samples({"m": many})
    assert {sample["key"] for sample in samples} == {"id0", "id1", "id2", "id0.1", "id1.1", "id2.1"}


def test_nothing_of_an_answer_is_markup() -> None:
    text = compared()
    parsed = Parsed(text)
    # The rows, and the page's own script: a third would be an answer's.
    assert [attrs.get("type") for tag, attrs in parsed.tags if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "textarea", "iframe", "link")]
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert "49" not in "".join(word for word in parsed.words if "{{" in word)
    policy = next(
        attrs["content"] or ""
        for tag, attrs in parsed.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    for word in ("http://", "https://"):
        outside = text.replace("http://www.w3.org/", "")
        assert word not in outside, word


def test_the_verdict_names_rates_intervals_and_direction() -> None:
    models = {"before": rows(300, 1), "after": rows(300, 5)}
    found = comparison.compare(models)
    told, tone = pages.difference_verdict(models, found)
    assert told.startswith(
        "After against before: false refusal falls from 100.0% to 20.0% (-80.0 points, 95% "
        "interval -8"
    )
    assert "; no difference shown in harmful compliance (0.0% and 0.0%; +0.0 points, 95%" in told
    assert tone == "good"
    back, worse = pages.difference_verdict(
        dict(reversed(models.items())), comparison.compare(dict(reversed(models.items())))
    )
    assert "false refusal rises from 20.0% to 100.0% (+80.0 points" in back
    assert worse == "bad"
    assert pages.verdict("m", rows(300, 5)) == (
        "m refuses 20.0% of 100 harmless look-alikes, complies with 0.0% of 100 harmful "
        "requests, answers 100.0% of 100 general prompts correctly."
    )


def test_the_verdict_says_how_many_answers_nobody_could_label() -> None:
    some = [replace(row, label="unparsed") if n < 3 else row for n, row in enumerate(rows(300, 5))]
    assert pages.verdict("m", some).endswith(
        "of 99 harmful requests, 2 of its 200 answers to them have no label, answers 100.0% of 100 "
        "general prompts correctly."
    )


def test_a_comparisons_page_says_who_was_asked_and_names_models_shortly() -> None:
    models = {
        "plain refusals (tiny, seed 0)": rows(30, 1),
        "external reflections (tiny, seed 0)": rows(30, 5),
    }
    facts = [(pages.ASKED, "20 prompts, judged by rules")]
    page = pages.comparison_page(models, comparison.compare(models), facts)
    assert page.title == "External reflections against plain refusals"
    assert page.about == "base model of all: tiny, seed 0; 20 prompts, judged by rules"
    assert page.verdict.startswith("False refusal falls from 100.0% to 20.0% (-80.0 points")
    assert page.models == ["plain refusals", "external reflections"]
    assert {row[2] for row in page.tables[0].rows} == {"external reflections"}
    text = render(page)
    for place, look in enumerate(names.looks(page.models).values()):
        assert f".m{place}::before {{ background: {look.colour}; clip-path: " in text
        assert look.colour.lower() in page.figures[0].svg


def test_what_changed_is_counted() -> None:
    table = pages.changes({"before": rows(300, 1), "after": rows(300, 5)})
    assert [row[1:] for row in table.rows] == [
        ("refused, now answered", "80", "100"),
        ("answered, now refused", "0", "100"),
        ("complied with, now withheld", "0", "100"),
        ("withheld, now complied with", "0", "100"),
    ]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    chromium = needs_command("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.mark.slow
def test_a_browser_filters_searches_and_compares_2000_rows(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(compared(2000), encoding="utf-8")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.locator("article").first.wait_for()

    def count() -> str:
        return page.locator("#count").inner_text()

    assert count() == "2000 of 2000 prompts"
    assert page.locator("article a").first.inner_text() == "row 1"
    dot = "getComputedStyle(document.querySelector('article .m1'), '::before').backgroundColor"
    hue = names.looks([f"before {HOSTILE}", "after"])["after"].colour
    red, green, blue = (int(hue[n : n + 2], 16) for n in (1, 3, 5))
    assert page.evaluate(dot) == f"rgb({red}, {green}, {blue})"  # as in the figures
    assert page.locator("article").count() < 200  # the others when one scrolls to them
    page.select_option("select[name=changed]", "answered")
    assert count() == "533 of 2000 prompts"
    page.check("input[name=differences]")
    assert "cannot" in page.locator("article").first.locator(".only").all_inner_texts()
    page.select_option("select[name=kind]", "harmful")
    assert count() == "0 of 2000 prompts"
    page.get_by_role("button", name="Reset").click()
    assert count() == "2000 of 2000 prompts"
    page.fill("input[type=search]", "WORD1777 ")
    page.get_by_text("1 of 2000 prompts", exact=True).wait_for()
    shown = page.locator("article")
    assert HOSTILE.replace("\u2028", "") in shown.inner_text().replace("\u2028", "")
    assert shown.locator("[data-part=answer]").count() == 2
    # A link to a row shows it, whatever is filtered.
    page.goto(f"{file.as_uri()}#row-id1999")
    page.locator("#row-id1999.aim").wait_for()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("window.hacked") is None
    assert said == []
