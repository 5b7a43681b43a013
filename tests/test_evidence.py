"""The page of evidence says what the studies wrote, and its commands can be given."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tbr_lightning.ablation import view
from tbr_lightning.ablation.arena_plan import arena_file, load_arena
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.demonstration.show import markdown
from tbr_lightning.tuning.study import load_study

from .conftest import ROOT

PAGE = ROOT / "docs" / "evidence.md"
RECORDS = sorted((ROOT / "docs" / "evidence").glob("*.json"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_the_page_has_the_table_that_was_written(file: Path) -> None:
    assert table_of(file) in PAGE.read_text(encoding="utf-8")


def table_of(file: Path) -> str:
    """Return the table of a file as a demo, an arena or a study left it."""
    found = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(found, list):  # of an arena
        return view.markdown(found)
    if "columns" in found:  # of a study: MLflow's form of a table
        rows = [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
        return view.markdown(rows)
    return markdown(found)


def test_its_commands_compose() -> None:
    text = PAGE.read_text(encoding="utf-8")
    words = re.findall(r"python -m tbr_lightning\.demo (.+)", text)
    assert words
    for line in words:
        compose_verb("demo", [*line.split(), "demo.needs=[]"])
    studies = re.findall(r"python -m tbr_lightning\.sweep (.+)", text)
    assert studies
    for line in studies:
        config = compose_verb("sweep", line.split()).config
        if (file := arena_file(config.study)) is not None:
            load_arena(file, config)
        else:
            load_study(config.study)
