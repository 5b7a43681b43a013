"""Ours against TRL at its fastest setting: search, table and verdict of both benchmarks.

Not a benchmark by itself. A speed counts tokens that are no padding, over the seconds of the call
that trains. Its share of the machine counts the operations that the step needs: 6 for each trained
weight and token, 4 for a frozen one, attention, and the logits of supervised tokens.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fits import BATCH, asked
from machine import Machine, step_bytes
from trl_fits import settings

Found = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """What is to be reached, and whether it was; ``None`` if this machine cannot tell."""

    text: str
    met: bool | None


@dataclass(frozen=True)
class Contender:
    """A program at one setting: a task of `fits.py` or `trl_fits.py` and its options."""

    name: str
    task: str
    options: dict[str, Any]
    repeats: int | None = None


@dataclass
class Standing:
    """What came out for a contender, medians over the repetitions; ratios are ours over its own."""

    runs: list[Found] = field(default_factory=list)
    ratio: float = 1.0
    worked: float = 1.0
    share: float = 0.0

    def median(self, name: str) -> float:
        return float(statistics.median(run[name] for run in self.runs))


def rate(found: Found, clock: str = "seconds") -> float:
    return float(found["tokens"] / found[clock])


def head(machine: Machine, facts: Found, what: str) -> None:
    """Print the machine, and what is trained on what."""
    print(machine)
    trained = "" if facts["trained"] == facts["parameters"] else f", {facts['trained']:,} trained"
    print(f"{what}: {facts['parameters']:,} parameters{trained}")
    print(f"{facts['rows']} {facts['origin']}, {facts['tokens']:,} tokens", flush=True)


def best_of_trl(
    folder: Path, facts: Found, machine: Machine, *, kind: str, steps: int, rounds: int
) -> Contender:
    """Return TRL at the setting at which a few steps are fastest; print them all."""
    tried = settings(facts, units=machine.units, pairs=kind == "trl_dpo")
    print(f"  trying {len(tried)} settings of TRL", file=sys.stderr, flush=True)
    found = asked("trl_search", folder, kind=kind, steps=steps, rounds=rounds, settings=tried)
    if not machine.units:
        print("TRL, over a few steps (bfloat16 not tried: no units for it):")
    else:
        print("TRL, over a few steps:")
    speeds = {name: speed for name, speed in found.items() if not isinstance(speed, str)}
    for name, speed in sorted(speeds.items(), key=lambda pair: -pair[1]):
        print(f"  {name}: {speed:.0f} tokens/s")
    for name in found.keys() - speeds.keys():
        print(f"  {name}: does not work here: {found[name]}")
    if not speeds:
        raise SystemExit("TRL trains at none of its settings here")
    best = max(speeds, key=speeds.__getitem__)
    return Contender(f"TRL: {best}", kind, {"options": tried[best]})


def run(
    folder: Path, facts: Found, machine: Machine, contenders: list[Contender], repeats: int
) -> dict[str, Standing]:
    """Measure all in turn, ours first; print speeds, floors and memory."""
    found = {one.name: Standing() for one in contenders}
    for turn in range(repeats):
        for one in contenders:
            if turn < (one.repeats or repeats):
                said = f"  measuring {one.name}, {turn + 1} of {one.repeats or repeats}"
                print(said, file=sys.stderr, flush=True)
                found[one.name].runs.append(asked(one.task, folder, **one.options))
    mine = found[contenders[0].name].runs
    print(
        f"\n{'':44}{'':>9}{'tokens':>8}{'of matrix':>10}{'ours':>8}{'by CPU':>8}{'seconds':>9}"
        f"{'least by':>10}{'least by':>9}{'peak':>7}"
    )
    print(
        f"{'':44}{'type':>9}{'/s':>8}{'rate':>10}{'is':>8}{'seconds':>8}{'a step':>9}"
        f"{'operations':>11}{'bytes':>8}{'MiB':>7}"
    )
    for name, standing in found.items():
        runs, dtype = standing.runs, standing.runs[0]["dtype"]
        pairs = list(zip(mine, runs, strict=False))
        standing.ratio = statistics.median(rate(a) / rate(b) for a, b in pairs)
        standing.worked = statistics.median(
            rate(a, "cpu_seconds") / rate(b, "cpu_seconds") for a, b in pairs
        )
        speed = statistics.median(rate(one) for one in runs)
        standing.share = machine.share(speed * facts["flops_per_token"], dtype)
        steps = standing.median("steps")
        operations, moved = machine.floors(
            standing.median("tokens") / steps * facts["flops_per_token"],
            step_bytes(facts["parameters"], facts["trained"], dtype),
            dtype,
        )
        print(
            f"{name:44}{dtype:>9}{speed:8.0f}{standing.share:10.1%}{standing.ratio:7.2f}x"
            f"{standing.worked:7.2f}x{standing.median('seconds') / steps:9.3f}"
            f"{operations:11.3f}{moved:8.3f}{standing.median('peak_mib'):7.0f}",
            flush=True,
        )
    return found


def verdict(goals: list[Goal]) -> int:
    """Print what was met and missed, and return the exit code."""
    print()
    for goal in goals:
        word = {True: "met", False: "MISSED", None: "not judged"}[goal.met]
        print(f"{word:11}{goal.text}")
    return int(any(goal.met is False for goal in goals))


def steps_of(rows: int) -> int:
    """Return the steps of one pass over the rows."""
    return -(-rows // BATCH)
