"""Which trial comes next: the budget to the trial, runners that died, trials that were given back.

All in this process: that kills of real processes end the same way, ``runner/`` shows.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import sqlalchemy
from optuna.trial import TrialState

from tbr_lightning.processes import identity_of
from tbr_lightning.tuning import scheduling
from tbr_lightning.tuning.scheduling import Budget, Claim, Next, claim, owned, release
from tbr_lightning.tuning.storage import Opened, open_study
from tbr_lightning.tuning.study import Study, read_study

TEXT = """
space: {x: {low: 0.0, high: 1.0}}
objectives: {x: minimize}
sampler: random
trials: 3
"""
ME = identity_of()
DEAD = replace(ME, pid=2**22 + 1, started=1.0)  # above the largest id that Linux gives
FAR = replace(ME, machine="another")


@pytest.fixture
def study() -> Study:
    return read_study("made", "made.yaml", TEXT)


@pytest.fixture
def opened(study: Study, tmp_path: Path) -> Opened:
    return open_study(study, f"sqlite:///{tmp_path}/studies.db")


def take(opened: Opened, study: Study, budget: Budget, mine: tuple[int, ...] = ()) -> Claim:
    found = claim(opened, study, budget, ME, mine)
    assert isinstance(found, Claim)
    return found


def dies(opened: Opened, taken: Claim) -> None:
    opened.backend.set_trial_user_attr(taken.trial_id, "owner", asdict(DEAD))


def test_the_budget_is_kept_to_the_trial(opened: Opened, study: Study) -> None:
    budget = Budget(2)
    first = take(opened, study, budget)
    second = take(opened, study, budget, (first.number,))
    assert claim(opened, study, budget, ME, (0, 1)) is Next.WAIT
    opened.study.tell(first.number, state=TrialState.FAIL)  # a failure does not count
    third = take(opened, study, budget, (second.number,))
    for one in (second, third):
        opened.study.tell(one.number, 0.5)
    assert claim(opened, study, budget, ME, ()) is Next.DONE
    assert opened.counts() == {"FAIL": 1, "COMPLETE": 2}


def test_time_that_is_spent_begins_nothing(opened: Opened, study: Study) -> None:
    first = take(opened, study, Budget(3, seconds=100))
    opened.backend.set_trial_user_attr(first.trial_id, "seconds", 60.0)
    opened.study.tell(first.number, 0.5)
    assert claim(opened, study, Budget(3, seconds=60), ME, ()) is Next.DONE
    assert isinstance(claim(opened, study, Budget(3, seconds=100), ME, ()), Claim)


def test_the_time_between_two_runs_of_a_sweep_is_not_spent(
    opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.time()]
    monkeypatch.setattr(scheduling.time, "time", lambda: clock[0])
    budget = Budget(3, seconds=3600)
    first = take(opened, study, budget)
    clock[0] += 1000
    release(opened, first)
    clock[0] += 86_400  # the night
    again = take(opened, study, budget)
    assert again.number == first.number
    second = take(opened, study, budget, (first.number,))
    clock[0] += 1000  # of both: with the attempt before it they are 3000
    opened.backend.set_trial_user_attr(first.trial_id, "seconds", 1000.0)
    opened.study.tell(first.number, 0.5)
    third = take(opened, study, budget, (second.number,))
    opened.study.tell(third.number, state=TrialState.FAIL)
    clock[0] += 600
    assert claim(opened, study, budget, ME, (second.number,)) is Next.WAIT


def test_a_trial_of_a_dead_runner_is_taken_over_and_of_a_living_one_not(
    opened: Opened, study: Study
) -> None:
    first = take(opened, study, Budget(1))
    assert owned(opened, first.number, ME)
    assert claim(opened, study, Budget(1), DEAD, ()) is Next.WAIT
    opened.backend.set_trial_user_attr(first.trial_id, "owner", asdict(FAR))
    assert claim(opened, study, Budget(1), ME, ()) is Next.WAIT  # nobody can know from here
    assert not owned(opened, first.number, ME)
    dies(opened, first)
    again = take(opened, study, Budget(1))
    assert (again.number, again.point, again.again) == (first.number, first.point, True)


def test_a_trial_under_which_runners_die_is_given_up_after_the_sixth(
    opened: Opened, study: Study
) -> None:
    first = take(opened, study, Budget(1))
    for _ in range(5):
        dies(opened, first)
        again = take(opened, study, Budget(1))
        assert (again.number, again.again) == (first.number, True)
    dies(opened, first)
    other = take(opened, study, Budget(1))
    assert (other.number, other.again) == (first.number + 1, False)
    failed = opened.study.trials[first.number]
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["reason"] == "6 runners died under it"


def test_a_trial_that_is_given_back_may_be_so_without_end(opened: Opened, study: Study) -> None:
    first = take(opened, study, Budget(1))
    for _ in range(8):
        release(opened, first)
        again = take(opened, study, Budget(1))
        assert (again.number, again.again) == (first.number, True)


def test_the_time_of_an_attempt_whose_runner_was_killed_is_spent(
    opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to its last heartbeat: until somebody takes the trial over nothing is spent."""
    clock = [time.time()]
    monkeypatch.setattr(scheduling.time, "time", lambda: clock[0])
    budget = Budget(3, seconds=3600)
    first = take(opened, study, budget)
    clock[0] += 86_400 + 2000
    dies(opened, first)
    monkeypatch.setattr(Opened, "silence", lambda self, trial_id: 86_400.0)  # the night
    again = take(opened, study, budget)
    assert opened.study.trials[first.number].user_attrs["earlier_seconds"] == 2000
    clock[0] += 1000
    opened.backend.set_trial_user_attr(again.trial_id, "seconds", 1000.0)
    opened.study.tell(again.number, 0.5)
    second = take(opened, study, budget)
    clock[0] += 700  # 3700 with it
    assert claim(opened, study, budget, ME, (second.number,)) is Next.WAIT


def test_silence_is_counted_by_the_storages_clock(opened: Opened, study: Study) -> None:
    first = take(opened, study, Budget(1))
    assert 0 <= opened.silence(first.trial_id) < 60
    with opened.backend.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
        )
    assert 3600 <= opened.silence(first.trial_id) < 3700
    assert opened.silence(first.trial_id + 1) == 0
