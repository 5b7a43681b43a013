"""A trial whose process is started elsewhere: who holds it, and what runs it there."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tbr_lightning.data.cache import write_whole
from tbr_lightning.processes import identity_of
from tbr_lightning.tuning import local_executor
from tbr_lightning.tuning.trial import TrialContext

_LOOK = 0.1  # seconds between two checks of a trial's process and of its lease
_STOP = "stop"


class Lease:
    """A file in a trial's folder that shows its process elsewhere that its runner is alive.

    A runner that takes the trial over writes another name into it, which ends the former process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, uuid.uuid4().hex
        self._started: float | None = None
        write_whole(folder / "lease", self.name)

    def renew(self) -> None:
        """Record that the runner is alive."""
        with suppress(OSError):
            os.utime(self.folder / "lease")

    def stop(self) -> None:
        """Ask the process to end in order."""
        write_whole(self.folder / "lease", _STOP)

    @property
    def started(self) -> bool:
        """Whether the process is or was running."""
        return _read(self.folder / "started") == self.name

    @property
    def begun(self) -> float:
        """Time when the process was first seen to be started; the current time before that."""
        if self._started is None:
            if not self.started:
                return time.monotonic()
            self._started = time.monotonic()
        return self._started


class LeasedWorker:
    """A trial that a scheduler runs, see :class:`tbr_lightning.tuning.executor.Worker`.

    Args:
        lease: The runner's lease on it.
        ended: Returns its exit code and, where its own process did not give that, the reason;
            ``None`` while it runs or waits for its turn.
        cancel: Takes it back from the scheduler: with ``waiting=True`` only while it waits for its
            turn, since it would be cut off before its checkpoint.
    """

    def __init__(
        self, lease: Lease, ended: Callable[[], tuple[int, str] | None], cancel: Callable[..., None]
    ) -> None:
        self._lease, self._ended, self._cancel = lease, ended, cancel
        self._code: int | None = None
        self.lost = ""

    @property
    def begun(self) -> float:
        """Start time; the current time, while it waits for its turn."""
        return self._lease.begun

    def exit_code(self) -> int | None:
        """Return its exit code."""
        if self._code is None and (found := self._ended()) is not None:
            self._code, self.lost = found
        return self._code

    def renew(self) -> None:
        """Renew its lease."""
        self._lease.renew()

    def memory(self) -> float:
        """Return 0: the scheduler limits memory."""
        return 0.0

    def ask_to_stop(self) -> None:
        """Ask it to end in order; one that waits for its turn is cancelled."""
        self._lease.stop()
        self._cancel(waiting=True)

    def kill(self) -> None:
        """End it; its process dies with what the scheduler started."""
        if self._code is None:
            self._lease.stop()
            self._cancel(waiting=False)


def run_trial(
    folder: str,
    around: str,
    lease: str,
    *,
    cwd: str,
    environment: Mapping[str, str],
    threads: int | None,
    grace: float,
) -> int:
    """Start a trial's process where a scheduler has put this one, and wait for its end.

    Args:
        folder: Folder of the trial, on a file system that the runner shares.
        around: A :class:`TrialContext` as JSON.
        lease: Name of the runner's lease.
        cwd: The runner's working folder, to which relative paths of its config refer.
        environment: The runner's environment; what this process has of its own, such as the devices
            that the scheduler gave it, stays.
        threads: Threads of the trial on a CPU.
        grace: Seconds without a renewal of the lease after which the trial is ended.

    Returns:
        Exit code of the trial's process; negative: the signal.
    """
    me, path = identity_of(), Path(folder)
    worker = local_executor.spawn(
        path,
        replace(TrialContext.from_json(around), runner=me.pid, runner_started=me.started),
        threads,
        cwd=cwd,
        environment={**environment, **os.environ},
    )
    write_whole(path / "started", lease)
    seen, since = 0.0, time.monotonic()
    try:
        while (code := worker.exit_code()) is None:
            time.sleep(_LOOK)
            held = _read(path / "lease")
            if held == _STOP:
                local_executor.stop_all([worker])
            elif held not in (lease, None):
                worker.kill()  # another runner has the trial
            with suppress(OSError):
                changed = (path / "lease").stat().st_mtime
                if changed != seen:
                    seen, since = changed, time.monotonic()
            if time.monotonic() - since > grace:
                local_executor.stop_all([worker])
        return code
    finally:
        worker.kill()


def environment_of_runner() -> dict[str, str]:
    """Return the environment to fill up that of trials elsewhere; no devices of this machine."""
    return {k: v for k, v in os.environ.items() if not k.endswith("_VISIBLE_DEVICES")}


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
