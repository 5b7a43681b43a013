"""The page of evidence says what the studies wrote, and its commands can be given."""

from __future__ import annotations

import json
import re

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.demonstration.show import markdown

from .conftest import ROOT

PAGE = ROOT / "docs" / "evidence.md"
RECORDS = sorted((ROOT / "docs" / "evidence").glob("*.json"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_the_page_has_the_table_that_was_written(file: object) -> None:
    record = json.loads((ROOT / "docs" / "evidence" / str(file)).read_text(encoding="utf-8"))
    assert markdown(record) in PAGE.read_text(encoding="utf-8")


def test_its_commands_compose() -> None:
    words = re.findall(r"python -m tbr_lightning\.demo (.+)", PAGE.read_text(encoding="utf-8"))
    assert words
    for line in words:
        compose_verb("demo", [*line.split(), "demo.needs=[]"])
