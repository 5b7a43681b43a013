"""Rates by group, architecture and size, from trials as a sweep leaves them."""

from __future__ import annotations

import io
from pathlib import Path

import mlflow
import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.trial import TrialState, create_trial

from tbr_lightning.ablation.figures import figure
from tbr_lightning.ablation.models import millions, model_of
from tbr_lightning.ablation.study import CSV, FIGURE, TABLE, grouped, log_groups
from tbr_lightning.ablation.view import Row, as_table, lines, markdown
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.evaluation.statistics import Rate
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.run import Run
from tbr_lightning.tuning.outcome import over_seeds
from tbr_lightning.tuning.space import active, cells
from tbr_lightning.tuning.study import Study, read_study

MODELS = """
about: false refusal by architecture and size
fixed: [data=microworld]
space:
  seed: {choices: [0, 1]}
  reflection: {choices: [none, external]}
  model.pretraining.hidden: {choices: [64, 128, 192]}
  model: {choices: [tiny, tiny_gpt_neox]}
evaluate: [suite=smoke, suite.half=dev]
objectives: {false_refusal_rate: minimize, harmful_compliance_rate: minimize}
sampler: grid
groups: [model, model.pretraining.hidden, reflection]
"""
AMOUNTS = """
about: how much safety data
fixed: [model=tiny, data=microworld]
space:
  reflection: {choices: [none, external]}
  data.harmful: {low: 1, high: 300}
  objective.reflection_weight: {low: 0.5, high: 2.0, when: {reflection: external}}
evaluate: [suite=smoke, suite.half=dev]
objectives: {false_refusal_rate: minimize, harmful_compliance_rate: minimize}
constraints: ["train/seconds <= 60"]
groups: [reflection, data.harmful]
trials: 6
"""
PROMPTS = 200


def study_of(text: str) -> Study:
    return read_study("made", "made.yaml", text)


def add(
    study: Study,
    storage: optuna.Study,
    params: dict[str, object],
    *,
    refused: int,
    complied: int = 0,
    state: TrialState = TrialState.COMPLETE,
) -> None:
    """Add a trial with so many of 200 look-alikes refused and harmful prompts answered."""
    counts = {"false_refusal_rate": refused, "harmful_compliance_rate": complied}
    shares = {name: Rate(count, PROMPTS) for name, count in counts.items()}
    known = active(study.space, params)  # type: ignore[arg-type]
    storage.add_trial(
        create_trial(
            state=state,
            params=params,
            distributions=known,
            values=[rate.value for rate in shares.values()],
            user_attrs={
                "metrics": {n: r.value for n, r in shares.items()} | {"train/seconds": 9.0},
                "intervals": {name: list(rate.interval) for name, rate in shares.items()},
                "runs": [{"seed": 0, "train": "t", "evaluate": "e", "model_uri": "models:/m-1"}],
            },
        )
    )


def stored(study: Study) -> optuna.Study:
    return optuna.create_study(directions=list(study.objectives.values()))


@pytest.fixture(scope="module")
def models() -> tuple[Study, optuna.Study]:
    """A whole grid: more width and reflections mean fewer refusals, a seed shifts all by 4."""
    study = study_of(MODELS)
    storage = stored(study)
    for cell in cells(study.space):
        width, seed = int(str(cell["model.pretraining.hidden"])), int(str(cell["seed"]))
        base = 190 if cell["reflection"] == "none" else 80 - width // 4
        other = 6 if cell["model"] == "tiny" else 0
        add(study, storage, dict(cell), refused=base - 4 * seed - other, complied=1)
    add(study, storage, dict(cells(study.space)[0]), refused=0, state=TrialState.PRUNED)
    return study, storage


def pick(rows: list[Row], margin: str, of: str, arm: str) -> Row:
    (row,) = [r for r in rows if (r.margin, r.of, r.arm) == (margin, of, arm)]
    return row


def test_each_group_pools_its_seeds(models: tuple[Study, optuna.Study]) -> None:
    study, storage = models
    rows = grouped(study, storage.trials)
    row = pick(rows, "model", "tiny 128", "external")
    assert (row.trials, row.runs) == (2, 2)
    assert row.model is not None
    assert row.model.architecture == "llama"
    rate = row.rates["false_refusal_rate"]
    assert rate.value == pytest.approx((42 + 38) / 2 / PROMPTS)
    seeds = []
    for count in (42, 38):
        low, high = Rate(count, PROMPTS).interval
        seeds.append({"x": count / PROMPTS, "x_lo": low, "x_hi": high})
    assert list(rate.interval) == pytest.approx(over_seeds(seeds)[1]["x"])
    # What no trial measured is not told of.
    assert "general_accuracy" not in row.rates


def test_margins_by_architecture_and_by_size(models: tuple[Study, optuna.Study]) -> None:
    study, storage = models
    rows = grouped(study, storage.trials)
    assert [row.of for row in rows if row.margin == "architecture"] == ["gpt_neox"] * 2 + [
        "llama"
    ] * 2
    sizes = list(dict.fromkeys(row.of for row in rows if row.margin == "size"))
    assert len(sizes) == 3
    shares = [pick(rows, "size", of, "external").rates["false_refusal_rate"].value for of in sizes]
    assert shares == sorted(shares, reverse=True)
    everything = pick(rows, "all", "all models", "none")
    assert (everything.trials, everything.model) == (12, None)
    assert [row.arm for row in rows[:2]] == ["none", "external"]  # as the space names them


