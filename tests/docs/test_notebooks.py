"""The notebooks run as they stand, with smaller settings in their cell of parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SMALL = {"STEPS": "2", "PROMPTS": "3"}


def test_they_are_stored_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install 'tbr-lightning[notebooks]'")
    assert [file.stem for file in NOTEBOOKS] == ["compare", "miniature"]
    for file in NOTEBOOKS:
        book = nbformat.read(file, as_version=4)
        nbformat.validate(book)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(file: Path, tmp_path: Path, base_folder: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install 'tbr-lightning[notebooks]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'tbr-lightning[notebooks]'")
    book = nbformat.read(file, as_version=4)
    (given,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    lines = [line.split(" = ") for line in given.source.splitlines()]
    assert {name for name, _ in lines} >= set(SMALL)
    given.source = "\n".join(f"{name} = {SMALL.get(name, value)}" for name, value in lines)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=500, kernel_name="python3", resources=where).execute()
    outputs = [
        output.get("text", "") or "".join(output.get("data", {}).get("text/plain", ""))
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    said = "\n".join(outputs)
    if file.stem == "miniature":
        assert "with reflections" in said
        assert "says:" in said
    else:
        assert "false_refusal_rate" in said
        assert " prompts" in said
