"""The search space: which override takes which values, and under which condition.

A space maps the key of each override to its :class:`Parameter`, in the order of the file; a
parameter comes after those that it depends on.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna import Trial, distributions
from optuna.distributions import BaseDistribution

from tbr_lightning.config.quoting import is_text, quoted
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError, near

Value = str | int | float | bool | None
Point = dict[str, Value]
"""A value for each parameter that is active."""

_MOST_CELLS = 100_000


@dataclass
class Parameter:
    """The values that one override may take: choices, or a range with both ends in it."""

    choices: list[Any] = field(default_factory=list)
    low: Any = None  # a range is one of integers where low, high and step are integers
    high: Any = None
    step: Any = None  # null: any value between
    log: bool = False  # logarithmic scale
    when: dict[str, Any] = field(default_factory=dict)  # active while each key has this value

    @property
    def whole(self) -> bool:
        """Whether it is a range of integers."""
        ends = [one for one in (self.low, self.high, self.step) if one is not None]
        return not self.choices and all(isinstance(one, int) for one in ends)

    def active(self, point: Mapping[str, Value]) -> bool:
        """Return whether it is active at a point."""
        return all(key in point and point[key] in values for key, values in self.when.items())

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution for it."""
        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        if self.whole:
            step = 1 if self.step is None else self.step
            return distributions.IntDistribution(self.low, self.high, log=self.log, step=step)
        return distributions.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def values(self) -> list[Value] | None:
        """Return all values it may take, or ``None`` where they are unbounded."""
        if self.choices:
            return self.choices
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        found = [self.low + index * step for index in range(min(count, _MOST_CELLS + 1))]
        return [value if self.whole else round(value, 12) for value in found]

    def ends(self) -> list[Value]:
        """Return every choice, or both ends."""
        return self.choices or list(dict.fromkeys((self.low, self.high)))


Space = Mapping[str, Parameter]


def _choice(key: str, value: Any) -> Value:
    number = isinstance(value, str) and not is_text(TrainConfig, key)
    if number and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)  # YAML 1.1 reads 1e-4 as text
    # Hydra's grammar reads JSON's lists and mappings; Optuna keeps a choice as text.
    return json.dumps(value) if isinstance(value, list | dict) else value


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = float("" if isinstance(value, bool) else value)  # YAML 1.1 reads 1e-4 as text
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name}={value} is not a finite number")
    return number


def check_space(space: Space) -> None:
    """Check a space as it was read from a file, and bring its values into one form.

    Raises:
        UserError: A range contradicts itself, a choice is listed twice, or a condition names what
            a parameter cannot depend on.
    """
    before: dict[str, Parameter] = {}
    for key, one in space.items():
        where = f"space.{key}"
        given = [name for name in ("low", "high", "step") if getattr(one, name) is not None]
        if one.choices and given:
            raise UserError(f"{where}: choices and {given[0]} contradict each other: give one")
        if one.choices:
            one.choices = _check_choices(key, one.choices)
        else:
            _check_range(where, one, given)
        one.when = {
            other: _check_condition(f"{where}: when: {other}", other, values, before)
            for other, values in one.when.items()
        }
        before[key] = one


def _check_choices(key: str, found: Sequence[Any]) -> list[Value]:
    choices = [_choice(key, value) for value in found]
    for first, second in itertools.combinations(choices, 2):
        # Optuna takes true for 1; and a text that is written as a number is that number.
        if first == second or written(first) == written(second):
            forms = dict.fromkeys(map(json.dumps, (first, second)))
            raise UserError(f"space.{key}: {' and '.join(forms)} is one choice: list each once")
    return choices


