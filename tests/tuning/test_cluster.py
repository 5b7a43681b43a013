"""Who runs when on a simulated cluster, where the answer is known."""

from __future__ import annotations

import random

import pytest

from tbr_lightning.errors import UserError
from tbr_lightning.training.estimate import RunEstimate
from tbr_lightning.tuning import dry_run
from tbr_lightning.tuning.cluster import Job, Nodes, ideal_hours, nodes_of, simulate
from tbr_lightning.tuning.costs import ModelCost
from tbr_lightning.tuning.executor import devices_asked


def test_a_trial_that_does_not_fit_is_passed_over_by_one_that_does() -> None:
    # Two nodes of 4: 3 and 3 leave one device each, where 4 waits and 1 and 1 do not.
    jobs = [Job(3, 2), Job(3, 1), Job(4, 1), Job(1, 1), Job(1, 2)]
    found = simulate(jobs, Nodes(2, 4), workers=5)
    # The fourth takes the first of two equally full nodes, the fifth the other; at hour 1 both
    # three-device trials' nodes still hold one, so the large one begins at hour 2.
    assert found.starts == [0, 0, 2, 0, 0]
    assert found.nodes == [0, 1, 0, 0, 1]
    assert found.hours == 3
    assert found.ideal == pytest.approx(16 / 8)
    assert found.efficiency == pytest.approx(2 / 3)


def test_no_more_than_the_workers_are_handed_over() -> None:
    jobs = [Job(1, 1)] * 6
    assert simulate(jobs, Nodes(1, 8), workers=2).hours == 3
    assert simulate(jobs, Nodes(1, 8), workers=6).hours == 1
    # One that waits counts among them: the small one behind it is not handed over yet.
    blocked = [Job(1, 1), Job(8, 1), Job(1, 1)]
    assert simulate(blocked, Nodes(1, 8), workers=2).starts == [0, 1, 2]
    assert simulate(blocked, Nodes(1, 8), workers=3).starts == [0, 1, 0]


def test_the_fullest_node_with_room_is_taken_so_that_large_trials_find_a_whole_one() -> None:
    jobs = [Job(2, 1), Job(1, 1), Job(1, 1), Job(4, 1)]
    found = simulate(jobs, Nodes(2, 4), workers=4)
    assert found.nodes == [0, 0, 0, 1]
    assert found.hours == 1
    assert found.efficiency == 1


def test_nothing_beats_the_ideal_and_nothing_is_run_twice() -> None:
    draws = random.Random(3)
    nodes = Nodes(8, 8)
    jobs = [Job(draws.choice([1, 2, 4, 8]), draws.uniform(0.1, 3)) for _ in range(300)]
    found = simulate(jobs, nodes, workers=64)
    assert found.hours >= found.ideal == ideal_hours(jobs, nodes)
    moments = sorted(found.starts)
    for moment in moments:
        held = [0] * nodes.count
        for job, start, node in zip(jobs, found.starts, found.nodes, strict=True):
            held[node] += job.devices * (start <= moment < start + job.hours)
        assert max(held) <= nodes.devices


def test_one_long_trial_is_the_ideal() -> None:
    assert ideal_hours([Job(1, 5), Job(1, 1)], Nodes(1, 8)) == 5


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(UserError, match="asks for 8 devices and a node has 4"):
        simulate([Job(8, 1)], Nodes(2, 4), workers=1)
    for wrong in ("8", "0x8", "8 x 8"):
        with pytest.raises(UserError, match=r"sweep\.cluster="):
            nodes_of(wrong)


@pytest.mark.parametrize(
    ("gpus", "ranks", "asked"), [(None, 8, 0), (1, 1, 1), (0.5, 1, 0.5), (1, 8, 8), (8, 4, 8)]
)
def test_several_ranks_ask_for_a_device_each(gpus: float | None, ranks: int, asked: float) -> None:
    assert devices_asked(gpus, ranks) == asked


@pytest.mark.parametrize("trials", [1, 2, 5, 7, 14, 135])
def test_every_trial_of_a_study_is_in_the_schedule(
    monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    """However few there are to a model: of two trials for five models none is rounded away."""
    run = RunEstimate(10**9, 0, 1e9, 0, 0, 0, 1e18, None)
    costs = [ModelCost(f"m{n}", run, 1, trials / 5, gated=False) for n in range(5)]
    seen: list[int] = []
    monkeypatch.setattr(
        dry_run,
        "simulate",
        lambda jobs, *words: (seen.append(len(jobs)), simulate(jobs, *words))[1],
    )
    told = dry_run.ends(costs, Nodes(1, 1), workers=1, seeds=1)
    assert set(seen) == {trials}
    assert " 0.0 hours" not in told[0]
    seeds = [ModelCost(f"m{n}", run, 1, 3 * trials / 5, gated=False) for n in range(5)]
    dry_run.ends(seeds, Nodes(1, 1), workers=1, seeds=3)
    assert set(seen) == {trials}
