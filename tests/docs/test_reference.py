"""The generated reference is complete: every key has a sentence, every message is there."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import site_messages
import site_reference

from tbr_lightning.config.groups import options, shipped
from tbr_lightning.config.verbs import VERBS
from tbr_lightning.data.sources import FilesData

from ..conftest import ROOT

SCHEMAS = {**{f"verb {verb}": kind for verb, kind in VERBS.items()}, **site_reference.schemas()}
PACKAGE = ROOT / "src" / "tbr_lightning"


@pytest.mark.parametrize("section", SCHEMAS)
def test_every_key_of_every_schema_has_a_sentence(section: str) -> None:
    schema = SCHEMAS[section]
    found = {key.name: key for key in site_reference.keys(schema)}
    assert list(found) == [field.name for field in dataclasses.fields(schema)]
    assert [key for key, one in found.items() if not one.sentence] == []


def test_every_dataclass_of_the_schemas_is_shown() -> None:
    """None of src/tbr_lightning/config is forgotten, nor any target of a group."""
    import tbr_lightning.config as package

    names = set()
    for file in Path(package.__path__[0]).glob("*.py"):
        names |= set(re.findall(r"^@dataclass\nclass (\w+)", file.read_text(), re.M))
    shown = {kind.__name__ for kind in SCHEMAS.values()}
    assert names <= shown, names - shown
    assert {"FilesData", "SFT", "DPO", "Ablation", "Steering"} <= shown


def test_comments_are_read_behind_above_and_from_the_base() -> None:
    keys = {key.name: key for key in site_reference.keys(FilesData)}
    assert keys["general_rows"].sentence == "At most; null for all."
    assert keys["validation"].sentence.startswith("Share of the rows, held out")
    assert keys["general_rows"].default == "null"
    assert keys["columns"].schema is not None
    assert keys["columns"].sentence.startswith("Names of the columns of every source")


def test_a_key_without_a_comment_would_be_found() -> None:
    @dataclass
    class Silent:
        """A schema."""

        told: int = 1  # what it is
        silent: int = 2

        def method(self) -> None:
            """Do nothing."""  # no comment of a key

    # Local annotations are strings, which get_type_hints resolves here.
    found = {key.name: key.sentence for key in site_reference.keys(Silent)}
    assert found == {"told": "What it is.", "silent": ""}


def test_pages_name_every_verb_group_member_and_study() -> None:
    verbs, groups = site_reference.verbs_page(), site_reference.groups_page()
    for verb in VERBS:
        assert f"## {verb}\n" in verbs
    for folder in shipped("conf").iterdir():
        for member in options(folder.name) if folder.is_dir() else ():
            assert f"| `{member}` |" in groups
    for study in shipped("sweeps").glob("*.yaml"):
        assert f"| `{study.stem}` |" in groups


def test_rows_of_tables_have_the_columns_of_their_head() -> None:
    pages = (
        site_reference.verbs_page(),
        site_reference.settings_page(),
        site_reference.groups_page(),
    )
    for page in pages:
        columns = 0
        for line in page.splitlines():
            bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not (columns and bars) or bars == columns, line
            columns = bars


def test_messages_are_found_with_their_placeholders() -> None:
    found = site_messages.messages(PACKAGE)
    said = found["Settings and the command line"]
    assert "trainer.zero_stage=… does not exist: use 1, 2 or 3" in said
    assert sum(map(len, found.values())) > 300
    assert set(found) == set(site_messages.ROOMS.values())
    page = site_messages.page(PACKAGE)
    assert all(f"## {heading}\n" in page for heading in found)


def test_what_troubleshooting_quotes_is_said() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    quotes = re.findall(r"^\| `([^`]{12,})`", page, re.M)
    assert len(quotes) > 25
    source = [text for texts in site_messages.messages(PACKAGE).values() for text in texts]
    missing = [q for q in quotes if not any(q in text for text in source)]
    assert missing == []