def _check_range(where: str, one: Parameter, given: Sequence[str]) -> None:
    for name in ("low", "high"):
        if name not in given:
            raise UserError(f"{where}: {name} is missing: give {{low: …, high: …}} or choices")
    for name in given:
        setattr(one, name, _number(f"{where}.{name}", getattr(one, name)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that Optuna would change an end
        try:
            one.distribution()
        except ValueError as error:
            raise UserError(f"{where}: {str(error).replace('`', '').rstrip('.')}") from error
        except UserWarning as error:
            raise UserError(
                f"{where}: step={one.step:g} from low={one.low:g} never reaches high={one.high:g}: "
                "give another step or another end"
            ) from error


def _check_condition(
    where: str, other: str, found: Any, before: Mapping[str, Parameter]
) -> list[Value]:
    if other not in before:
        raise UserError(f"{where} is not a key of the space before it{near(other, before)}")
    choices = before[other].choices
    if not choices:
        raise UserError(f"{where} has a range: name one with choices")
    values = [_choice(other, value) for value in (found if isinstance(found, list) else [found])]
    for value in values:
        if value not in choices:
            raise UserError(f"{where} is never {value}{near(str(value), map(str, choices))}")
    return values


def active(space: Space, point: Mapping[str, Value]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the parameters that are active at a point."""
    return {key: one.distribution() for key, one in space.items() if one.active(point)}


def suggest(space: Space, trial: Trial) -> Point:
    """Draw a point through an Optuna trial, parameter by parameter."""
    point: Point = {}
    for key, one in space.items():
        if not one.active(point):
            continue
        if one.choices:
            point[key] = trial.suggest_categorical(key, one.choices)
        elif one.whole:
            step = 1 if one.step is None else one.step
            point[key] = trial.suggest_int(key, one.low, one.high, step=step, log=one.log)
        else:
            point[key] = trial.suggest_float(key, one.low, one.high, step=one.step, log=one.log)
    return point


def cells(space: Space) -> list[Point]:
    """Return the grid: all combinations, the last parameter's values next to each other.

    Raises:
        UserError: A parameter has unboundedly many values, or there are too many combinations.
    """
    points: list[Point] = [{}]
    for key, one in space.items():
        values = one.values()
        if values is None:
            raise UserError(
                f"space.{key}: sampler=grid needs its values: give {{choices: […]}} or a step"
            )
        grown = (
            [{**point, key: value} for value in values] if one.active(point) else [point]
            for point in points
        )
        points = list(itertools.chain.from_iterable(grown))
        if len(points) > _MOST_CELLS:
            raise UserError(
                f"the grid of this space has more than {_MOST_CELLS} points: use "
                "sampler=random or fewer values"
            )
    return points


def corners(space: Space, most: int) -> list[Point]:
    """Return every combination of choices and ends, if there are at most ``most``.

    Else as many points as it takes for every choice and every end to occur in one of them,
    with what it depends on.
    """

    def grow(point: Point, rest: Sequence[str]) -> Iterator[Point]:
        if not rest:
            yield point
            return
        first, *others = rest
        if not space[first].active(point):
            yield from grow(point, others)
            return
        for value in space[first].ends():
            yield from grow({**point, first: value}, others)

    whole = list(itertools.islice(grow({}, list(space)), most + 1))
    return whole if len(whole) <= most else cover(space)


def cover(space: Space) -> list[Point]:
    """Return few points in which every choice and every end occurs at least once."""
    left = {key: list(one.ends()) for key, one in space.items()}
    points: list[Point] = []
    while any(left.values()):
        point: Point = {}
        before = sum(map(len, left.values()))
        for key, one in space.items():
            if not one.active(point):
                continue
            point[key] = _towards(space, key, left)
            if point[key] in left[key]:
                left[key].remove(point[key])
        points.append(point)
        if sum(map(len, left.values())) == before:
            break  # what is left is never active
    return points


def _towards(space: Space, key: str, left: Mapping[str, list[Value]]) -> Value:
    """Return a value of a parameter that has not been seen, or that opens one that has not."""
    if left[key]:
        return left[key][0]
    for other, one in space.items():
        if key in one.when and _pending(space, other, left):
            opens: Value = one.when[key][0]
            return opens
    return space[key].ends()[0]


def _pending(space: Space, key: str, left: Mapping[str, list[Value]]) -> bool:
    below = (other for other, one in space.items() if key in one.when)
    return bool(left[key]) or any(_pending(space, other, left) for other in below)


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