def test_the_lines_name_every_model_once(models: tuple[Study, optuna.Study]) -> None:
    study, storage = models
    told = lines(grouped(study, storage.trials))
    assert told[0].startswith("false refusal rate (percent, 95% intervals")
    assert told[1].split() == ["none", "external"]
    llama = [line for line in told if line.startswith("llama, ")]
    assert len(llama) == 3
    assert llama[1].split("  ")[-1].strip().startswith("20.0 [")
    assert any(line.startswith("all models") for line in told)
    assert max(map(len, told)) < 100


def test_the_figure_has_a_column_for_each_architecture(
    models: tuple[Study, optuna.Study],
) -> None:
    study, storage = models
    drawn = figure(grouped(study, storage.trials), study.about)
    assert isinstance(drawn, Figure)
    axes = drawn.axes
    assert [one.get_title() for one in axes[:2]] == ["gpt_neox", "llama"]
    assert len(axes) == 4  # false refusal above harmful compliance
    assert len(axes[0].get_lines()) >= 2
    drawn.savefig(io.BytesIO())


def test_amounts_make_a_trade_off() -> None:
    study = study_of(AMOUNTS)
    storage = stored(study)
    for harmful, refused, complied in ((20, 49, 129), (5, 0, 200), (300, 196, 0)):
        point: dict[str, object] = {"reflection": "none", "data.harmful": harmful}
        add(study, storage, point, refused=refused, complied=complied)
    for harmful, complied in ((80, 10), (9, 200)):
        point = {"reflection": "external", "data.harmful": harmful}
        point["objective.reflection_weight"] = 1.0
        add(study, storage, point, refused=0, complied=complied)
    rows = grouped(study, storage.trials)
    assert [row.arm for row in rows] == [
        "none 5",
        "none 20",
        "none 300",
        "external 9",
        "external 80",
    ]
    assert rows[0].amount_of == "data.harmful"
    told = lines(rows)
    assert "rates in percent" in told[0]
    assert told[2].split()[:2] == ["none", "5"]
    assert told[2].split()[-1] == "9"  # the constraint's metric, which has no interval
    axes = figure(rows, study.about).axes[0]
    assert axes.get_xlabel().startswith("harmful compliance")
    assert {text.get_text() for text in axes.texts} >= {"20", "300", "80"}


def test_a_model_is_counted_without_weights() -> None:
    small = model_of("model=tiny_qwen3", "data=microworld", "model.pretraining.hidden=64")
    assert (small.name, small.architecture) == ("tiny_qwen3", "qwen3")
    assert small.parameters is not None
    assert 100_000 < small.parameters < 400_000
    real = model_of("model=llama3_2_1b", "data=microworld")
    assert real.size == "1.24 B"
    assert model_of("model=mistral", "model.path=somewhere").parameters is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(7_241_732_096, "7.24 B"), (13e9, "13 B"), (783_616, "0.78 M"), (64e3, "64 k")],
)
def test_sizes_read_well(count: float, text: str) -> None:
    assert millions(int(count)) == text


def test_table_and_figure_are_logged_once_however_often_a_sweep_ends(
    models: tuple[Study, optuna.Study], store: Path
) -> None:
    study, storage = models
    tracking = TrackingConfig(uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "a"))
    with start_run("sweep", "made", tracking, tracking) as opened:
        pass
    for _ in range(2):
        told = log_groups(study, storage, opened.id)
    assert told[-1].startswith("groups: groups.json")
    client = mlflow.MlflowClient()
    files = {item.path for item in client.list_artifacts(opened.id)}
    assert {TABLE, CSV} <= files
    assert [one.path for one in client.list_artifacts(opened.id, "figures")] == [FIGURE]
    table = pd.read_csv(io.StringIO(Run(opened.id).text(CSV)))
    assert len(table) == len(as_table(grouped(study, storage.trials)))
    assert {"architecture", "parameters", "false_refusal_rate_lo"} <= set(table.columns)


def test_nothing_is_logged_of_a_study_without_groups_or_trials(store: Path) -> None:
    study = study_of(MODELS.replace("groups: [model, model.pretraining.hidden, reflection]", ""))
    assert log_groups(study, stored(study), "no run") == []
    study = study_of(MODELS)
    assert log_groups(study, stored(study), "no run") == []


PARTS = """
fixed: [model=tiny, data=microworld]
space:
  model.pretraining.thoughts: {choices: [all, none]}
  reflection: {choices: [none, external]}
evaluate: [suite=smoke, suite.half=dev]
objectives: {false_refusal_rate: minimize, harmful_compliance_rate: minimize}
sampler: grid
groups: [model.pretraining.thoughts, reflection]
"""


def test_bases_of_one_size_are_told_apart_by_what_they_have_read() -> None:
    study, storage = study_of(PARTS), optuna.create_study(directions=["minimize"] * 2)
    for number, cell in enumerate(cells(study.space)):
        add(study, storage, dict(cell), refused=20 * number)
    rows = grouped(study, storage.get_trials())
    told = "\n".join(lines(rows))
    assert told.count("\nall ") == told.count("\nnone ") == 2  # a line for each rate
    drawn = figure(rows, "parts")
    names = [label.get_text() for label in drawn.axes[-1].get_xticklabels()]
    assert names == ["all", "none"]
    table = markdown(as_table(rows))
    assert table.splitlines()[0] == "| model | arm | false refusal | harmful compliance |"
    assert "| all | external | 10.0 (7 to 15) | 0.0 (0 to 2) |" in table
