"""Which trial a runner takes next: exactly the budget, nothing lost, nothing doubled.

All of it happens while the study is locked, so that what is counted is what is acted on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

import optuna
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.processes import Owner, read_owner
from tbr_lightning.tuning.sampling import make_sampler
from tbr_lightning.tuning.space import Point, cells, suggest
from tbr_lightning.tuning.storage import Opened
from tbr_lightning.tuning.study import Study

OWNER, DRAW, DEATHS, LOST, REASON = "owner", "draw", "deaths", "lost", "reason"
"""User attributes of a trial: its runner; which proposal of the sampler it is; how often its own
process, and how often its runner, died under it; why it failed or was pruned."""

BEGUN, EARLIER = "begun", "earlier_seconds"
"""And when its present attempt began, and how long attempts before it took that were given back."""

_MOST_LOST = 5  # runners that may die under a trial before it is taken for the cause
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Next(Enum):
    """Why there is no trial to take."""

    WAIT = "others run what is left"
    DONE = "the budget is spent"


@dataclass(frozen=True)
class Budget:
    """The budget of a study."""

    trials: int  # finished trials to reach
    seconds: float | None = None  # seconds of all trials together, after which none is started


@dataclass(frozen=True)
class Claim:
    """A trial that this runner has to itself."""

    number: int  # number of the trial in its study
    trial_id: int  # id of the trial in the storage
    point: Point  # values that it tries
    deaths: int = 0  # how often its process died before
    again: bool = False  # it was started before, so there may be something to resume


def claim(
    opened: Opened, study: Study, budget: Budget, me: Owner, mine: Sequence[int]
) -> Claim | Next:
    """Take over a trial whose runner is dead, or else begin a new one.

    Args:
        opened: The study in its storage.
        study: Study as its file describes it.
        budget: Budget that all runners together must not exceed.
        me: Identity of this runner.
        mine: Numbers of the trials that it runs already.
    """
    with opened.locked():
        trials = opened.study.get_trials(deepcopy=False)
        stale = set(opened.backend._get_stale_trial_ids(opened.id))
        running = 0
        for trial in trials:
            if trial.state != TrialState.RUNNING or trial.number in mine:
                running += trial.state == TrialState.RUNNING
                continue
            if not _abandoned(trial, stale):
                running += 1
                continue
            taken = _take_over(opened, study, trials, trial, me)
            if taken is not None:
                return taken
        done = sum(trial.state in _DONE for trial in trials)
        if done >= budget.trials:
            return Next.DONE
        if done + running >= budget.trials or _spent(trials, budget):
            return Next.WAIT if running else Next.DONE
        begun = _begin(opened, study, trials, me)
        if begun is None:
            return Next.WAIT if running else Next.DONE
        return begun


def owned(opened: Opened, number: int, me: Owner) -> bool:
    """Return whether a trial is still this runner's: without heartbeats it loses it."""
    trial = opened.backend.get_trial(
        opened.backend.get_trial_id_from_study_id_trial_number(opened.id, number)
    )
    return trial.state == TrialState.RUNNING and read_owner(trial.user_attrs.get(OWNER)) == me


def charge(opened: Opened, claim: Claim) -> None:
    """Add the time of a trial's attempt to what it took; another one begins, now or later."""
    attributes = opened.backend.get_trial(claim.trial_id).user_attrs
    _add(opened, claim.trial_id, time.time() - attributes.get(BEGUN, time.time()))
    opened.backend.set_trial_user_attr(claim.trial_id, BEGUN, time.time())


def _add(opened: Opened, trial_id: int, took: float) -> None:
    earlier = opened.backend.get_trial(trial_id).user_attrs.get(EARLIER, 0.0) + max(took, 0.0)
    opened.backend.set_trial_user_attr(trial_id, EARLIER, round(earlier, 3))


def release(opened: Opened, claim: Claim) -> None:
    """Release a trial unfinished, for any runner to take."""
    charge(opened, claim)
    opened.backend.set_trial_user_attr(claim.trial_id, OWNER, "released")


