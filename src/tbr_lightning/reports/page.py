"""``report.html``: a page that needs no other file, for people without MLflow or a network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined, select_autoescape
from markupsafe import Markup

from tbr_lightning.reports import names

FILE = "report.html"
"""Artifact of a run: its page, for a browser without a server."""

_SHAPES = {
    "o": "circle()",
    "s": "inset(8%)",
    "D": "polygon(50% 0, 100% 50%, 50% 100%, 0 50%)",
    "^": "polygon(50% 0, 100% 100%, 0 100%)",
    "v": "polygon(0 0, 100% 0, 50% 100%)",
    "<": "polygon(100% 0, 100% 100%, 0 50%)",
    ">": "polygon(0 0, 100% 50%, 0 100%)",
    "P": "polygon(33% 0, 67% 0, 67% 33%, 100% 33%, 100% 67%, 67% 67%, 67% 100%, 33% 100%, 33% 67%, "
    "0 67%, 0 33%, 33% 33%)",
}
"""Markers of the figures, as a browser cuts them."""

Tone = Literal["good", "bad", "plain"]


@dataclass(frozen=True)
class Number:
    """A share of one model.

    Attributes:
        value: Share in [0, 1]; not a number without prompts.
        low: Lower end of its 95% interval.
        high: Upper end.
        n: Number of prompts.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there are prompts that it is a share of."""
        return self.n > 0 and not math.isnan(self.value)


@dataclass(frozen=True)
class Measured:
    """One of the numbers at the top of the page.

    Attributes:
        heading: Name of the measure.
        about: What it is a share of, and whether less or more is better.
        of: Number of each model, by the model's name.
    """

    heading: str
    about: str
    of: Mapping[str, Number]


@dataclass(frozen=True)
class Drawn:
    """A figure.

    Attributes:
        svg: SVG element, see :func:`tbr_lightning.reports.style.svg`.
        caption: Caption of the figure.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Listed:
    """A table.

    Attributes:
        title: Title of the table.
        heads: Headings of its columns.
        rows: Cells as they are shown.
        marked: Indices of the rows that a reader should look at first.
        note: Note on how to read it.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The contents of a page.

    Attributes:
        title: Title of the page.
        about: What was asked, and what the models have in common; beneath the title.
        verdict: Result, in one line.
        tone: Tone of the result, which sets its colour.
        numbers: Numbers at the top.
        figures: Figures.
        tables: Tables.
        models: Names of the models whose answers are shown, in the order of the answers.
        samples: Prompts, each with ``answers`` in the order of the models: what a template or the
            browser shows of them is set as text, never as markup.
        facts: Pairs (name, value) on where it comes from: suite, judge, run.
        notes: Sentences that a reader must know.
    """

    title: str
    verdict: str
    tone: Tone = "plain"
    about: str = ""
    numbers: Sequence[Measured] = ()
    figures: Sequence[Drawn] = ()
    tables: Sequence[Listed] = ()
    models: Sequence[str] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def render(page: Page) -> str:
    """Return the page as HTML that asks no server and runs no script but its own."""
    script, look = _asset("report.js"), _asset("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            figures=[Markup(one.svg) for one in page.figures],
            data={"models": list(page.models), "samples": list(page.samples)},
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            look=Markup(look),
            looks=list(names.looks(page.models).values()),
            shapes=_SHAPES,
            percent=lambda share: f"{100 * share:.1f}",
        )
    )


def _asset(name: str) -> str:
    return resources.files("tbr_lightning.reports").joinpath(name).read_text("utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import FunctionLoader

    return Environment(
        loader=FunctionLoader(_asset),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
