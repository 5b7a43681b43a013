"""The mapping ``space`` of a study file, read and checked."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tbr_lightning.errors import UserError, near
from tbr_lightning.tuning.space import Parameter, Space, Value, written

_RANGE = ("low", "high", "step", "log")


def parse_space(where: str, found: Any) -> Space:
    """Read the mapping ``space`` of a study file.

    Raises:
        UserError: A range contradicts itself, or a condition names what it cannot depend on.
    """
    if not isinstance(found, dict) or not found:
        raise UserError(f"{where}: space must be a mapping of overrides: see sweeps/smoke.yaml")
    parameters: list[Parameter] = []
    for key, spec in found.items():
        parameters.append(_parameter(f"{where}: space.{key}", str(key), spec, parameters))
    return Space(tuple(parameters))


def _parameter(where: str, key: str, spec: Any, before: Sequence[Parameter]) -> Parameter:
    if not isinstance(spec, dict):
        raise UserError(f"{where}: give {{choices: […]}} or {{low: …, high: …}}")
    known = ("choices", *_RANGE, "when")
    for name in spec:
        if name not in known:
            raise UserError(f"{where}: '{name}' is not known{near(str(name), known)}")
    when = _condition(where, spec.get("when"), before)
    if "choices" not in spec:
        return _range(where, key, spec, when)
    if other := [name for name in _RANGE if name in spec]:
        raise UserError(f"{where}: choices and {other[0]} contradict each other: give one of them")
    choices = spec["choices"]
    if not isinstance(choices, list) or not choices:
        raise UserError(
            f"{where}: choices={choices!r} must be a list of values: give {{choices: […]}}"
        )
    values = tuple(_choice(value) for value in choices)
    for first, second in itertools.combinations(values, 2):
        # Optuna takes true for 1; and a text that is written as a number is that number.
        if first == second or written(first) == written(second):
            forms = dict.fromkeys(map(json.dumps, (first, second)))
            raise UserError(f"{where}: {' and '.join(forms)} is one choice: list each once")
    return Parameter(key, choices=values, when=when)


def _choice(value: Any) -> Value:
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)  # YAML 1.1 reads 1e-4 as text
    # Hydra's grammar reads JSON's lists and mappings; Optuna keeps a choice as text.
    return json.dumps(value) if isinstance(value, list | dict) else value


def _range(
    where: str, key: str, spec: Mapping[str, Any], when: Mapping[str, tuple[Value, ...]]
) -> Parameter:
    numbers: dict[str, float] = {}
    for name in ("low", "high", "step"):
        if spec.get(name) is None:
            if name == "step":
                continue
            raise UserError(f"{where}: {name} is missing: give {{low: …, high: …}} or choices")
        numbers[name] = _number(f"{where}.{name}", spec[name])
    low, high, step, log = numbers["low"], numbers["high"], numbers.get("step"), spec.get("log")
    if not isinstance(log, bool | None):
        raise UserError(f"{where}.log={log} is neither true nor false")
    if low > high:
        raise UserError(f"{where}: low={low:g} is above high={high:g}: swap them")
    if log and low <= 0:
        raise UserError(f"{where}: log: true needs low={low:g} to be above 0")
    if log and step is not None:
        raise UserError(f"{where}: log and step contradict each other: give one of them")
    if step is not None and (step <= 0 or step > high - low):
        raise UserError(
            f"{where}: step={step:g} does not fit from low={low:g} to high={high:g}: give a value "
            "above 0 and at most their difference"
        )
    whole = all(isinstance(number, int) for number in numbers.values())
    if step is not None and low + math.floor((high - low) / step + 1e-9) * step < high - 1e-12:
        fits = low + math.floor((high - low) / step + 1e-9) * step
        raise UserError(
            f"{where}: step={step:g} from low={low:g} never reaches high={high:g}: give "
            f"high: {fits:g} or another step"
        )
    return Parameter(key, (), low, high, step, bool(log), whole, when)


def _number(where: str, value: Any) -> int | float:
    # YAML 1.1 reads 1e-4 as text.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f"{where}={value} is not a number")
    if isinstance(value, int):
        return value
    try:
        number = float(value)
    except ValueError as error:
        raise UserError(f"{where}={value} is not a number") from error
    if not math.isfinite(number):
        raise UserError(f"{where}={value} is not a finite number")
    return number


def _condition(where: str, found: Any, before: Sequence[Parameter]) -> dict[str, tuple[Value, ...]]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not found:
        raise UserError(f"{where}: when={found!r} is not a condition: write when: {{KEY: VALUE}}")
    earlier = {one.key: one for one in before}
    condition: dict[str, tuple[Value, ...]] = {}
    for key, value in found.items():
        if key not in earlier:
            raise UserError(
                f"{where}: when names '{key}', which is not a key of the space before it"
                f"{near(str(key), earlier)}"
            )
        if not earlier[key].choices:
            raise UserError(
                f"{where}: when names '{key}', which has a range: name one with choices"
            )
        values = tuple(map(_choice, value)) if isinstance(value, list) else (value,)
        for one in values:
            if one not in earlier[key].choices:
                raise UserError(
                    f"{where}: when: {key} is never {one}"
                    f"{near(str(one), map(str, earlier[key].choices))}"
                )
        condition[key] = values
    return condition
