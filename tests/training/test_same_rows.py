"""Arms of one comparison train on the same rows: the longest form of a row decides."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from tbr_lightning.evaluation import contamination

from ..conftest import Verb, put_store

ROWS = [{"instruction": f"h{n} " + "q" * (20 + 8 * n), "output": "No."} for n in range(20)]
WORDS = (
    "model=tiny",
    "model.tokenizer=bytes",
    "data=files",
    "data.harmful=rows.json",
    "model.max_length=250",
)
RECORDED = ("reflection=recorded", "reflection.path=refl.jsonl")


@pytest.fixture(autouse=True)
def _rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    with (tmp_path / "refl.jsonl").open("w") as out:
        for n, row in enumerate(ROWS):
            text = (
                f"Number {n} hurts somebody" + f", {n * 37}" * 14 + ". So the request is harmful."
            )
            out.write(json.dumps({"instruction": row["instruction"], "reflection": text}) + "\n")


def counted(verb: Verb, *words: str) -> tuple[int, str]:
    done = verb("train", "dry_run=true", *WORDS, *words, env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    found = re.search(r"([\d,]+) training rows", done.stdout)
    assert found is not None
    return int(found[1]), " ".join(done.stdout.split())


def test_none_leaves_out_what_is_too_long_in_the_arm_that_it_names(verb: Verb) -> None:
    with_them, _ = counted(verb, *RECORDED)
    without, said = counted(verb, "reflection=none", "reflection.path=refl.jsonl")
    assert without == with_them < len(ROWS)
    assert "with the reflection of another arm" in said
    assert "no reflection is known" not in said


def test_what_cannot_be_known_is_said_in_one_line(verb: Verb) -> None:
    without, said = counted(verb, "reflection=none")
    assert without == len(ROWS)
    assert "no reflection is known of 20 of 20 rows that other arms reflect on" in said
    assert "give reflection.path=FILE" in said
    _, said = counted(verb, "reflection=none", "reflection.same_rows=false")
    assert "no reflection is known" not in said


def test_what_is_stored_is_known_and_the_runs_say_which_rows(verb: Verb, tmp_path: Path) -> None:
    uri = put_store(tmp_path)
    small = ("trainer.max_steps=1", "trainer.batch_size=2", "model.architecture.hidden_size=32")
    for words in (RECORDED, ("reflection=none",)):
        done = verb("train", *WORDS, *words, *small)
        assert done.returncode == 0, done.stderr
    assert "with the reflection of another arm" in done.stderr
    mlflow.set_tracking_uri(uri)
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.`tbr.stage` = 'train'",
        output_format="list",
    )
    none, recorded = runs
    assert none.data.params["data/rows"] == recorded.data.params["data/rows"]
    assert none.data.params["data/rows_left_out_for_other_arms"] == "10"
    assert none.data.tags["tbr.trained_rows"] == recorded.data.tags["tbr.trained_rows"]


def test_a_comparison_says_that_models_saw_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"models:/m-1": "a", "models:/m-2": "a", "models:/m-3": "b", "models:/m-4": None}

    def find(uri: str) -> SimpleNamespace:
        tags = {} if rows[uri] is None else {"tbr.trained_rows": rows[uri]}
        return SimpleNamespace(tags=tags)

    monkeypatch.setattr(contamination, "find_model", find)
    assert contamination.different_rows({"A": "m-1", "B": "m-2", "C": "m-4", "D": None}) is None
    told = contamination.different_rows({"A": "m-1", "B": "m-3"})
    assert told is not None
    assert "A, B were not all trained on the same rows" in told
