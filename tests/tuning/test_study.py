"""Study files: what they say, and what is wrong with them, told before the first trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import shipped
from tbr_lightning.errors import UserError
from tbr_lightning.tuning.plan import check_names, evaluation_names
from tbr_lightning.tuning.study import Constraint, load_study, read_study

STUDY = """
about: a study
fixed: [model=tiny, data=microworld, trainer.epochs=4]
space:
  reflection: {choices: [none, external]}
  optimizer.lr: {low: 1e-4, high: 1e-3, log: true}
evaluate: [suite=smoke, suite.half=dev, suite.limit=10]
objectives: {false_refusal_rate: minimize, general_accuracy: maximize}
constraints: ["harmful_compliance_rate <= 0.02"]
trials: 3
"""


def read(text: str) -> object:
    return read_study("s", "s.yaml", text)


# An arena is no study: tests/ablation/test_arena.py composes it.
SHIPPED = sorted(
    file for file in shipped("sweeps").glob("*.yaml") if "rivals:" not in file.read_text()
)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_every_shipped_study_composes(file: Path) -> None:
    study, _ = load_study(file.stem)
    assert study.about
    assert any("half=dev" in word for word in study.evaluate)


def test_what_it_says() -> None:
    study = read_study("s", "s.yaml", STUDY)
    assert study.objectives == {"false_refusal_rate": "minimize", "general_accuracy": "maximize"}
    assert study.bounds == [Constraint("harmful_compliance_rate", "<=", 0.02)]
    assert study.bounds[0].excess(0.05) == pytest.approx(0.03)
    assert Constraint("a", ">=", 0.5).excess(0.4) == pytest.approx(0.1)
    assert (study.sampler, study.pruner, study.seeds) == ({"name": "tpe"}, None, 1)


def test_budget_and_limits_change_no_identity_but_the_space_does() -> None:
    study = read_study("s", "s.yaml", STUDY)
    same = STUDY.replace("trials: 3", "trials: 9\nhours: 2\nworkers: 2\ntimeout: 5\nmemory: 1.5")
    assert read_study("s", "s.yaml", same.replace("a study", "another")).key == study.key
    for old, new in (("1e-4", "1e-5"), ("<= 0.02", "<= 0.05"), ("trials: 3", "trials: 3\nseed: 1")):
        assert read_study("s", "s.yaml", STUDY.replace(old, new)).key != study.key


def test_an_interpolation_is_left_to_the_trials_own_config() -> None:
    word = "objective.reflection_weight=${objective.trigger_weight}"
    study = read_study("s", "s.yaml", STUDY.replace("trainer.epochs=4", f'"{word}"'))
    assert study.fixed[-1] == word


def test_a_grid_has_its_own_budget() -> None:
    text = STUDY.replace("low: 1e-4, high: 1e-3, log: true", "choices: [1e-4, 1e-3]")
    grid = text.replace("trials: 3", "sampler: grid")
    assert read_study("s", "s.yaml", grid).trials == 4
    assert read_study("s", "s.yaml", grid + "trials: 99").trials == 4


ONE = "objectives: {false_refusal_rate: minimize}"
TWO = "objectives: {false_refusal_rate: minimize, general_accuracy: maximize}"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("trials: 3", "trails: 3", "did you mean 'trials'"),
        ("trials: 3", "groups: []", "trials=0: give the number"),
        ("trials: 3", "trials: 0", "trials=0"),
        ("trials: 3", "trials: 3\nworkers: two", "workers: Value 'two' of type 'str' could not"),
        ("trials: 3", "trials: 3\nhours: -1", "hours=-1"),
        ("trials: 3", "trials: 3\ngroups: [model]", "'model' is not known"),
        ("minimize, g", "least, g", "'least' is not known"),
        ("<= 0.02", "< 0.02", "cannot be read: write METRIC <= NUMBER"),
        ("trials: 3", "trials: 3\nsampler: tpee", "did you mean 'tpe'"),
        ("trials: 3", "trials: 3\nsampler: {name: tpe, n_start: 3}", "n_startup_trials"),
        ("trials: 3", "sampler: grid", "space.optimizer.lr: sampler=grid needs its values"),
        ("trials: 3", "trials: 3\nsampler: cmaes", "one objective and there are 2"),
        ("trials: 3", "trials: 3\npruner: median", "there are 2 objectives"),
        (TWO, f"{ONE}\npruner: wilcoxon", "seeds=1"),
        (TWO, f"{ONE}\npruner: medain", "did you mean 'median'"),
        ("space:", "space: }", "not valid YAML"),
        ("fixed: [", "hours: [", "hours: "),
        ("fixed: [", "fixed: {a: ", "not valid YAML"),
        ("fixed: [model=tiny, data=microworld, trainer.epochs=4]", "fixed: model=tiny", "fixed: "),
        ("trials: 3", "trials: 3\nseeds: 2\n", None),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(old: str, new: str, says: str | None) -> None:
    text = STUDY.replace(old, new)
    assert text != STUDY
    if says is None:
        read(text)
        return
    with pytest.raises(UserError) as caught:
        read(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_conditions_do_not_go_with_samplers_that_need_every_parameter() -> None:
    text = STUDY.replace("log: true}", "log: true, when: {reflection: none}}")
    with pytest.raises(UserError, match="needs the same parameters in every trial"):
        read(text + "sampler: qmc")
    read(text + "sampler: random")


def test_a_misspelt_override_is_told_with_the_near_match(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(STUDY.replace("optimizer.lr:", "optimizer.lrr:"))
    with pytest.raises(UserError, match=r"did you mean 'optimizer\.lr'"):
        load_study(str(file))
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        load_study("smoek")


def test_objectives_that_no_run_logs_are_told() -> None:
    evaluation = compose_verb("evaluate", ["model=tiny", "suite=smoke", "suite.half=dev"]).config
    train = compose_verb("train", ["model=tiny"]).config
    names = evaluation_names(evaluation)
    assert {"false_refusal_rate", "general/microworld", "reflection_words/harmful"} <= {*names}
    check_names(read_study("s", "s", STUDY), [train], evaluation)
    timed = STUDY.replace("general_accuracy: maximize", "train/seconds: minimize")
    check_names(read_study("s", "s", timed), [train], evaluation)
    for old, new, says in (
        ("general_accuracy", "general_acuracy", "did you mean 'general_accuracy'"),
        ("harmful_compliance_rate <", "harmful_compliances <", "constraints.harmful_compliances"),
        (TWO, f"{ONE}\npruner: median", "trainer.eval_every"),
        (
            TWO,
            "objectives: {train/loss: minimize}\nseeds: 2\npruner: wilcoxon",
            "no rate over prompts",
        ),
        (TWO, f"{ONE}\npruner: {{name: median, metric: loss}}", "nothing measures loss"),
    ):
        with pytest.raises(UserError, match=says):
            check_names(read_study("s", "s", STUDY.replace(old, new)), [train], evaluation)


@pytest.mark.parametrize(
    ("objective", "goal", "metric", "sign"),
    [
        ("general_accuracy", "maximize", "", 1),
        ("general_accuracy", "maximize", "metric: validation/loss, ", -1),
        ("harmful_compliance_rate", "minimize", "metric: probe/general_accuracy, ", -1),
        ("harmful_compliance_rate", "minimize", "metric: probe/false_refusal_rate, ", 1),
        ("false_refusal_rate", "maximize", "metric: probe/false_refusal_rate, ", 1),
    ],
)
def test_what_is_reported_is_turned_where_better_means_the_opposite(
    objective: str, goal: str, metric: str, sign: int
) -> None:
    text = f"space: {{x: {{low: 0, high: 9}}}}\nobjectives: {{{objective}: {goal}}}\ntrials: 3\n"
    found = read_study("s", "s.yaml", f"{text}pruner: {{{metric}name: median}}\n")
    assert found.reported_sign == sign
