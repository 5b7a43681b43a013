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
from tbr_lightning.tuning.scheduling import Budget, Claim, Next, charge, claim, owned, release
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
    assert owned(opened, again.number, ME)


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


def test_a_draw_that_was_cut_short_is_drawn_again_as_it_would_have_been(
    opened: Opened, study: Study, tmp_path: Path
) -> None:
    drawn = [take(opened, study, Budget(3), tuple(range(n))) for n in range(3)]
    assert [trial.user_attrs["draw"] for trial in opened.study.trials] == [0, 1, 2]
    assert len({claimed.point["x"] for claimed in drawn}) == 3
    (tmp_path / "other").mkdir()
    other = open_study(study, f"sqlite:///{tmp_path}/other/studies.db")
    first = take(other, study, Budget(3))
    begun = other.study.ask()  # its runner died before it drew anything
    other.study.ask()  # and another one as it had just said which draw it is
    other.backend.set_trial_user_attr(other.study.trials[2]._trial_id, "draw", 2)
    third = take(other, study, Budget(3), (first.number, begun.number))
    assert (third.number, third.point, third.again) == (2, drawn[2].point, False)
    again = take(other, study, Budget(3), (first.number, third.number))
    assert again.number == begun.number
    assert [trial.state for trial in other.study.trials] == [TrialState.RUNNING] * 3
    assert [one.user_attrs["owner"] for one in other.study.trials] == [asdict(ME)] * 3


def test_a_grid_without_a_point_left_waits_for_what_runs_and_then_ends(tmp_path: Path) -> None:
    text = TEXT.replace("{low: 0.0, high: 1.0}", "{choices: [p, q]}").replace("random", "grid")
    study = read_study("made", "made.yaml", text.replace("trials: 3\n", ""))
    opened = open_study(study, f"sqlite:///{tmp_path}/studies.db")
    first = take(opened, study, Budget(5))
    second = take(opened, study, Budget(5), (first.number,))
    assert [first.point, second.point] == [{"x": "p"}, {"x": "q"}]
    begun = opened.study.ask()  # its runner died while it drew a point that is not there
    assert claim(opened, study, Budget(5), ME, (first.number, second.number)) is Next.WAIT
    lost = opened.study.trials[begun.number]
    assert lost.state is TrialState.FAIL
    assert lost.user_attrs["reason"] == (
        "its runner died before it was drawn, and the grid is complete"
    )
    for one in (first, second):
        opened.study.tell(one.number, 0.5)
    assert claim(opened, study, Budget(5), ME, ()) is Next.DONE


def test_how_often_its_process_died_comes_with_a_trial(opened: Opened, study: Study) -> None:
    first = take(opened, study, Budget(1))
    assert (first.deaths, first.again) == (0, False)
    release(opened, first)
    assert take(opened, study, Budget(1)).deaths == 0
    opened.backend.set_trial_user_attr(first.trial_id, "deaths", 2)
    release(opened, first)
    assert take(opened, study, Budget(1)).deaths == 2


def test_the_time_of_each_attempt_is_added_once(
    opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.time()]
    monkeypatch.setattr(scheduling.time, "time", lambda: clock[0])
    first = take(opened, study, Budget(1))

    def earlier() -> float:
        return opened.study.trials[0].user_attrs["earlier_seconds"]  # type: ignore[no-any-return]

    clock[0] += 10.1234
    charge(opened, first)
    assert earlier() == 10.123
    clock[0] += 5
    charge(opened, first)
    assert earlier() == pytest.approx(15.123)
    clock[0] -= 3600  # the clock was set back: no time is given back
    charge(opened, first)
    assert earlier() == pytest.approx(15.123)
