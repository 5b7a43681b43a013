"""The search space: which override takes which values, and under which condition."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tbr_lightning.config.texts import quoted
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = str | int | float | bool | None
Point = dict[str, Value]
"""A value for each parameter that is active."""

_MOST_CELLS = 100_000


@dataclass(frozen=True)
class Parameter:
    """One override and the values it may take: choices, or a range with both ends in it.

    Attributes:
        key: Of the override; a config group or a key of the config.
        choices: Values, for a choice.
        low: Of a range.
        high: Of a range.
        step: Of a range; ``None`` for any value between.
        log: Orders of magnitude count alike.
        whole: The range is one of whole numbers.
        when: Active only while each of these parameters has one of these values.
    """

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    whole: bool = False
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def active(self, point: Mapping[str, Value]) -> bool:
        """Return whether it takes a value beside those of a point."""
        return all(key in point and point[key] in values for key, values in self.when.items())

    def distribution(self) -> BaseDistribution:
        """Return Optuna's form of it."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        if self.whole:
            return distributions.IntDistribution(
                int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return distributions.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def values(self) -> tuple[Value, ...] | None:
        """Return all values it may take, or ``None`` where they are without number."""
        if self.choices:
            return self.choices
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        found = [self.low + index * step for index in range(min(count, _MOST_CELLS + 1))]
        return tuple(int(v) if self.whole else round(v, 12) for v in found)

    def ends(self) -> tuple[Value, ...]:
        """Return every choice, or both ends."""
        if self.choices:
            return self.choices
        low, high = (int(v) if self.whole else v for v in (self.low, self.high))
        return (low, high) if low != high else (low,)


@dataclass(frozen=True)
class Space:
    """Parameters in the order of the file; one comes after those that it depends on."""

    parameters: tuple[Parameter, ...]

    @property
    def conditional(self) -> bool:
        """Whether some parameter is active in a part of the space only."""
        return any(parameter.when for parameter in self.parameters)

    def distributions(self, point: Mapping[str, Value]) -> dict[str, BaseDistribution]:
        """Return Optuna's form of the parameters that are active beside a point's values."""
        active = [one for one in self.parameters if one.active(point)]
        return {one.key: one.distribution() for one in active}

    def suggest(self, trial: Any) -> Point:
        """Draw a point through an Optuna trial, parameter by parameter."""
        point: Point = {}
        for one in self.parameters:
            if one.active(point):
                point[one.key] = _suggest(trial, one)
        return point

    def cells(self) -> list[Point]:
        """Return the grid: all combinations, the last parameter's values next to each other.

        Raises:
            UserError: A parameter has values without number, or there are too many combinations.
        """
        points: list[Point] = [{}]
        for one in self.parameters:
            values = one.values()
            if values is None:
                raise UserError(
                    f"space.{one.key}: sampler=grid needs its values: give {{choices: […]}} or a "
                    "step"
                )
            points = list(
                itertools.chain.from_iterable(
                    ({**point, one.key: value} for value in values)
                    if one.active(point)
                    else (point,)
                    for point in points
                )
            )
            if len(points) > _MOST_CELLS:
                raise UserError(
                    f"the grid of this space has more than {_MOST_CELLS} points: use "
                    "sampler=random or fewer values"
                )
        return points

    def corners(self, most: int) -> list[Point]:
        """Return every combination of choices and ends, if there are at most so many.

        Else as many points as it takes for every choice and every end to stand in one of them,
        with what it depends on.
        """
        whole = list(itertools.islice(self._combinations(), most + 1))
        return whole if len(whole) <= most else self.cover()

    def _combinations(self) -> Iterator[Point]:
        def grow(point: Point, rest: Sequence[Parameter]) -> Iterator[Point]:
            if not rest:
                yield point
                return
            first, *others = rest
            if not first.active(point):
                yield from grow(point, others)
                return
            for value in first.ends():
                yield from grow({**point, first.key: value}, others)

        return grow({}, self.parameters)

    def cover(self) -> list[Point]:
        """Return few points in which every choice and every end stands at least once."""
        left = {one.key: list(one.ends()) for one in self.parameters}
        points: list[Point] = []
        while any(left.values()):
            point: Point = {}
            before = sum(map(len, left.values()))
            for one in self.parameters:
                if not one.active(point):
                    continue
                value = self._towards(one, left)
                point[one.key] = value
                if value in left[one.key]:
                    left[one.key].remove(value)
            points.append(point)
            if sum(map(len, left.values())) == before:
                break  # what is left is never active
        return points

    def _towards(self, one: Parameter, left: Mapping[str, list[Value]]) -> Value:
        """Return a value of a parameter that has not been seen, or that opens one that has not."""
        if left[one.key]:
            return left[one.key][0]
        for other in self.parameters:
            if one.key in other.when and self._pending(other, left):
                return other.when[one.key][0]
        return one.ends()[0]

    def _pending(self, one: Parameter, left: Mapping[str, list[Value]]) -> bool:
        below = (other for other in self.parameters if one.key in other.when)
        return bool(left[one.key]) or any(self._pending(other, left) for other in below)


def _suggest(trial: Any, one: Parameter) -> Value:
    if one.choices:
        drawn: Value = trial.suggest_categorical(one.key, one.choices)
        return drawn
    if one.whole:
        low, high, step = int(one.low), int(one.high), int(one.step or 1)
        return int(trial.suggest_int(one.key, low, high, step=step, log=one.log))
    return float(trial.suggest_float(one.key, one.low, one.high, step=one.step, log=one.log))


def overrides_of(point: Mapping[str, Value]) -> list[str]:
    """Return a point as overrides of Hydra's grammar."""
    return [f"{key}={written(value)}" for key, value in point.items()]


def written(value: Value) -> str:
    """Return a value as Hydra's grammar reads it back."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and set(value) & set(" =,:'\"(){}[]#$\\") and value[:1] not in "[{":
        return quoted(value)
    return str(value)
