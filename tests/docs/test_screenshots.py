"""The pictures of README and docs: small, shown somewhere, made by ``make screenshots``."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import screenshots
from PIL import Image

from .conftest import PAGES

DRAWN_BY_HAND = {"demo.png"}
"""Made by the demo with five seeds, which takes longer than pictures should."""


def test_every_picture_is_made_by_the_tool_and_all_are_small() -> None:
    sizes = screenshots.SIZES
    made = {f"{name}-{width}.png" for name in screenshots.PAGES for width, _ in sizes[name]}
    made |= {f"{name}.png" for name in screenshots.FIGURES} | DRAWN_BY_HAND
    there = {file.name for file in screenshots.IMAGES.iterdir()}
    assert there <= made
    assert sum(file.stat().st_size for file in screenshots.IMAGES.iterdir()) < screenshots.MOST


def test_every_wide_picture_and_figure_is_shown_on_a_page() -> None:
    shown = {
        Path(place).name
        for page in PAGES
        for place in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
    }
    there = {file.name for file in screenshots.IMAGES.iterdir()}
    assert {name for name in there if not name.endswith("-400.png")} <= shown


def test_a_picture_keeps_its_size_and_loses_colours(tmp_path: Path) -> None:
    drawn = random.Random(0)
    image = Image.new("RGB", (60, 40))
    image.putdata([tuple(drawn.randrange(256) for _ in range(3)) for _ in range(60 * 40)])
    image.save(tmp_path / "a.png")
    before = (tmp_path / "a.png").stat().st_size
    screenshots.smaller(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as small:
        assert (small.size, small.mode) == ((60, 40), "P")
    assert (tmp_path / "a.png").stat().st_size < before


def test_the_colour_of_a_thin_line_survives(tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((300, 300)).convert("RGB")
    image.paste((0, 114, 178), (10, 10, 13, 60))
    image.save(tmp_path / "a.png")
    screenshots.smaller(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as small:
        red, green, blue = small.convert("RGB").getpixel((11, 30))
    assert max(red, abs(green - 114), abs(blue - 178)) < 24


def test_parts_of_a_page_are_kept_beneath_each_other(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 300), "white")
    image.paste((255, 0, 0), (0, 0, 100, 40))
    image.paste((0, 0, 255), (0, 250, 100, 300))
    image.save(tmp_path / "a.png")
    screenshots.crop(tmp_path / "a.png", [(10, 10, 60, 40), (0, 249.6, 100, 270.2)])
    with Image.open(tmp_path / "a.png") as kept:
        assert kept.size == (100, 30 + screenshots.GAP + 20)
        assert kept.getpixel((5, 5)) == (255, 0, 0)
        assert kept.getpixel((80, 5)) == (255, 255, 255)  # beside the narrower part
        assert kept.getpixel((5, 30 + screenshots.GAP + 5)) == (0, 0, 255)


def test_what_takes_long_is_made_when_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def stop(_: Path, chosen: list[str]) -> None:
        asked.append(chosen)
        raise SystemExit(0)

    monkeypatch.setattr(screenshots, "_prepare", stop)
    for words in ([], ["arena"]):
        monkeypatch.setattr("sys.argv", ["screenshots.py", *words])
        with pytest.raises(SystemExit):
            screenshots.main()
    assert "arena" not in asked[0]
    assert {"study", "runs"} <= set(asked[0])
    assert asked[1] == ["arena"]


def test_a_picture_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["screenshots.py", "nothing"])
    with pytest.raises(SystemExit) as ended:
        screenshots.main()
    assert ended.value.code == 2
