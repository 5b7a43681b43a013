"""The stages as Python functions, in a process of their own as a notebook would use them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tbr_lightning import api

SCRIPT = """
from tbr_lightning import Model, compare, evaluate, train
from tbr_lightning.errors import UserError

tuned = train(
    "optimizer.lr=1e-3", data="microworld", model="tiny", reflection="external",
    trainer={"max_steps": 2}, seed=3, run_name="2024_05_01",
)
assert tuned.model_uri.startswith("models:/"), tuned
smoke = {"suite": "smoke", "generation": {"max_new_tokens": 24}}
judged = evaluate(tuned.model_uri, "suite.limit=4", **smoke)
assert {row.kind for row in judged.rows} >= {"harmful", "look_alike"}
both = compare(["tiny", tuned.model_uri], "suite.limit=4", **smoke)
assert len(both.models) == 2

model = Model.load(tuned.model_uri, generation={"max_new_tokens": 24})
rows = judged.rows[:3]
replies = model.generate([row.prompt for row in rows])
assert [(one.reflection, one.answer) for one in replies] == [
    (row.reflection, row.answer) for row in rows
]
assert model.generate(rows[0].prompt) == replies[0]
try:
    train(optimizer={"lrr": 1})
except UserError as error:
    assert "optimizer.lr" in str(error)
else:
    raise AssertionError("a wrong key passed")
"""


def test_from_training_to_replies(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("settings", "typed"),
    [
        ({"reflection": "none"}, ["reflection=none"]),
        (
            {"trainer": {"max_steps": 5, "compile": False}},
            ["trainer.max_steps=5", "trainer.compile=false"],
        ),
        ({"resume": None}, ["resume=null"]),
        ({"reflection.kinds": ["harmful"]}, ["reflection.kinds=['harmful']"]),
        ({"run_name": "a=b"}, ["run_name='a=b'"]),
    ],
)
def test_settings_are_written_as_they_are_typed(
    settings: dict[str, object], typed: list[str]
) -> None:
    assert [word.replace('"', "'") for word in api._typed(settings)] == typed
