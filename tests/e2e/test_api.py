"""The stages as Python functions, as a notebook would use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tbr_lightning import api

from ..conftest import ROOT

SCRIPT = """
from tbr_lightning import Model, compare, evaluate, train
from tbr_lightning.errors import UserError

tuned = train(
    "optimizer.lr=1e-3", "data.harmful=8", "data.general=16", "data.look_alikes=8",
    data="microworld", model="tiny", reflection="external",
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


VERB_MODULES = """
import importlib, inspect, sys
{first}
from tbr_lightning import compare, evaluate, export, promote, reflect, train
for function in (compare, evaluate, export, promote, reflect, train):
    assert inspect.isfunction(function), function
    assert function.__module__ == "tbr_lightning.api", function
{then}
import tbr_lightning
for name in ("evaluate", "export", "promote", "reflect", "train"):
    assert inspect.isfunction(getattr(tbr_lightning, name)), name
    verb = importlib.import_module(f"tbr_lightning.{{name}}")
    assert inspect.ismodule(verb) and callable(verb.command), verb
assert not hasattr(tbr_lightning, "trian")
from tbr_lightning import cli, sweep
assert inspect.ismodule(cli) and inspect.ismodule(sweep)
"""

IMPORTED = """
import tbr_lightning.evaluate, tbr_lightning.export, tbr_lightning.promote
import tbr_lightning.reflect, tbr_lightning.train
"""
COMMANDED = """
from tbr_lightning import cli
assert cli.main("train", ["data=microworld", "dry_run=true"]) == 0
"""


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("", IMPORTED),
        (IMPORTED, ""),
        # A command imports all there is.
        pytest.param(COMMANDED, "", marks=pytest.mark.slow),
        pytest.param("", COMMANDED, marks=pytest.mark.slow),
    ],
)
def test_functions_keep_their_names_whatever_was_imported_before(
    tmp_path: Path, first: str, then: str
) -> None:
    code = VERB_MODULES.format(first=first, then=then)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow  # mypy reads the package and torch without a cache
def test_type_checkers_see_what_the_functions_take_and_return(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "import tbr_lightning.train\n"
        "from tbr_lightning import Model, compare, evaluate, train\n"
        "reveal_type(train)\nreveal_type(evaluate)\nreveal_type(Model.load('m').generate('x'))\n"
        "compare('not a list of models', 3)\n"
    )
    words = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir=cache"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, "use.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(api.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    said = done.stdout
    assert "def (*overrides: str, config_dir: str | None =, **settings: Any)" in said, said
    assert "-> tbr_lightning.training.pipeline.TrainResult" in said
    assert "def (model: str, *overrides: str" in said
    assert 'Revealed type is "tbr_lightning.api.Reply"' in said
    assert 'Argument 2 to "compare" has incompatible type "int"; expected "str"' in said


@pytest.mark.usefixtures("undrawn")
def test_from_training_to_replies(capfd: pytest.CaptureFixture[str], base_folder: Path) -> None:
    exec(SCRIPT, {"__name__": "a notebook"})
    assert capfd.readouterr().out == ""


@pytest.mark.slow  # it imports all there is
def test_a_process_of_its_own_does_the_same(tmp_path: Path) -> None:
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
