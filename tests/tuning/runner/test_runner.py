"""The runner on trials that train nothing: ends of every kind, deaths, and exact budgets."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tbr_lightning.errors import UserError
from tbr_lightning.tuning.runner import HopelessError

from .conftest import Start, alive, outcome, times, wait_for

pytestmark = pytest.mark.slow

Write = Callable[..., Path]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def test_it_runs_the_budget_and_keeps_what_trials_leave(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    study, opened, _ = cheap.sweep(write(trials=4), storage, tmp_path / "runs", workers=2)
    trials = opened.study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert sorted(times(tmp_path / "runs")) == [0, 1, 2, 3]
    for trial in trials:
        assert trial.values == [trial.params["x"]]
        attributes = trial.user_attrs
        assert attributes["metrics"] == pytest.approx({"x": trial.value, "y": 1 - trial.value})
        assert attributes["intervals"]["x"] == pytest.approx([trial.value - 0.1, trial.value + 0.1])
        assert attributes["seconds"] > 0
        assert attributes["config_key"] == "key"
    _, again, _ = cheap.sweep(write(trials=4), storage, tmp_path / "runs")
    assert len(again.study.trials) == 4
    _, more, _ = cheap.sweep(write(trials=5), storage, tmp_path / "runs")
    assert len(more.study.trials) == 5
    assert opened.key == study.key == more.key


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "FloatingPointError: the loss of step 3 is nan"),
        ("memory", "out of memory"),
        ("nan", "objectives.x=nan is not a finite number"),
        ("killed", "SIGKILL"),
        ("exits", "ended with code 3: no such file: rows.json"),
    ],
)
def test_a_failed_trial_says_why_and_many_in_a_row_end_the_study(
    cheap: Any, write: Write, storage: str, tmp_path: Path, how: str, reason: str
) -> None:
    file = write(how=how, more="max_failures: 2")
    with pytest.raises(HopelessError, match="2 trials in a row failed") as caught:
        cheap.sweep(file, storage, tmp_path / "runs")
    assert reason in str(caught.value)
    study = cheap.read_study("cheap", str(file), file.read_text())
    trials = cheap.open_study(study, storage).study.trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2
    assert all(reason in trial.user_attrs["reason"] for trial in trials)


def test_failures_among_successes_end_nothing(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    file = write(how="good, raises", trials=6, more="max_failures: 50")
    _, opened, said = cheap.sweep(file, storage, tmp_path / "runs", workers=2)
    counts = opened.counts()
    assert counts["COMPLETE"] == 6
    assert counts["FAIL"] == sum("failed" in line for line in said) > 0


def test_a_trial_that_was_killed_is_run_again_under_its_number(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    file = write(how="killed once", trials=2)
    _, opened, said = cheap.sweep(file, storage, tmp_path / "runs")
    assert opened.counts() == {"COMPLETE": 2}
    assert {number: len(pids) for number, pids in times(tmp_path / "runs").items()} == {0: 2, 1: 2}
    assert sum("run again" in line for line in said) == 2


def test_an_outage_of_the_tracker_costs_no_trial(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    """Neither as one of the failures in a row that end a study, nor as a process that died."""
    file = write(how="away twice", trials=3, more="max_failures: 1")
    _, opened, said = cheap.sweep(file, storage, tmp_path / "runs")
    assert opened.counts() == {"COMPLETE": 3}
    assert [len(pids) for pids in times(tmp_path / "runs").values()] == [3] * 3
    assert sum("run again: the tracker does not answer" in line for line in said) == 6


def test_an_outage_without_an_end_fails_a_trial(
    cheap: Any, write: Write, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told as an outage may be a fault that stays."""
    monkeypatch.setattr("tbr_lightning.tuning.runner._MOST_OUTAGES", 2)
    with pytest.raises(HopelessError, match="the tracker does not answer"):
        cheap.sweep(write(how="away", more="max_failures: 1"), storage, tmp_path / "runs")
    assert [len(pids) for pids in times(tmp_path / "runs").values()] == [3]


