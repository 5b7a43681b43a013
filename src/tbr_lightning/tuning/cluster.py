"""How long a study takes on a cluster that is not at hand, by simulation of who runs when.

The rule is the sweep's: trials are handed over in order, ``sweep.workers`` at a time, and each asks
for the devices of :func:`tbr_lightning.tuning.executor.devices_asked`. What the scheduler does with
them is a model of one: a trial stays within a node, those that wait are tried in order, one that
does not fit is passed over by one that does, and of the nodes with room the fullest is taken.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tbr_lightning.errors import UserError


@dataclass(frozen=True)
class Job:
    """A trial.

    Attributes:
        devices: Number of devices that it holds.
        hours: Hours for which it holds them.
    """

    devices: int
    hours: float


@dataclass(frozen=True)
class Nodes:
    """A cluster of equal nodes.

    Attributes:
        count: Number of nodes.
        devices: Devices of each node.
    """

    count: int
    devices: int

    @property
    def total(self) -> int:
        """Devices of all nodes."""
        return self.count * self.devices


@dataclass(frozen=True)
class Schedule:
    """What a simulation finds.

    Attributes:
        hours: Hours from the first start to the last end.
        ideal: Hours that no schedule beats: all work spread evenly, or the longest trial.
        starts: When each trial begins, in hours, in the order of the trials.
        nodes: Node of each job.
    """

    hours: float
    ideal: float
    starts: list[float]
    nodes: list[int]

    @property
    def efficiency(self) -> float:
        """The ideal as a share of what it takes."""
        return self.ideal / self.hours if self.hours else 1.0


def nodes_of(text: str) -> Nodes:
    """Return the cluster that a text such as ``8x8`` names, nodes first.

    Raises:
        UserError: It names none.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise UserError(
            f"sweep.cluster='{text}' names no cluster: give nodes and devices of each, as 8x8"
        )
    return Nodes(int(found[1]), int(found[2]))


def ideal_hours(jobs: Iterable[Job], nodes: Nodes) -> float:
    """Return a bound that no schedule beats: the larger of mean load and longest trial."""
    made = list(jobs)
    work = sum(job.devices * job.hours for job in made)
    return max(work / nodes.total, max((job.hours for job in made), default=0.0))


def simulate(jobs: Sequence[Job], nodes: Nodes, workers: int) -> Schedule:
    """Return when each trial runs.

    Args:
        jobs: Jobs in the order in which they are submitted.
        nodes: Nodes that are free at the beginning.
        workers: Trials that are handed over at a time, waiting ones among them.

    Raises:
        UserError: A trial asks for more devices than a node has.
    """
    most = max((job.devices for job in jobs), default=0)
    if most > nodes.devices:
        raise UserError(
            f"a trial asks for {most} devices and a node has {nodes.devices}: give a cluster of "
            f"larger nodes, as 8x{most}"
        )
    free = [nodes.devices] * nodes.count
    starts, places = [0.0] * len(jobs), [0] * len(jobs)
    waiting: list[int] = []
    running: list[tuple[float, int]] = []
    now, handed = 0.0, 0
    while handed < len(jobs) or waiting or running:
        while handed < len(jobs) and len(waiting) + len(running) < workers:
            waiting.append(handed)
            handed += 1
        left = []
        for number in waiting:
            job = jobs[number]
            room = [node for node in range(nodes.count) if free[node] >= job.devices]
            if not room:
                left.append(number)
                continue
            node = min(room, key=lambda one: (free[one], one))
            free[node] -= job.devices
            starts[number], places[number] = now, node
            heapq.heappush(running, (now + job.hours, number))
        waiting = left
        now, ended = heapq.heappop(running)
        free[places[ended]] += jobs[ended].devices
        while running and running[0][0] == now:
            _, ended = heapq.heappop(running)
            free[places[ended]] += jobs[ended].devices
    return Schedule(now, ideal_hours(jobs, nodes), starts, places)
