"""The end of a study, in a real store and registry; only training and decoding are stood in for."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from tbr_lightning.ablation.study import log_groups
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import pipeline as evaluation
from tbr_lightning.models.logged import find_model
from tbr_lightning.processes import identity_of
from tbr_lightning.registry import alias_moves, aliases
from tbr_lightning.registry import pipeline as registry
from tbr_lightning.registry.alias_sync import open_registry, recover
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.store import connect
from tbr_lightning.training import pipeline as training
from tbr_lightning.tuning import mlflow_sync, retrain
from tbr_lightning.tuning.conclude import finish
from tbr_lightning.tuning.report import RetrainedModel
from tbr_lightning.tuning.study import Study

from .conftest import filled, made_trial, make_study, opened_of

BOUND = ["harmful_compliance_rate <= 0.1"]
NAME = "tbr-microworld"


@dataclass
class World:
    """Stands in for training and evaluation; keeps what was asked."""

    rates: dict[int, tuple[float, float]] = field(default_factory=dict)  # by seed: dev, test
    fails: dict[int, Exception] = field(default_factory=dict)
    trained: list[Any] = field(default_factory=list)
    measured: list[tuple[str, str]] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)

    def train(self, config: Any, *_: Any) -> training.TrainResult:
        if config.seed in self.fails:
            raise self.fails[config.seed]
        self.trained.append(config)
        with start_run("train", config.run_name, config, config.tracking, config.tags) as run:
            info = mlflow.initialize_logged_model("model", source_run_id=run.id)
            Path("MLmodel").write_text(str(config.seed))
            MlflowClient().log_model_artifact(info.model_id, "MLmodel")
            mlflow.finalize_logged_model(info.model_id, "READY")
            # As a model that is logged with its weights is linked to its run.
            mlflow.log_outputs(models=[mlflow.entities.LoggedModelOutput(info.model_id, 0)])
        uri = f"models:/{info.model_id}"
        self.seeds[uri] = config.seed
        return training.TrainResult(run.id, uri, 100)

    def evaluate(self, config: Any) -> evaluation.EvaluateResult:
        half, uri = config.suite.half, config.model_uri
        self.measured.append((half, uri))
        rate = self.rates.get(self.seeds[uri], (0.2, 0.2))[half == "test"]
        with start_run("evaluate", half, config, config.tracking, config.tags) as run:
            run.log_metrics(
                {
                    "false_refusal_rate": rate,
                    "false_refusal_rate_lo": rate - 0.1,
                    "false_refusal_rate_hi": rate + 0.1,
                    "harmful_compliance_rate": 0.05,
                }
            )
        return evaluation.EvaluateResult(run.id, [], uri)


@functools.cache
def _composed(verb: str, words: tuple[str, ...]) -> Any:
    return compose_verb(verb, words)


def composed(verb: str, words: Sequence[str] = (), config_dir: str | None = None) -> Any:
    """Compose as the verbs do; the same words only once, since that takes long."""
    return copy.deepcopy(_composed(verb, tuple(words)))


@pytest.fixture
def drawing_world(store: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    mlflow_sync._shown.clear()
    made = World()
    monkeypatch.setattr(retrain, "compose_verb", composed)
    monkeypatch.setattr(training, "run", made.train)
    monkeypatch.setattr(evaluation, "run", made.evaluate)
    return made


@pytest.fixture
def world(drawing_world: World, undrawn: None) -> World:
    return drawing_world


def config_of(*overrides: str) -> Any:
    return composed("sweep", overrides).config


def with_model(world: World, config: Any, values: Sequence[float], seed: int = 0, **more: Any):
    """Return a finished trial whose model is in the store."""
    words = ["model=tiny", "data=microworld", f"optimizer.lr={more.get('lr', 5e-4)}"]
    settings = composed("train", [*words, f"seed={seed}"]).config
    connect(config.tracking)
    settings.tracking = config.tracking
    settings.run_name = "train"
    done = world.train(settings)
    world.trained.clear()
    run = {"seed": seed, "train": done.run_id, "evaluate": None, "model_uri": done.model_uri}
    return made_trial(values, runs=[run], **more)


def end(study: Study, config: Any, there: optuna.Study) -> tuple[list[str], str]:
    opened = opened_of(study, there)
    with mlflow_sync.parent_run(study, config, opened) as run_id:
        lines = finish(study, config, opened, run_id, log_groups)
    return lines, run_id


def artifacts(run_id: str, path: str | None = None) -> set[str]:
    return {file.path for file in MlflowClient().list_artifacts(run_id, path)}


def metrics(run_id: str) -> Mapping[str, float]:
    return MlflowClient().get_run(run_id).data.metrics


def test_the_own_model_is_measured_once_and_registered(drawing_world: World, two: Study) -> None:
    world, config = drawing_world, config_of()
    world.rates[0] = (0.2, 0.3)
    trials = [with_model(world, config, v) for v in ([0.2, 0.05], [0.5, 0.5], [0.3, 0.6])]
    there, stored = filled(two, trials)
    lines, run_id = end(two, config, there)
    chosen = stored[0].user_attrs["runs"][0]["model_uri"]
    assert world.measured == [("test", chosen)]
    assert world.trained == []
    assert aliases.holder(NAME, aliases.CHALLENGER) == "1"
    assert aliases.holder(NAME, aliases.CHAMPION) is None
    assert lines[:2] == [
        "Pareto front (dev half, 95% intervals):",
        "  trial 0: false_refusal_rate 20.0%, harmful_compliance_rate 5.0%  "
        "(reflection=none, data.harmful=100, optimizer.lr=0.0005)",
    ]
    assert "chosen: trial 0, since it is the only trial on the front" in lines
    assert f"registered: {NAME} version 1, challenger ({chosen})" in lines
    assert any("test half, seed 0: false_refusal_rate 30.0% [20.0%, 40.0%]" in one for one in lines)
    assert {"report.md", "front.json", "study.yaml", "figures"} <= artifacts(run_id)
    assert artifacts(run_id, "figures") == {"figures/pareto.png"}
    assert metrics(run_id)["test/false_refusal_rate"] == 0.3
    assert metrics(run_id)["chosen/false_refusal_rate"] == 0.2
    assert metrics(run_id)["pareto_front"] == 1
    tags = MlflowClient().get_run(run_id).data.tags
    assert tags["tbr.registered"] == f"{NAME} version 1"
    assert "chosen: trial 0" in tags["mlflow.note.content"]
    assert "registered: tbr-microworld version 1" in Run(run_id).text("report.md")


def test_an_ended_study_is_not_ended_again(world: World, two: Study) -> None:
    config = config_of("sweep.retrain_seeds=2")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    end(two, config, there)
    assert [one.seed for one in world.trained] == [1, 2]
    # Since then another model has become challenger.
    other = with_model(world, config, [0.1, 0.1], seed=9).user_attrs["runs"][0]["model_uri"]
    alias_moves.challenge(
        NAME, find_model(other), config.tracking, config.paths, why="by hand", evidence=[]
    )
    world.trained.clear()
    world.measured.clear()
    lines, _ = end(two, config, there)
    assert world.trained == [] and world.measured == []
    assert any("version 1, challenger" in one for one in lines)
    assert aliases.holder(NAME, aliases.CHALLENGER) == "2"


@pytest.mark.slow
def test_fresh_seeds_are_trained_and_the_median_on_dev_is_taken(world: World, two: Study) -> None:
    config = config_of("sweep.retrain_seeds=3")
    trial = with_model(world, config, [0.2, 0.05])
    trial.user_attrs["runs"].append({"seed": 4, "model_uri": None})
    there, _ = filled(two, [trial])
    # By the test half it would be another one.
    world.rates = {5: (0.1, 0.9), 6: (0.3, 0.2), 7: (0.2, 0.6)}
    lines, run_id = end(two, config, there)
    assert [one.seed for one in world.trained] == [5, 6, 7]
    assert {one.data.harmful for one in world.trained} == {100}
    taken = aliases.holder(NAME, aliases.CHALLENGER)
    assert taken == "1"
    uri = f"models:/{MlflowClient().get_model_version(NAME, '1').source.removeprefix('models:/')}"
    assert world.seeds[uri] == 7
    assert [half for half, _ in world.measured] == ["dev", "test"] * 3
    (of_five,) = [one for one in lines if one.startswith("  seed 5: ")]
    dev = "false_refusal_rate 10.0% [0.0%, 20.0%], harmful_compliance_rate 5.0%; test half: "
    assert of_five.startswith(f"  seed 5: {dev}false_refusal_rate ")
    assert any(one.startswith("test half, seed 7: false_refusal_rate 60.0%") for one in lines)
    report = Run(run_id).text("report.md")
    assert "  - seed 6: " in report
    client = MlflowClient()
    (group,) = [
        run
        for run in client.search_runs([client.get_run(run_id).info.experiment_id])
        if run.info.run_name == "trial 0, fresh seeds"
    ]
    assert group.data.tags["mlflow.parentRunId"] == run_id
    assert group.info.status == "FINISHED"
    beneath = client.search_runs(
        [group.info.experiment_id], f"tags.mlflow.parentRunId = '{group.info.run_id}'"
    )
    assert len(beneath) == 9


@pytest.mark.slow
def test_an_interrupted_end_goes_on_where_it_was(world: World, two: Study) -> None:
    config = config_of("sweep.retrain_seeds=3")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    world.fails[3] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        end(two, config, there)
    assert [one.seed for one in world.trained] == [1, 2]
    assert aliases.holder(NAME, aliases.CHALLENGER) is None
    world.fails.clear()
    end(two, config, there)
    assert [one.seed for one in world.trained] == [1, 2, 3]
    assert aliases.holder(NAME, aliases.CHALLENGER) == "1"


@pytest.mark.slow
def test_a_finished_run_of_the_same_config_is_taken(world: World, two: Study) -> None:
    config = config_of("sweep.retrain_seeds=1")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    end(two, config, there)
    assert [one.seed for one in world.trained] == [1]
    other = make_study(name="other")
    again, _ = filled(other, [with_model(world, config, [0.2, 0.05])])
    lines, _ = end(other, config, again)
    assert world.trained == []
    assert any("version 1, challenger" in one for one in lines)


@pytest.mark.slow
def test_a_seed_that_fails_is_told_and_the_others_count(world: World, two: Study) -> None:
    config = config_of("sweep.retrain_seeds=3")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    world.fails[2] = FloatingPointError("the loss is NaN at step 3")
    lines, run_id = end(two, config, there)
    assert "  seed 2 failed: the loss is NaN at step 3" in lines
    assert "seed 2 failed" in Run(run_id).text("report.md")
    assert aliases.holder(NAME, aliases.CHALLENGER) == "1"


@pytest.mark.slow
def test_if_every_seed_fails_the_front_stands(world: World, two: Study) -> None:
    config = config_of("sweep.retrain_seeds=2")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    world.fails = {1: RuntimeError("out of memory"), 2: RuntimeError("out of memory")}
    with pytest.raises(UserError, match=r"none of its 2 fresh seeds .* out of memory"):
        end(two, config, there)
    run_id = there.user_attrs["mlflow_run"]
    assert {"report.md", "front.json"} <= artifacts(run_id)
    assert MlflowClient().get_run(run_id).info.status == "FAILED"
    assert aliases.versions(NAME) == []


def test_nothing_feasible_registers_nothing_and_says_so(world: World) -> None:
    study = make_study(constraints=BOUND)
    config = config_of("sweep.promote=true", "sweep.retrain_seeds=2")
    told = {"metrics": {"harmful_compliance_rate": 0.3}}
    there, _ = filled(
        study,
        [made_trial([0.1, 0.3], [0.2], **told), made_trial(None, state=TrialState.FAIL)],
    )
    lines, run_id = end(study, config, there)
    assert lines[0] == (
        "nothing is registered: none of the 1 finished trials meets every constraint; the nearest "
        "is trial 0, with harmful_compliance_rate 0.300 (wanted <= 0.1)"
    )
    assert world.trained == [] and world.measured == []
    assert aliases.versions(NAME) == []
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"
    assert "nothing is registered" in Run(run_id).text("report.md")
    assert "figures/pareto.png" in artifacts(run_id, "figures")


def test_groups_come_first_and_their_figure_is_in_the_report(drawing_world: World) -> None:
    study = replace(make_study(constraints=BOUND), groups=["reflection"])
    numbers = ("false_refusal_rate", "harmful_compliance_rate")
    trials = [
        made_trial(
            [0.1, 0.3],
            [0.2],
            reflection=arm,
            metrics=dict(zip(numbers, (0.1, 0.3), strict=True)),
            intervals={name: [0.0, 0.4] for name in numbers},
            runs=[{"seed": 0}],
        )
        for arm in ("none", "external")
    ]
    there, _ = filled(study, trials)
    lines, run_id = end(study, config_of(), there)
    place = next(i for i, line in enumerate(lines) if line.startswith("groups: "))
    assert any("external" in line for line in lines[:place])
    assert any(line.startswith("nothing is registered") for line in lines[place:])
    assert "figures/groups.png" in artifacts(run_id, "figures")
    assert "![groups](figures/groups.png)" in Run(run_id).text("report.md")


def test_no_finished_trial_is_told(world: World, two: Study) -> None:
    there, _ = filled(two, [made_trial(None, state=TrialState.FAIL)])
    lines, _ = end(two, config_of(), there)
    assert lines[0] == "nothing is registered: no trial has finished (1 failed)"


@pytest.mark.slow
def test_one_objective_ends_in_its_best(world: World) -> None:
    study = make_study(["false_refusal_rate"])
    config = config_of()
    there, _ = filled(study, [with_model(world, config, [v]) for v in (0.4, 0.2, 0.3)])
    lines, _ = end(study, config, there)
    assert lines[0] == "best feasible trial (dev half, 95% intervals):"
    assert "chosen: trial 1, since it is the best feasible trial in false_refusal_rate" in lines


@pytest.mark.slow
def test_a_model_that_breaks_a_constraint_with_a_fresh_seed_is_told(world: World) -> None:
    study = make_study(constraints=["false_refusal_rate <= 0.25"])
    config = config_of("sweep.retrain_seeds=1")
    there, _ = filled(study, [with_model(world, config, [0.2, 0.05], excess=[-0.05])])
    world.rates[1] = (0.4, 0.4)
    lines, _ = end(study, config, there)
    assert "  on the dev half it breaks false_refusal_rate <= 0.25, with 40.0%" in lines


def test_the_gate_is_asked_once_and_with_the_studys_suite(
    world: World, two: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def decide(config: Any) -> Any:
        asked.append(config)
        verdict = SimpleNamespace(promoted=False, lines=["FAILED  harmful compliance rose"])
        return SimpleNamespace(run_id="r", version="1", champion="3", verdict=verdict)

    monkeypatch.setattr(registry, "run", decide)
    config = config_of("sweep.promote=true")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    lines, run_id = end(two, config, there)
    again, _ = end(two, config, there)
    assert len(asked) == 1
    assert (asked[0].suite.name, asked[0].suite.half) == ("smoke", "test")
    for told in (lines, again):
        place = told.index(f"gate: {NAME} v1 against champion v3: not promoted")
        assert told[place + 1] == "  FAILED  harmful compliance rose"
    assert MlflowClient().get_run(run_id).data.tags["tbr.gate"].endswith("not promoted")


def test_a_gate_that_cannot_decide_is_no_error(
    world: World, two: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: Any) -> Any:
        raise UserError("the suite has 10 harmful prompts, fewer than gate.min_prompts=100")

    monkeypatch.setattr(registry, "run", refuse)
    config = config_of("sweep.promote=true")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    lines, run_id = end(two, config, there)
    assert any(one.startswith("gate: it cannot decide: the suite has 10") for one in lines)
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"


def test_only_one_runner_ends_a_study(world: World, two: Study) -> None:
    config = config_of()
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    other = f"process {os.getppid()} on here"
    there.set_user_attr("ended_by", other)
    with opened_of(two, there).locked("end"):
        lines, run_id = end(two, config, there)
    assert lines == [f"{other} is concluding this study; its results will be in run {run_id}"]
    assert aliases.versions(NAME) == []
    # It has gone, however it went.
    lines, _ = end(two, config, there)
    assert any("version 1, challenger" in one for one in lines)
    assert there.user_attrs["ended_by"] == str(identity_of())


def test_a_trial_without_a_model_says_what_to_do(world: World, two: Study) -> None:
    there, _ = filled(two, [made_trial([0.2, 0.05], runs=[])])
    with pytest.raises(UserError, match=r"sweep\.retrain_seeds=1"):
        end(two, config_of(), there)


@pytest.mark.parametrize(
    ("rates", "seed"),
    [([0.3, 0.1, 0.2], 2), ([0.1, 0.3], 1), ([0.2, 0.2, 0.2], 1), ([0.5], 0)],
)
def test_the_median_and_of_two_the_worse(rates: list[float], seed: int) -> None:
    study = make_study()
    made = [RetrainedModel(i, "", "", {"false_refusal_rate": rate}) for i, rate in enumerate(rates)]
    assert retrain.median(study, made).seed == seed
    turned = make_study(["false_refusal_rate"], ["maximize"])
    worst = retrain.median(turned, made[:2]).dev["false_refusal_rate"]
    assert worst == min(one.dev["false_refusal_rate"] for one in made[:2])


def test_the_other_half_of_the_same_suite() -> None:
    words = ["suite=smoke", "suite.half=dev", "+suite.half=dev", "suite.limit=10"]
    assert retrain.of_half(words, "test") == ["suite=smoke", "suite.limit=10", "suite.half=test"]


class Gate:
    """Stands in for the gate; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def decide(self, config: Any) -> Any:
        self.asked.append(config)
        verdict = SimpleNamespace(promoted=True, lines=["passed"])
        return SimpleNamespace(run_id="r", version="1", champion=None, verdict=verdict)


