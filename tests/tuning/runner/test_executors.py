"""Studies whose trials a scheduler starts: on a cluster that loses a node, and as jobs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.config.sweep import SweepSettings
from tbr_lightning.errors import UserError
from tbr_lightning.processes import identity_of
from tbr_lightning.tuning import runner
from tbr_lightning.tuning.folder import Spec, TrialFolder
from tbr_lightning.tuning.lease import Lease, LeasedWorker, run_trial
from tbr_lightning.tuning.scheduling import Budget
from tbr_lightning.tuning.trial import TrialContext

from .conftest import times

Write = Callable[..., Path]
SETTINGS = SweepSettings(name="m", executor="ray", cpus=1, grace=30)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def states(opened: Any) -> list[TrialState]:
    return [trial.state for trial in opened.study.trials]


@pytest.fixture
def folder(cheap: Any, tmp_path: Path) -> TrialFolder:
    """The folder of one cheap trial."""
    made = TrialFolder(tmp_path / "trial")
    made.begin(spec("good"))
    return made


def spec(how: str) -> Spec:
    point = {"how": how, "x": 0.5}
    return Spec("cheap_trials:trial", "s", 0, point, [], [0], metric=None, again=False)


def around(tmp_path: Path) -> TrialContext:
    me = identity_of()
    paths = PathsConfig(cache="-", runs=str(tmp_path))
    return TrialContext(TrackingConfig(uri="-"), paths, me.pid, me.started)


def run(folder: TrialFolder, lease: Lease, tmp_path: Path, grace: float = 30) -> int:
    return run_trial(
        str(folder.path),
        around(tmp_path).as_json(),
        lease.name,
        cwd=str(tmp_path),
        environment=dict(os.environ),
        threads=1,
        grace=grace,
    )


@pytest.mark.slow
def test_a_process_elsewhere_ends_with_its_lease(folder: TrialFolder, tmp_path: Path) -> None:
    lease = Lease(folder.path)
    assert lease.begun == pytest.approx(time.monotonic(), abs=1)
    assert run(folder, lease, tmp_path) == 0
    result = folder.result()
    assert result is not None
    assert result.state == "complete"
    for end, state in (("stop", "interrupted"), ("taken", None), ("silent", "interrupted")):
        folder.begin(spec("slow"))
        (folder.path / "child").unlink(missing_ok=True)
        lease = Lease(folder.path)
        grace = 3.0 if end == "silent" else 30.0
        thread = threading.Thread(target=run, args=(folder, lease, tmp_path, grace))
        thread.start()
        until = time.monotonic() + 120
        while not (folder.path / "child").exists() and time.monotonic() < until:
            if end != "silent":
                lease.renew()
            time.sleep(0.1)
        if end == "stop":
            lease.stop()
        elif end == "taken":
            Lease(folder.path)
        thread.join(timeout=60)
        assert not thread.is_alive(), end
        result = folder.result()
        assert (result.state if result else None) == state, end


@pytest.mark.slow
def test_a_lease_is_renewed_while_the_runner_waits_for_others(
    folder: TrialFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker that lets the runner wait, or the shortest grace, ends no trial elsewhere."""
    lease = Lease(folder.path)

    class Elsewhere:
        begun = 0.0

        def renew(self) -> None:
            lease.renew()

    monkeypatch.setenv("CHEAP_SECONDS", "6")
    nothing: Any = None
    hooks = runner.Hooks(prepare=nothing)
    study: Any = SimpleNamespace(key="s")
    limits = runner.Limits(Budget(1), grace=2)
    watched = runner._Runner(study, nothing, limits, around(tmp_path), hooks)
    watched.running[0] = SimpleNamespace(worker=Elsewhere())  # type: ignore[assignment]
    leases = threading.Thread(target=watched.renew)
    leases.start()
    try:
        assert run(folder, lease, tmp_path, grace=2) == 0  # meanwhile nobody looks at the trial
    finally:
        watched._done.set()
        leases.join()
    result = folder.result()
    assert result is not None
    assert result.state == "complete"


