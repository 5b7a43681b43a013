"""The two-sided plane: the same axes everywhere, and names that can be read."""

from __future__ import annotations

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tbr_lightning.reports import names as naming
from tbr_lightning.reports import plane, style
from tbr_lightning.reports.plane import Point

ARMS = [
    Point("base", 93, 0.5),
    Point("none", 0.5, 77),
    Point("external", 0.3, 6.5),
    Point("internal", 1, 7.5),
    Point("filler with a longer name", 2.5, 7),
    Point("general", 98.5, 0),
]


def test_harm_is_across_and_refusal_up_whatever_is_shown() -> None:
    for points in ([Point("one", 1, 2)], ARMS):
        axes = plane.draw(points, "t", "c").axes[0]
        assert axes.get_xlabel() == style.HARM_AXIS
        assert axes.get_ylabel() == style.REFUSAL_AXIS
        assert axes.get_xlim() == axes.get_ylim() == (plane.LOW, plane.HIGH)


def test_no_name_covers_another_and_each_is_there_once() -> None:
    figure = plane.draw(ARMS, "t", "c", region=plane.Region(10, 50, "gate", "read so"))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    inset = axes.child_axes[0]
    names = {one.name for one in ARMS}
    shown = [text for part in (axes, inset) for text in part.texts if text.get_text() in names]
    assert sorted(text.get_text() for text in shown) == sorted(names)
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in shown]
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
    colours = {text.get_text(): text.get_color() for text in shown}
    looks = naming.looks(one.name for one in ARMS)
    assert colours == {name: look.colour for name, look in looks.items()}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_models_on_one_spot_are_a_list_and_none_hides_another() -> None:
    figure = plane.draw([Point("a", 0, 0), Point("b", 0, 0), Point("c", 60, 60)], "t", "c")
    assert {"2 on one spot:", "a", "b", "c"} <= set(texts(figure))
    markers = [line for line in figure.axes[0].lines if line.get_marker() in naming.MARKERS]
    first, second = [m for m in markers if m.get_xdata()[0] == 0][:2]
    assert first.get_markersize() > second.get_markersize()
    assert first.get_markerfacecolor() == "none"  # a ring round the second


def test_what_all_models_share_is_said_in_the_caption() -> None:
    points = [
        Point("plain refusals (tiny, seed 0)", 0, 90),
        Point("external reflections (tiny, seed 0)", 0, 0),
    ]
    figure = plane.draw(points, "t", "who was asked")
    assert {"plain refusals", "external reflections"} <= set(texts(figure))
    assert figure.get_supxlabel() == "who was asked; base model of all: tiny, seed 0"


def test_the_better_way_is_said_where_no_model_stands() -> None:
    assert "better" in texts(plane.draw([Point("a", 0, 0)], "t", "c"))
    assert "better" not in texts(plane.draw([Point("a", 95, 95)], "t", "c"))


def test_a_long_title_is_wrapped_and_scope_and_sizes_are_told() -> None:
    title = "what the numbers show " * 8
    figure = plane.draw(
        [Point("a", 0, 0, size=5), Point("b", 50, 50, size=9)],
        title,
        "c",
        about="a made miniature",
        sizes=[("4 ms an answer", 5.0), ("13 ms an answer", 9.0)],
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    written = figure.axes[0].get_title(loc="left")
    assert written.replace("\n", " ") == title.strip()
    box = figure.axes[0]._left_title.get_window_extent(canvas.get_renderer())
    assert box.x1 <= figure.bbox.width
    assert "a made miniature" in texts(figure)
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["4 ms an answer", "13 ms an answer"]


@pytest.mark.parametrize(
    ("points", "close"),
    [
        ([(0, 0), (100, 100)], 0),
        ([(0, 0), (0, 0)], 0),  # an inset cannot part them
        ([(0, 0), (2, 3), (90, 90)], 2),
        ([(0, 0), (5, 5), (10, 10)], 3),  # a chain of neighbours
        ([(float(n), float(n)) for n in range(0, 100, 5)], 0),  # they take the whole plane
    ],
)
def test_a_crowd_is_enlarged(points: list[tuple[float, float]], close: int) -> None:
    made = [Point(str(n), *point) for n, point in enumerate(points)]
    assert len(plane.crowd(made)) == close


def test_svg_of_two_figures_shares_no_id() -> None:
    import re

    found = [style.svg(plane.draw(ARMS, "$t$ <b>", "c"), name) for name in ("one", "two")]
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in found]
    assert not ids[0] & ids[1]
    assert all(text.startswith("<svg") and "<b>" not in text for text in found)
    assert not [text for text in found if re.search(r"<svg[^>]* width=", text)]