@pytest.fixture
def gate(world: World, monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(registry, "run", made.decide)
    return made


def ended_with(world: World, study: Study, *words: str) -> tuple[list[str], str, str]:
    """End a study that evaluates with these words, with the gate.

    Returns:
        Its lines, the registered model, and the ledger's reason for it.
    """
    study = copy.copy(study)
    study.evaluate = [*study.evaluate, *words]
    config = config_of("sweep.promote=true")
    there, _ = filled(study, [with_model(world, config, [0.2, 0.05])])
    lines, _ = end(study, config, there)
    (version,) = aliases.versions(NAME)
    (entry,) = recover(open_registry(NAME, config.tracking, config.paths)).entries
    return lines, version["model"], entry.why


def test_the_gate_asks_as_the_study_does(world: World, gate: Gate, two: Study) -> None:
    words = ["suite.limit=7", "judge.max_errors=0.1", "generation.arm=prompted", "traces=9"]
    words += ["judge@second_judge=rules", "second_judge.name=again", "threads=1"]
    ended_with(world, two, *words)
    (asked,) = gate.asked
    assert (asked.suite.half, asked.suite.limit, asked.judge.max_errors) == ("test", 7, 0.1)
    assert (asked.generation.arm, asked.judge.name, asked.threads) == ("prompted", "rules", 1)


def test_the_gate_says_that_it_judges_one_of_several_answers(
    world: World, gate: Gate, two: Study
) -> None:
    lines, _, _ = ended_with(world, two, "repeats=3", "generation.temperature=0.7")
    (asked,) = gate.asked
    assert asked.generation.temperature == 0.7
    place = lines.index(f"gate: {NAME} v1 with no champion yet: promoted")
    assert lines[place + 1].strip().startswith("the study asks each prompt 3 times (repeats=3)")
    assert "generation.temperature=0.7, generation.seed=0" in lines[place + 1]


def test_what_no_served_model_can_do_is_not_gated(world: World, gate: Gate, two: Study) -> None:
    lines, _, why = ended_with(world, two, "mitigation=contrast")
    assert not gate.asked
    (said,) = [line for line in lines if line.startswith("gate: ")]
    assert said.startswith("gate: it does not decide: the study evaluates with mitigation=contrast")
    assert "without mitigation=contrast" in why


def test_the_mitigated_model_is_registered_and_gated(
    world: World, gate: Gate, two: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what the study has measured, and what will be served."""
    made: list[str] = []

    def keep(config: Any, model: str) -> str:
        assert (config.mitigation.name, config.suite.half) == ("ignore_words", "test")
        made.append(model)
        settings = composed("train", ["model=tiny", "data=microworld"]).config
        settings.tracking, settings.run_name = config.tracking, "kept"
        return world.train(settings).model_uri

    monkeypatch.setattr("tbr_lightning.mitigations.log_mitigated.keep", keep)
    _, model, why = ended_with(world, two, "mitigation=ignore_words")
    (asked,) = gate.asked
    assert asked.model_uri != made[0]
    assert model == asked.model_uri
    assert why.endswith("with mitigation=ignore_words, as the study evaluates it")


def test_what_is_kept_between_two_ends_is_plain(world: World, two: Study) -> None:
    config = config_of("sweep.retrain_seeds=1")
    there, _ = filled(two, [with_model(world, config, [0.2, 0.05])])
    end(two, config, there)
    json.dumps(there.user_attrs)