def test_an_error_without_a_text_ends_no_heartbeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beats: list[int] = []
    nothing: Any = None

    def failing(trial_id: int) -> None:
        beats.append(trial_id)
        if len(beats) == 2:
            beating._done.set()
        raise TimeoutError

    backend = SimpleNamespace(record_heartbeat=failing, remove_session=lambda: None)
    opened: Any = SimpleNamespace(backend=backend)
    study: Any = SimpleNamespace(key="s")
    limits = runner.Limits(Budget(1), grace=0.06)
    hooks = runner.Hooks(prepare=nothing)
    beating = runner._Runner(study, opened, limits, around(tmp_path), hooks)
    beating.running[0] = SimpleNamespace(claim=SimpleNamespace(trial_id=7))  # type: ignore[assignment]
    beating.beat()
    assert beats == [7, 7]
    assert "does not take a heartbeat (TimeoutError)" in capsys.readouterr().err


def test_a_leased_trial_is_cancelled_and_told_how_it_ended(tmp_path: Path) -> None:
    ends: list[tuple[int, str] | None] = [None, (-9, "its node is gone")]
    cancelled: list[bool] = []

    def cancel(*, waiting: bool) -> None:
        cancelled.append(waiting)

    lease = Lease(tmp_path)
    worker = LeasedWorker(lease, lambda: ends.pop(0), cancel)
    assert (worker.exit_code(), worker.lost) == (None, "")
    worker.ask_to_stop()
    assert (tmp_path / "lease").read_text() == "stop"
    worker.kill()
    assert cancelled == [True, False]
    assert [worker.exit_code(), worker.exit_code()] == [-9, -9]
    assert worker.lost == "its node is gone"
    worker.kill()  # it has ended
    assert cancelled == [True, False]


@pytest.mark.slow
def test_submitit_jobs_end_with_exactly_the_budget(
    cheap: Any, write: Write, storage: str, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="pip install 'tbr-lightning[submitit]'")
    from tbr_lightning.tuning.submitit_executor import SubmititExecutor

    settings = replace(SETTINGS, executor="submitit", submitit={"cluster": "local"})
    executor = SubmititExecutor(settings, tmp_path / "jobs", None)
    file = write(how='good, "killed once"', trials=6)
    _, opened, _ = cheap.sweep(
        file, storage, tmp_path / "runs", workers=2, executor=executor, retries=1
    )
    assert states(opened) == [TrialState.COMPLETE] * 6
    ran = times(tmp_path / "runs")
    for trial in opened.study.trials:
        assert len(ran[trial.number]) == 1 + (trial.params["how"] == "killed once")
    with pytest.raises(UserError, match=r"sweep\.submitit=.*not_there"):
        SubmititExecutor(replace(SETTINGS, submitit={"cluster": "not_there"}), tmp_path, None)


@pytest.fixture
def cluster(cheap: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of a head without work and two nodes on this machine."""
    pytest.importorskip("ray", reason="pip install 'tbr-lightning[ray]'")
    monkeypatch.setenv("CHEAP_SECONDS", "1")
    import ray
    from ray.cluster_utils import Cluster

    memory = 100 * 2**20
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": memory}
    )
    made.extra = [made.add_node(num_cpus=1, object_store_memory=memory) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_a_ray_study_ends_with_exactly_its_budget_though_a_node_is_lost(
    cheap: Any, write: Write, storage: str, tmp_path: Path, cluster: Any
) -> None:
    from tbr_lightning.tuning.ray_executor import RayExecutor

    begun: list[int] = []

    def lose_a_node() -> None:
        until = time.monotonic() + 300
        while len(times(tmp_path / "runs")) < 4 and time.monotonic() < until:
            time.sleep(0.1)
        begun.append(len(times(tmp_path / "runs")))
        cluster.remove_node(cluster.extra[0], allow_graceful=False)

    losing = threading.Thread(target=lose_a_node)
    losing.start()
    _, opened, said = cheap.sweep(
        write(trials=24),
        storage,
        tmp_path / "runs",
        workers=3,  # one more than there is room for: Ray lets it wait
        executor=RayExecutor(SETTINGS),
        retries=2,
    )
    losing.join()
    assert states(opened) == [TrialState.COMPLETE] * 24
    assert {trial.number for trial in opened.study.trials} == set(range(24))
    assert 4 <= begun[0] < 24
    lost = [line for line in said if "is run again" in line]
    # Where the node had no trial at that moment there is nothing to run again.
    assert all("Ray lost it" in line for line in lost), said
    ran = times(tmp_path / "runs")
    assert set(ran) == set(range(24))
    assert sum(map(len, ran.values())) - 24 <= len(lost) <= 4, said
