"""The benchmarks' own parts that need no timing: rows, floors, settings, verdict, errors."""

from __future__ import annotations

import ast
import importlib
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
OWN = ("rows", "machine", "fits", "trl_fits", "race")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the modules of the folder, which is no package, and forget them afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in OWN:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in OWN:
        sys.modules.pop(name, None)


def test_rows_made_here_have_alpacas_lengths_and_are_always_the_same(
    parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = parts("rows")
    monkeypatch.setenv("TBR_SHARED_DATA", str(tmp_path))
    monkeypatch.setattr(rows, "ROOT", tmp_path / "nowhere" / "below")
    found, origin = rows.pairs(4000)
    assert "made here" in origin
    assert found == rows.made(4000)
    assert len({prompt for prompt, _ in found}) == 4000
    assert all(prompt.strip() and response.strip() for prompt, response in found)
    # Characters of the 9,225 rows of random_9k.json: 82 and 273 in the mean, 72 and 186 the median.
    prompts = [len(prompt.partition(" ")[2]) for prompt, _ in found]
    responses = [len(response) for _, response in found]
    assert statistics.mean(prompts) == pytest.approx(82, rel=0.1)
    assert statistics.mean(responses) == pytest.approx(273, rel=0.1)
    assert statistics.median(responses) == pytest.approx(186, rel=0.15)


def test_alpacas_rows_are_taken_where_they_are_at_hand(
    parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = parts("rows")
    (tmp_path / "alpaca").mkdir()
    (tmp_path / "alpaca" / "random_9k.json").write_text(
        '[{"instruction": "a", "input": "b", "output": "c"},'
        ' {"instruction": "d", "input": "", "output": " "},'
        ' {"instruction": "e", "input": "", "output": "f"}]'
    )
    monkeypatch.setenv("TBR_SHARED_DATA", str(tmp_path))
    assert rows.pairs(5) == ([("a\nb", "c"), ("e", "f")], "rows of Alpaca")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_failing_process_shows_what_it_wrote(parts: Any, stream: str) -> None:
    fits = parts("fits")
    code = f"import sys; print('no room left', file=sys.{stream}); sys.exit(3)"
    with pytest.raises(SystemExit, match=r"(?s)ours failed \(exit code 3\).*no room left"):
        fits._run(["-c", code], "ours")
    with pytest.raises(SystemExit, match="it wrote nothing"):
        fits._run(["-c", "import sys; sys.exit(2)"], "ours")


def test_shares_and_floors_are_of_the_rates_in_the_same_type(parts: Any) -> None:
    machine = parts("machine")
    one = machine.Machine("p", 2, 2, True, {"float32": 1e11, "bfloat16": 4e11}, 2e10)
    assert one.share(5e10, "float32") == 0.5
    assert one.share(5e10, "bfloat16") == 0.125
    assert one.floors(2e11, 1e10, "bfloat16") == (0.5, 0.5)
    # 100 weights of 4 bytes read twice; 32 bytes for each of the 10 that are trained.
    assert machine.step_bytes(100, 10, "float32") == 800 + 320
    assert machine.step_bytes(100, 10, "bfloat16") == 400 + 320


def test_trl_is_tried_at_every_setting_that_the_processor_has_units_for(parts: Any) -> None:
    settings = parts("trl_fits").settings
    facts = {"tokens": 1000, "rows": 10, "longest": 300, "lora": None}
    plain = settings(facts, units=False, pairs=False)
    assert not any(options["bf16"] for options in plain.values())
    assert len(plain) == 8  # four forms, with and without checkpointing
    both = settings(facts, units=True, pairs=False)
    assert sum(options["bf16"] for options in both.values()) == 8
    assert len(settings({**facts, "lora": {"r": 16}}, units=True, pairs=False)) == 24
    packed = both["bfloat16, packed, checkpointing"]
    assert packed["packing"] and packed["gradient_checkpointing"]
    assert packed["max_length"] == 800  # as many tokens as 8 rows
    pairs = settings(facts, units=True, pairs=True)
    assert not any("packing" in options or "padding_free" in options for options in pairs.values())


def test_the_exit_code_tells_what_was_missed_and_not_what_cannot_be_judged(
    parts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    race = parts("race")
    goals = [race.Goal("a", True), race.Goal("b", None)]
    assert race.verdict(goals) == 0
    assert "not judged b" in capsys.readouterr().out
    assert race.verdict([*goals, race.Goal("c", False)]) == 1
    assert "MISSED     c" in capsys.readouterr().out


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda f: f.stem)
def test_what_a_benchmark_uses_of_the_package_is_there(file: Path) -> None:
    tree = ast.parse(file.read_text())
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tbr_lightning"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                found = getattr(module, name.name)
                if isinstance(found, ModuleType):
                    modules[name.asname or name.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module_of = modules.get(node.value.id)
            assert module_of is None or hasattr(module_of, node.attr), ast.unparse(node)