def _abandoned(trial: FrozenTrial, stale: set[int]) -> bool:
    found = trial.user_attrs.get(OWNER)
    if found is None or found == "released" or trial._trial_id in stale:
        return True
    owner = read_owner(found)
    return owner is not None and owner.known_dead()


def _take_over(
    opened: Opened, study: Study, trials: Sequence[FrozenTrial], trial: FrozenTrial, me: Owner
) -> Claim | None:
    """Claim a trial whose runner is gone; fail it if it cannot be run again."""
    attributes, backend = trial.user_attrs, opened.backend
    if OWNER not in attributes:
        # Its runner died while it drew. Drawn again with the same index, it draws the same.
        begun = _begin(opened, study, trials, me, trial)
        if begun is None:
            _fail(opened, trial, "its runner died before it was drawn, and the grid is complete")
        return begun
    lost = attributes.get(LOST, 0) + (attributes[OWNER] != "released")
    if lost > _MOST_LOST:
        _fail(opened, trial, f"{lost} runners died under it")
        return None
    backend.set_trial_user_attr(trial._trial_id, LOST, lost)
    if attributes[OWNER] != "released" and BEGUN in attributes:
        # Up to its last sign of life: a sweep that was killed may go on only the next day.
        last = time.time() - opened.silence(trial._trial_id)
        _add(opened, trial._trial_id, last - attributes[BEGUN])
    _own(opened, trial._trial_id, me)
    return Claim(
        trial.number,
        trial._trial_id,
        dict(trial.params),
        deaths=attributes.get(DEATHS, 0),
        again=True,
    )


def _begin(
    opened: Opened,
    study: Study,
    trials: Sequence[FrozenTrial],
    me: Owner,
    there: FrozenTrial | None = None,
) -> Claim | None:
    """Ask the sampler for a new trial, or for one that is there and was never drawn to its end.

    Returns:
        ``None`` if a grid has no point left.
    """
    index = 1 + max((t.user_attrs.get(DRAW, -1) for t in trials), default=-1)
    if there is not None:
        index = there.user_attrs.get(DRAW, index)
    sampler = make_sampler(study.sampler, study.seed, index)
    if study.sampler["name"] == "grid":
        grid = cells(study.space)
        if index >= len(grid):
            return None
        sampler = optuna.samplers.PartialFixedSampler(grid[index], sampler)
    opened.study.sampler = sampler
    trial = (
        opened.study.ask() if there is None else optuna.trial.Trial(opened.study, there._trial_id)
    )
    drawn = suggest(study.space, trial)
    trial.set_user_attr(DRAW, index)
    _own(opened, trial._trial_id, me)
    return Claim(trial.number, trial._trial_id, drawn)


def _own(opened: Opened, trial_id: int, me: Owner) -> None:
    opened.backend.record_heartbeat(trial_id)
    opened.backend.set_trial_user_attr(trial_id, BEGUN, time.time())
    opened.backend.set_trial_user_attr(trial_id, OWNER, asdict(me))


def _fail(opened: Opened, trial: FrozenTrial, reason: str) -> None:
    opened.backend.set_trial_user_attr(trial._trial_id, REASON, reason)
    opened.study.tell(trial.number, state=TrialState.FAIL)


def _spent(trials: Sequence[FrozenTrial], budget: Budget) -> bool:
    if budget.seconds is None:
        return False
    spent = 0.0
    for trial in trials:
        attributes = trial.user_attrs
        spent += attributes.get(EARLIER, 0.0)
        if trial.state.is_finished():
            spent += attributes.get("seconds", 0.0)
        elif attributes.get(OWNER, "released") != "released":
            # Not since Optuna's own start: a sweep may have been stopped overnight.
            spent += max(time.time() - attributes.get(BEGUN, time.time()), 0.0)
    return spent >= budget.seconds
