"""Runs a study's trials until its budget is spent: asks, starts, watches, reports."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from tbr_lightning.errors import UserError, first_line
from tbr_lightning.outages import OutageError
from tbr_lightning.processes import identity_of
from tbr_lightning.training.trial_pruning_channel import PruningChannel
from tbr_lightning.tuning import local_executor, scheduling
from tbr_lightning.tuning.executor import Executor, Worker
from tbr_lightning.tuning.folder import Spec, TrialFolder, TrialResult, trials_root
from tbr_lightning.tuning.outcome import constraints_of, kept, values_of
from tbr_lightning.tuning.scheduling import Budget, Claim, Next
from tbr_lightning.tuning.storage import Opened
from tbr_lightning.tuning.study import Study
from tbr_lightning.tuning.trial import TrialContext

_TICK = 0.05  # seconds between two checks of the trials
_MEMORY_EVERY = 1.0
_RENEW = 2.0  # seconds between two renewals of leases
_OTHERS_EVERY = 2.0  # seconds between two checks of what other runners do
_MOST_OUTAGES = 10  # of a trial; what is told as an outage may be a fault that stays
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class Limits:
    """The limits of one run of the runner."""

    budget: Budget  # budget of the study, over all its runs and runners
    workers: int = 1  # trials at the same time here
    timeout: float | None = None  # seconds that a trial may take
    memory: float | None = None  # GiB that a trial's processes may hold together
    max_failures: int = 5  # failed trials in a row that end the study
    retries: int = 1  # how often a trial whose process died is run again
    grace: float = 60.0  # seconds without a heartbeat after which others take a trial over


@dataclass(frozen=True)
class Hooks:
    """The callbacks and the executor of a run of the runner."""

    # Writes the spec of a trial, and more that its entry reads, into its folder.
    prepare: Callable[[Claim, int], Spec]
    # Called for each trial whose process has ended: number, MLflow's status, reason.
    ended: Callable[[int, str, str], None] = lambda number, status, reason: None
    # Called when the storage knows of another finished trial.
    told: Callable[[int], None] = lambda number: None
    # Called often, with the trials under way.
    tick: Callable[[Mapping[int, float], bool], None] = lambda running, changed: None
    said: Callable[[str], None] = print  # takes a line for people
    executor: Executor = field(default_factory=local_executor.LocalExecutor)  # starts the trials


@dataclass
class _Running:
    claim: Claim
    slot: int
    folder: TrialFolder
    worker: Worker
    spec: Spec
    killed: str = ""  # reason why this runner killed it
    answered: int = 0
    memory_next: float = 0.0
    outages: int = 0  # how often the tracker's absence ended it


class HopelessError(UserError):
    """Too many trials failed in a row."""


def run(study: Study, opened: Opened, limits: Limits, around: TrialContext, hooks: Hooks) -> None:
    """Run trials until the budget is spent, by this runner and all others.

    Args:
        study: Study as its file describes it.
        opened: The study in its storage.
        limits: Limits of this run.
        around: Context that every trial gets.
        hooks: Callbacks and executor.

    Raises:
        HopelessError: ``max_failures`` trials failed in a row.
        UserError: The storage does not answer any more.
        KeyboardInterrupt: The process was asked to stop; the trials under way are given back.
    """
    runner = _Runner(study, opened, limits, around, hooks)
    # Apart from each other and from the runner: storage and tracker may let one wait.
    threads = [threading.Thread(target=one, daemon=True) for one in (runner.beat, runner.renew)]
    for thread in threads:
        thread.start()
    try:
        runner.run()
    except (SQLAlchemyError, StorageInternalError) as error:
        raise OutageError(
            f"the storage does not answer any more ({first_line(error.__cause__ or error)}): once "
            "it does, run the same command again, which goes on from here"
        ) from error
    finally:
        runner.close()
        hooks.executor.close()
        for thread in threads:
            thread.join()


class _Runner:
    def __init__(
        self, study: Study, opened: Opened, limits: Limits, around: TrialContext, hooks: Hooks
    ) -> None:
        self.study, self.opened, self.limits = study, opened, limits
        self.around, self.hooks = around, hooks
        self.root = trials_root(around.paths, study.key)
        self.me = identity_of()
        self.running: dict[int, _Running] = {}
        self.failures = 0
        self._done = threading.Event()

    def run(self) -> None:
        ask_next = 0.0
        while True:
            changed = self._look()
            if changed:
                ask_next = 0.0
            if len(self.running) < self.limits.workers and time.monotonic() >= ask_next:
                got = scheduling.claim(
                    self.opened, self.study, self.limits.budget, self.me, list(self.running)
                )
                if isinstance(got, Claim):
                    self._take(got)
                    continue
                if got is Next.DONE and not self.running:
                    return
                ask_next = time.monotonic() + _OTHERS_EVERY
            now = time.monotonic()
            self.hooks.tick({n: now - r.worker.begun for n, r in self.running.items()}, changed)
            time.sleep(_TICK)

    def beat(self) -> None:
        """Send the heartbeat of every trial under way."""
        interval = self.limits.grace / 6
        while not self._done.wait(interval):
            for one in list(self.running.values()):
                try:
                    self.opened.backend.record_heartbeat(one.claim.trial_id)
                except Exception as error:  # a storage that is away for a moment ends nothing
                    told = f"the storage does not take a heartbeat ({first_line(error)})"
                    print(told, file=sys.stderr)
        self.opened.backend.remove_session()

    def renew(self) -> None:
        """Show the trials under way elsewhere that this runner is alive."""
        while not self._done.wait(min(self.limits.grace / 6, _RENEW)):
            for one in list(self.running.values()):
                one.worker.renew()

    def close(self) -> None:
        """Release the trials under way."""
        left = list(self.running.values())
        local_executor.stop_all([one.worker for one in left])
        for one in left:
            result = one.folder.result()
            if result is not None and result.state in ("complete", "pruned"):
                with suppress(Exception):
                    self._end(one)
                continue
            with suppress(Exception):  # the storage may be why we end
                scheduling.release(self.opened, one.claim)
            self.hooks.ended(one.claim.number, "KILLED", "the sweep was stopped; it goes on later")
        self.running.clear()
        self._done.set()

    def _take(self, claim: Claim) -> None:
        slot = min(set(range(self.limits.workers)) - {one.slot for one in self.running.values()})
        folder = TrialFolder(self.root / str(claim.number))
        if claim.again:
            found = folder.result()
            if found is not None and found.state == "complete":
                # Its process finished, and the runner died before it had recorded that.
                self._tell(claim, found)
                return
            self.hooks.ended(claim.number, "KILLED", "its runner died; it is run again")
            self.hooks.said(f"trial {claim.number} resumes: its runner died")
        try:
            spec = self.hooks.prepare(claim, slot)
        except UserError as error:
            self._tell(claim, TrialResult("failed", str(error)))
            return
        self._start(claim, slot, folder, spec)

    def _start(self, claim: Claim, slot: int, folder: TrialFolder, spec: Spec) -> None:
        folder.begin(spec)
        PruningChannel(folder.path).clear()
        worker = self.hooks.executor.start(folder.path, self.around, spec)
        self.running[claim.number] = _Running(claim, slot, folder, worker, spec)

    def _look(self) -> bool:
        """Check the trials under way; return whether one has ended."""
        ended = False
        for one in list(self.running.values()):
            if one.worker.exit_code() is None:
                self._guard(one)
                self._answer(one)
                continue
            one.worker.kill()  # ranks that outlived it
            ended = True
            self._end(one)
        return ended

    def _guard(self, one: _Running) -> None:
        """Kill a trial that takes too long or too much memory."""
        now, limits = time.monotonic(), self.limits
        if one.killed:
            return
        if limits.timeout is not None and now - one.worker.begun > limits.timeout:
            one.killed = f"it took longer than timeout={limits.timeout / 60:g} minutes"
        elif limits.memory is not None and now >= one.memory_next:
            one.memory_next = now + _MEMORY_EVERY
            held = one.worker.memory()
            if held > limits.memory:
                one.killed = (
                    f"its processes held {held:.2f} GiB, more than memory={limits.memory:g}"
                )
        if one.killed:
            one.worker.kill()

    def _answer(self, one: _Running) -> None:
        """Pass what a trial reports to the pruner, and its decision back."""
        if one.spec.metric is None and not one.spec.blocks:
            return
        channel = PruningChannel(one.folder.path)
        for number, values in channel.reports(one.answered):
            for step, value in values.items():
                told = value * self.study.reported_sign
                self.opened.backend.set_trial_intermediate_value(one.claim.trial_id, step, told)
            trial = self.opened.backend.get_trial(one.claim.trial_id)
            stop = self.opened.study.pruner.prune(self.opened.study, trial)
            channel.answer(number, stop=stop)
            one.answered = number + 1

    def _end(self, one: _Running) -> None:
        """Record in the storage how a trial ended; rerun it if its process just died."""
        claim, result = one.claim, one.folder.result()
        code = one.worker.exit_code()
        if one.killed:
            result = TrialResult("failed", one.killed)
        elif result is None and code is not None:
            reason = one.worker.lost or local_executor.death(code, one.folder)
            if claim.deaths < self.limits.retries:
                self._again(one, reason)
                return
            result = TrialResult("failed", reason)
        elif result is not None and result.state == "outage":
            if one.outages < _MOST_OUTAGES:
                self._again(one, result.reason, outages=one.outages + 1)
                return
            result = replace(result, state="failed")
        elif result is not None and result.state == "interrupted":
            if claim.deaths < self.limits.retries:
                self._again(one, "it was stopped from outside")
                return
            result = TrialResult("failed", "it was stopped from outside")
        self.running.pop(claim.number, None)
        assert result is not None
        if not result.seconds:
            result = replace(result, seconds=time.monotonic() - one.worker.begun)
        self._tell(claim, result)

    def _again(self, one: _Running, reason: str, *, outages: int = 0) -> None:
        """Run a trial again whose process died, or that the tracker's absence ended."""
        scheduling.charge(self.opened, one.claim)
        deaths = one.claim.deaths + (0 if outages else 1)
        claim = replace(one.claim, deaths=deaths, again=True)
        self.opened.backend.set_trial_user_attr(claim.trial_id, scheduling.DEATHS, claim.deaths)
        self.hooks.ended(claim.number, "FAILED", reason)
        self.hooks.said(f"trial {claim.number} is run again: {reason}")
        self._start(claim, one.slot, one.folder, replace(one.spec, again=True))
        self.running[claim.number].outages = outages

    def _tell(self, claim: Claim, result: TrialResult) -> None:
        number, values = claim.number, None
        if result.state == "complete":
            try:
                values = values_of(self.study, result)
                excess = constraints_of(self.study, result)
            except UserError as error:
                result, excess = replace(result, state="failed", reason=str(error)), []
        else:
            excess = []
        self.hooks.ended(number, _STATUS[result.state], result.reason)
        with self.opened.locked():
            if not scheduling.owned(self.opened, number, self.me):
                self.hooks.said(
                    f"trial {number} sent no heartbeat for {self.limits.grace:g} s and another "
                    "runner took it over: this result is left out"
                )
                return
            for key, value in kept(self.study, result, excess).items():
                self.opened.backend.set_trial_user_attr(claim.trial_id, key, value)
            state = {"complete": None, "pruned": TrialState.PRUNED}.get(
                result.state, TrialState.FAIL
            )
            trial = optuna.trial.Trial(self.opened.study, claim.trial_id)
            for index, over in enumerate(excess):
                trial.set_constraint(str(index), over)
            self.opened.study.tell(number, values, state=state)
        failed = state is TrialState.FAIL
        self.failures = self.failures + 1 if failed else 0
        if failed:
            self.hooks.said(f"trial {number} failed: {result.reason}")
        self.hooks.told(number)
        if self.failures >= self.limits.max_failures:
            raise HopelessError(
                f"{self.failures} trials in a row failed, the last with '{result.reason}': fix "
                "that and run the same command again, or raise max_failures; their logs are in "
                f"{self.root}"
            )
