"""Arithmetic of a study on devices that are not at hand, and what choices bring with them."""

from __future__ import annotations

import pytest

from tbr_lightning.errors import UserError
from tbr_lightning.training.estimate import SUSTAINED
from tbr_lightning.tuning.costs import DEVICES, TOKENS, lines, model_costs, requests
from tbr_lightning.tuning.study import compose_train, read_study

from ..conftest import Verb

STUDY = """
fixed: [data=safety_mix, data.general=900, data.harmful=100, adapter=lora, trainer=gpu]
space:
  reflection: {choices: [none, external]}
  model: {choices: [smollm2_135m, llama3_70b]}
brings: {model: {llama3_70b: [trainer=deepspeed_zero3, trainer.devices=8]}}
objectives: {false_refusal_rate: minimize}
sampler: grid
"""


def test_hours_follow_from_parameters_and_tokens() -> None:
    study = read_study("s", "s.yaml", STUDY)
    points = [
        {"reflection": r, "model": m}
        for r in ("none", "external")
        for m in ("smollm2_135m", "llama3_70b")
    ]
    made = [(point, compose_train(study, point)) for point in points]
    assert [one.trainer.devices for _, one in made] == [1, 8, 1, 8]
    small, large = model_costs(made, runs=8)
    assert (small.model, small.devices, large.devices, small.runs) == ("smollm2_135m", 1, 8, 4)
    # 4 FLOPs a parameter and token where the base is frozen (no gradient of its weights).
    tokens = 1000 * TOKENS * made[0][1].trainer.epochs
    assert small.run.flops == pytest.approx(4 * small.run.parameters * tokens, rel=0.25)
    peak = DEVICES["A100"][0]
    assert small.hours(peak) == pytest.approx(small.run.flops * 4 / peak / SUSTAINED / 3600)
    assert large.memory * 8e9 > 2 * large.run.parameters  # its weights alone, over all devices
    table = lines([small, large])
    assert table[1].startswith("smollm2_135m ")
    assert table[2].startswith("llama3_70b (gated)")
    assert requests(made) == 100


def test_twice_the_tokens_take_twice_the_time() -> None:
    study = read_study("s", "s.yaml", STUDY)
    point = {"reflection": "none", "model": "smollm2_135m"}
    config = compose_train(study, point)
    one = model_costs([(point, config)], 1)[0]
    config.trainer.epochs *= 2
    two = model_costs([(point, config)], 1)[0]
    assert two.run.flops == pytest.approx(2 * one.run.flops)


def test_what_brings_names_must_be_in_the_space() -> None:
    with pytest.raises(UserError, match=r"brings\.model='llama' is not known"):
        read_study("s", "s.yaml", STUDY.replace("{llama3_70b: [trainer=d", "{llama: [trainer=d"))
    with pytest.raises(UserError, match="brings='models' is not known"):
        read_study("s", "s.yaml", STUDY.replace("brings: {model:", "brings: {models:"))


@pytest.mark.slow  # fifteen configs, and as many models on the meta device
def test_the_paper_s_study_is_costed_without_anything_at_hand(verb: Verb) -> None:
    done = verb("sweep", "study=paper", "dry_run=true")
    assert done.returncode == 2  # weights, rows, prompts and GPUs are missing here
    table = [line for line in done.stdout.splitlines() if " B  " in line]
    assert len(table) == 15
    assert "135 trials" in done.stdout
    assert "requests to the teacher: 500" in done.stdout
    assert "data.harmful_source is not set" in done.stderr
