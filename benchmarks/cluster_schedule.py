"""1,000 trials on 64 GPUs that are simulated: when the last one ends, against the ideal.

    python benchmarks/cluster_schedule.py [--trials 1000] [--cluster 8x8] [--seed 0]

Trials need 1, 2, 4 or 8 GPUs and take hours that are drawn (log-normal, median 1 hour, longer with
more GPUs). They are handed over by the sweep's rule, so many at a time, to a scheduler that keeps a
trial within a node (tbr_lightning.tuning.cluster). The ideal is the larger of all GPU-hours spread
evenly and the longest trial: no schedule beats it, and none need reach it.
"""

from __future__ import annotations

import argparse
import random

from tbr_lightning.tuning.cluster import Job, Nodes, nodes_of, simulate
from tbr_lightning.tuning.executor import devices_asked

MIXES = {
    "1 GPU each": {1: 1.0},
    "1, 2, 4 or 8 GPUs": {1: 0.5, 2: 0.25, 4: 0.15, 8: 0.1},
    "the large ones last": {1: 0.5, 2: 0.25, 4: 0.15, 8: 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--cluster", type=nodes_of, default=Nodes(8, 8))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{given.trials} trials on {given.cluster.count} nodes of {given.cluster.devices} GPUs")
    for name, mix in MIXES.items():
        jobs = drawn(mix, given.trials, given.seed)
        if name.endswith("last"):
            jobs.sort(key=lambda job: job.devices)
        for workers in (16, 64, 128, given.trials):
            found = simulate(jobs, given.cluster, workers)
            print(
                f"{name}, sweep.workers={workers}: {found.hours:.1f} h, ideal {found.ideal:.1f} h "
                f"({100 * found.efficiency:.1f}%)"
            )


def drawn(mix: dict[int, float], trials: int, seed: int) -> list[Job]:
    """Draw trials: ranks by the mix, hours log-normal."""
    draws = random.Random(seed)
    ranks = draws.choices(list(mix), list(mix.values()), k=trials)
    return [
        Job(int(devices_asked(1, one)), draws.lognormvariate(0, 0.5) * (1 + 0.25 * (one > 1)))
        for one in ranks
    ]


if __name__ == "__main__":
    main()
