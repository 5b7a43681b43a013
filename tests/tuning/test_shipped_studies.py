"""Every study that is shipped can be started as its first line says."""

from __future__ import annotations

from functools import cache

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import shipped
from tbr_lightning.tuning.space import cells
from tbr_lightning.tuning.study import load_study, read_study

ARENAS = {"arena", "ladder", "objectives"}  # composed by tests/ablation/test_arena.py
STUDIES = sorted({path.stem for path in shipped("sweeps").glob("*.yaml")} - ARENAS)


loaded = cache(load_study)


def test_the_useful_studies_are_there() -> None:
    made = {"smoke", "ablation", "architectures", "unseen_rules", "reflection"}
    assert made | {"safety_mix", "lora", "paper"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_composes_and_chooses_on_the_dev_half(name: str) -> None:
    study, _ = loaded(name)  # composes points in which every choice and every end stands
    text = (shipped("sweeps") / f"{name}.yaml").read_text()
    first = text.splitlines()[0]
    assert "make sweep" in first or f"python -m tbr_lightning.sweep study={name}" in first
    assert study.about
    suite = compose_verb("evaluate", ["model=tiny", *study.evaluate]).config.suite
    assert suite.half == "dev"
    made = any("microworld" in word for word in study.fixed)
    assert suite.name in (("smoke", "unseen_rules") if made else ("standard",))
    assert {"false_refusal_rate", "harmful_compliance_rate"} <= set(study.objectives)


def test_the_paper_s_study_has_fifteen_models_of_many_families_and_sizes() -> None:
    study, trains = loaded("paper")
    grid = cells(study.space)
    names = {cell["model"] for cell in grid}
    assert len(names) == 15
    assert len(grid) == study.trials == 15 * 3 * 3
    by_model = {one.model.name: one for one in trains}
    assert set(by_model) == names
    assert len({one.model.architecture["model_type"] for one in trains}) >= 5
    assert by_model["llama3_70b"].trainer.devices == 8  # as the choice brings it
    assert by_model["mistral"].trainer.devices == 1
    assert [one.metric for one in study.hypotheses].count("false_refusal_rate") == 4


def test_the_ablation_leaves_out_each_part_of_the_miniature() -> None:
    study, _ = loaded("ablation")
    grid = cells(study.space)
    assert len(grid) == study.trials == 2 * (4 * 2 + 4)
    control = [cell for cell in grid if "data.look_alikes" in cell]
    assert {cell["reflection"] for cell in control} == {"none"}
    assert {cell["model.pretraining.thoughts"] for cell in control} == {"all"}


def test_fifteen_models_are_compared_by_every_arm_and_seed() -> None:
    text = (shipped("sweeps") / "architectures.yaml").read_text()
    study = read_study("architectures", "architectures.yaml", text)
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
