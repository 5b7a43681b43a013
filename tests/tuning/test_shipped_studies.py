"""Every study that is shipped can be started as its first line says."""

from __future__ import annotations

import pytest

from tbr_lightning.config.compose import compose_verb, shipped
from tbr_lightning.tuning.space import cells
from tbr_lightning.tuning.study import load_study, read_study

ARENAS = {"arena", "objectives"}  # composed by tests/ablation/test_arena.py
STUDIES = sorted({path.stem for path in shipped("sweeps").glob("*.yaml")} - ARENAS)


def test_the_useful_studies_are_there() -> None:
    assert {"smoke", "ablation", "safety_mix", "reflection", "lora"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_composes_and_chooses_on_the_dev_half(name: str) -> None:
    study, _ = load_study(name)  # composes points in which every choice and every end stands
    text = (shipped("sweeps") / f"{name}.yaml").read_text()
    first = text.splitlines()[0]
    assert "make sweep" in first or f"python -m tbr_lightning.sweep study={name}" in first
    assert study.about
    suite = compose_verb("evaluate", ["model=tiny", *study.evaluate]).config.suite
    assert (suite.name, suite.half) == ("smoke", "dev")
    assert {"false_refusal_rate", "harmful_compliance_rate"} <= set(study.objectives)


def test_the_ablation_compares_fifteen_models_by_every_arm_and_seed() -> None:
    text = (shipped("sweeps") / "ablation.yaml").read_text()
    study = read_study("ablation", "ablation.yaml", text)
    grid = cells(study.space)
    models = {(cell["model"], cell["model.pretraining.hidden"]) for cell in grid}
    assert len(models) == 15
    assert len({cell["model"] for cell in grid}) >= 5
    assert {cell["reflection"] for cell in grid} == {"none", "internal", "external"}
    assert len(grid) == study.trials == 15 * 3 * 2
    # Stopped half-way, it has compared all models once.
    half = grid[: len(grid) // 2]
    assert {cell["seed"] for cell in half} == {0}
    assert {(cell["model"], cell["model.pretraining.hidden"]) for cell in half} == models