@pytest.mark.parametrize(
    ("how", "limits", "reason"),
    [
        ("slow", {"timeout": 1.0}, "longer than timeout"),
        ("greedy", {"memory": 1.2}, "more than memory=1.2"),
    ],
)
def test_a_trial_beyond_its_limits_is_ended_with_all_it_started(
    cheap: Any, write: Write, storage: str, tmp_path: Path, how: str, limits: Any, reason: str
) -> None:
    file = write(how=how, more="max_failures: 1")
    with pytest.raises(HopelessError, match=reason):
        cheap.sweep(file, storage, tmp_path / "runs", **limits)
    (pids,) = times(tmp_path / "runs").values()
    children = [int(file.read_text()) for file in tmp_path.glob("runs/sweeps/*/*/child")]
    assert len(children) == (how == "slow")
    assert not any(alive(pid) for pid in (*pids, *children))


def test_several_ranks_start_afresh(cheap: Any, write: Write, storage: str, tmp_path: Path) -> None:
    file = write(trials=1)
    file.write_text(file.read_text().replace("space: {", "space: {ranks: {choices: [2]}, "))
    _, opened, _ = cheap.sweep(file, storage, tmp_path / "runs")
    assert opened.counts() == {"COMPLETE": 1}


def test_a_hopeless_trial_is_pruned_from_within(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    file = write(
        how="good, hopeless",
        trials=8,
        more="pruner: {name: median, metric: x, n_startup_trials: 1, n_min_trials: 1}\nseed: 2",
    )
    _, opened, _ = cheap.sweep(file, storage, tmp_path / "runs")
    pruned = [t for t in opened.study.trials if t.state is TrialState.PRUNED]
    assert pruned
    assert opened.counts()["COMPLETE"] + len(pruned) == 8
    assert all(t.params["how"] == "hopeless" for t in pruned)
    assert all("pruned at step" in t.user_attrs["reason"] for t in pruned)


def test_a_loss_prunes_what_is_high_though_the_objective_is_maximised(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    pruner = "{name: median, metric: validation/loss, n_startup_trials: 1, n_min_trials: 1}"
    file = write(how="good, hopeless", trials=8, more=f"pruner: {pruner}\nseed: 2")
    text = file.read_text().replace("objectives: {x: minimize}", "objectives: {y: maximize}")
    file.write_text(text)
    _, opened, _ = cheap.sweep(file, storage, tmp_path / "runs")
    ways = [(t.params["how"], t.state) for t in opened.study.trials]
    since = ways.index(("good", TrialState.COMPLETE))  # there is something to compare with
    states = {how: {s for h, s in ways[since:] if h == how} for how in ("good", "hopeless")}
    assert states == {"good": {TrialState.COMPLETE}, "hopeless": {TrialState.PRUNED}}


def _kill_worker(runner: Any, runs: Path) -> None:
    (pid,) = wait_for(lambda: times(runs).get(1))
    os.kill(pid, signal.SIGKILL)


def _kill_runner(runner: Any, runs: Path) -> None:
    pids = wait_for(lambda: times(runs).get(1))
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    # No trial outlives its runner.
    wait_for(lambda: not any(alive(pid) for pid in pids), 10)


def _kill_both(runner: Any, runs: Path) -> None:
    (pid,) = wait_for(lambda: times(runs).get(1))
    os.killpg(runner.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    runner.wait()


@pytest.mark.parametrize("kill", [_kill_worker, _kill_runner, _kill_both])
def test_whoever_is_killed_no_trial_is_lost_or_doubled(
    start: Start, write: Write, storage: str, tmp_path: Path, kill: Any
) -> None:
    file, runs = write(trials=4), tmp_path / "runs"
    first = start(file, storage, seconds=0.7)
    kill(first, runs)
    found = outcome(first if kill is _kill_worker else start(file, storage))
    assert found["counts"] == {"COMPLETE": 4}
    assert {number: len(pids) for number, pids in times(runs).items()} == {0: 1, 1: 2, 2: 1, 3: 1}


@pytest.mark.parametrize("sampler", ["random", "grid"])
@pytest.mark.parametrize("drawn", [0, 1])
def test_a_trial_whose_runner_died_while_it_drew_is_drawn_as_it_would_have_been(
    cheap: Any, write: Write, tmp_path: Path, sampler: str, drawn: int
) -> None:
    file = write(how="good, fine", trials=4, sampler=sampler)
    if sampler == "grid":
        file.write_text(
            file.read_text().replace("x: {low: 0.0, high: 1.0}", "x: {choices: [1, 2]}")
        )
    found = []
    for storage in ("whole", "broken"):
        url = f"sqlite:///{tmp_path}/{storage}.db"
        if storage == "broken":
            study = cheap.read_study(file.stem, str(file), file.read_text())
            opened = cheap.open_study(study, url)
            trial = opened.study.ask()
            if drawn:
                trial.set_user_attr("draw", 0)
        _, opened, _ = cheap.sweep(file, url, tmp_path / storage)
        assert opened.counts() == {"COMPLETE": 4}
        found.append([trial.params for trial in opened.study.trials])
    assert found[0] == found[1]


def test_an_interrupted_runner_gives_its_trials_back(
    start: Start, write: Write, storage: str, tmp_path: Path
) -> None:
    file, runs = write(trials=2), tmp_path / "runs"
    first = start(file, storage, seconds=30)
    wait_for(lambda: times(runs).get(0))
    first.send_signal(signal.SIGINT)
    assert first.wait(30) != 0
    assert not any(alive(pid) for pid in times(runs)[0])
    assert outcome(start(file, storage))["counts"] == {"COMPLETE": 2}


def test_two_runners_share_a_study_without_exceeding_it(
    start: Start, write: Write, storage: str, tmp_path: Path
) -> None:
    file, runs = write(trials=9), tmp_path / "runs"
    both = [start(file, storage, workers=2, seconds=0.3) for _ in range(2)]
    for process in both:
        assert outcome(process)["counts"] == {"COMPLETE": 9}
    assert {number: len(pids) for number, pids in times(runs).items()} == dict.fromkeys(range(9), 1)


def test_a_silent_runner_loses_its_trial_and_its_result(
    start: Start, write: Write, storage: str, tmp_path: Path
) -> None:
    file, runs = write(trials=1), tmp_path / "runs"
    silent = start(file, storage, grace=2, seconds=4)
    wait_for(lambda: times(runs).get(0))
    os.kill(silent.pid, signal.SIGSTOP)
    other = start(file, storage, grace=2)
    assert outcome(other)["counts"] == {"COMPLETE": 1}
    os.kill(silent.pid, signal.SIGCONT)
    found = outcome(silent)
    assert found["counts"] == {"COMPLETE": 1}
    assert any("another runner took it over" in line for line in found["said"])


def test_everything_infeasible_ends_like_any_study(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    file = write(trials=12, sampler="tpe", more="constraints: ['y <= -1']")
    study, opened, _ = cheap.sweep(file, storage, tmp_path / "runs", workers=2)
    trials = opened.study.trials
    assert opened.counts() == {"COMPLETE": 12}
    assert all(t.user_attrs["constraints"][0] > 0 for t in trials)
    from tbr_lightning.tuning.pareto_front import pareto_front

    assert pareto_front(study, trials) == []


def test_a_config_that_cannot_be_composed_is_a_failed_trial(
    cheap: Any, write: Write, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise UserError("optimizer.lr=-1 is too small")

    monkeypatch.setattr(cheap, "Spec", refuse)
    with pytest.raises(HopelessError, match=r"optimizer\.lr=-1 is too small"):
        cheap.sweep(write(more="max_failures: 2"), storage, tmp_path / "runs")
