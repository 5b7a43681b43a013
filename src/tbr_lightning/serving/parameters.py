"""The parameters of a chat request: their allowed values, and what is done with each.

The ranges are those of OpenAI's API reference (chat completions). A field is honoured, by the
engine or by the server; refused where neither can; or a label that changes no reply, which the
reply's header then names. None is dropped silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tbr_lightning.errors import near
from tbr_lightning.serving.problems import RequestError

_STOPS = 4


@dataclass(frozen=True)
class Constraint:
    """The values that a field allows.

    Attributes:
        fits: Returns whether a value is allowed; null means that none was given.
        words: Description of the allowed values, to follow "must be".
    """

    fits: Callable[[Any], bool]
    words: str


def _number(low: float, high: float, *, above: bool = False) -> Constraint:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and (low < value <= high if above else low <= value <= high)

    return Constraint(
        fits, f"a number {'above' if above else 'from'} {low:g} {'up ' * above}to {high:g}"
    )


def _integer(low: int, high: int) -> Constraint:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Constraint(fits, f"an integer from {low} to {high}")


def one_of(*values: Any) -> Constraint:
    """Return the rule of a field that takes these values; ``false`` is not 0."""
    shown = [json.dumps(value) for value in values]
    return Constraint(lambda value: _exact(value) in shown, " or ".join(shown))


def _exact(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:
        return ""


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, list)
        and len(texts) <= _STOPS
        and all(isinstance(text, str) and 0 < len(text) <= 1000 for text in texts)
    )


_TEXT = Constraint(lambda value: isinstance(value, str) and len(value) <= 512, "a short string")
_BOOLEAN = one_of(True, False)
_ZERO = Constraint(lambda value: value == 0, "0")

RANGES: Mapping[str, Constraint] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1, above=True),
    "top_k": _integer(-1, 2**31 - 1),
    "n": _integer(1, 128),
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": Constraint(
        _is_stop, f"a string or a list of up to {_STOPS} strings that are not empty"
    ),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logit_bias": Constraint(lambda value: isinstance(value, dict), "an object"),
    "logprobs": _BOOLEAN,
    "top_logprobs": _integer(0, 20),
    "stream": _BOOLEAN,
    "stream_options": Constraint(
        lambda value: (
            isinstance(value, dict)
            and set(value) <= {"include_usage"}
            and all(isinstance(one, bool) for one in value.values())
        ),
        'an object with "include_usage" true or false',
    ),
    "user": _TEXT,
    "safety_identifier": _TEXT,
    "prompt_cache_key": _TEXT,
}
"""Parameters that every engine takes, with the values that it takes."""

GREEDY: Mapping[str, Constraint] = {
    "temperature": _ZERO,
    "n": one_of(1),
    "presence_penalty": _ZERO,
    "frequency_penalty": _ZERO,
    "logit_bias": one_of({}),
    "logprobs": one_of(False),
    "top_logprobs": one_of(0),
    "response_format": one_of({"type": "text"}),
    "tools": one_of([]),
    "functions": one_of([]),
    "tool_choice": one_of("none", "auto"),
    "function_call": one_of("none", "auto"),
    "parallel_tool_calls": _BOOLEAN,
    "modalities": one_of(["text"]),
    "store": one_of(False),
    "metadata": one_of({}),
    "service_tier": one_of("auto", "default"),
    # Any value of these leaves a greedy answer as it is.
    "seed": RANGES["seed"],
    "top_p": RANGES["top_p"],
    "top_k": RANGES["top_k"],
}
"""Of an engine that always takes the likeliest token, as the gate had the model answer."""

_LABELS = ("user", "safety_identifier", "prompt_cache_key")
_SERVER = ("model", "messages", "max_tokens", "max_completion_tokens", "reflection")
_KNOWN = sorted({*_SERVER, *RANGES, *GREEDY})
_REFUSED = ("reasoning_effort", "verbosity", "web_search_options", "prediction", "audio")


@dataclass(frozen=True)
class Wishes:
    """Options of a request that the server handles itself.

    Attributes:
        stop: Texts at which the answer ends, without them.
        usage: Token counts of a stream: in an event of their own (``True``), nowhere (``False``),
            or in its last event (``None``, nothing was asked).
        labels: Names of fields that change no reply.
    """

    stop: tuple[str, ...] = ()
    usage: bool | None = None
    labels: tuple[str, ...] = ()


NOTHING = Wishes()


def check(
    body: dict[str, Any], engine: str, only: Mapping[str, Constraint], *, strict: bool
) -> Wishes:
    """Remove from a body what the server does itself, and refuse what is not supported.

    Args:
        body: Body of the request; nulls and what the server does are removed.
        engine: Name of the engine.
        only: Values that it can honour, by parameter.
        strict: Whether to refuse parameters that neither table knows; else the engine gets them.

    Raises:
        RequestError: 400, which names field, value and what is allowed.
    """
    for name in [name for name, value in body.items() if value is None]:
        del body[name]
    for name, value in body.items():
        if (rule := RANGES.get(name)) is not None and not rule.fits(value):
            raise _refused(f"{name} must be {rule.words}", name, value)
        if (rule := only.get(name)) is not None and not rule.fits(value):
            text = f"{name} must be {rule.words}, or left out, with the engine {engine}"
            why = ", which answers greedily and in plain text" if strict else ""
            raise _refused(text + why, name, value)
        if not strict:
            continue
        if name in _REFUSED:
            raise RequestError(
                400, f"{name} is not supported by the engine {engine}: leave it out", param=name
            )
        if name not in _KNOWN:
            raise RequestError(
                400, f"{name[:80]} is not a field of this API{near(name, _KNOWN)}", param=name[:80]
            )
    if "stream_options" in body and body.get("stream") is not True:
        raise RequestError(
            400, "stream_options is for streams: give stream=true, too", param="stream_options"
        )
    stop = body.pop("stop", [])
    options = body.pop("stream_options", {})
    return Wishes(
        (stop,) if isinstance(stop, str) else tuple(stop),
        options.get("include_usage"),
        tuple(sorted(name for name in _LABELS if name in body)),
    )


def _refused(text: str, name: str, value: Any) -> RequestError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return RequestError(400, f"{text}: it is {shown}", param=name)
