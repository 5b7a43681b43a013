"""The prompt that a request becomes: rendered as the engine will render it, and measured.

So what a chat template refuses, and what is longer than the context, gets status 400 and never
reaches the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

Messages = Sequence[dict[str, Any]]
Render = Callable[[Messages], str]

_PROBE: Messages = [{"role": "user", "content": "x"}]
_PLACE = "\ue000"  # private-use character: placeholder of a text


def renderer(template: str, special: dict[str, Any]) -> Render | None:
    """Return a function that renders messages with a chat template, as transformers does.

    Args:
        template: Jinja source of the template.
        special: Texts of the tokenizer's special tokens by name, as ``bos_token``.

    Returns:
        The function, or ``None`` for a template that needs what only the engine has.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _as_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    try:
        compiled = environment.from_string(template)
    except TemplateError:
        return None

    def render(messages: Messages) -> str:
        try:
            return compiled.render(messages=messages, add_generation_prompt=True, **special)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise TemplateError(str(error)) from error

    try:
        render(_PROBE)
    except Exception:  # a filter or a variable that is the engine's alone
        return None
    return render


def _as_json(value: Any, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **how)


def _refuse(words: str) -> None:
    raise TemplateError(words)


def laid_out(messages: Messages, render: Render) -> tuple[Messages, str]:
    """Return the messages in a form that the template accepts, and the prompt they become.

    A template that takes no system turn, or leaves its text out, gets that before the first user
    turn, as in training.

    Raises:
        TemplateError: The template refuses them in either form; in its own words.
    """
    merged = _without_system(messages)
    try:
        if merged is not None and _drops_system(render):
            return merged, render(merged)
        return messages, render(messages)
    except TemplateError as error:
        if merged is None:
            raise
        try:
            return merged, render(merged)
        except TemplateError:
            raise error from None


def _drops_system(render: Render) -> bool:
    try:
        return _PLACE not in render([{"role": "system", "content": _PLACE}, *_PROBE])
    except TemplateError:
        return False  # it refuses the turn


def _without_system(messages: Messages) -> Messages | None:
    system = [m for m in messages if m.get("role") in ("system", "developer")]
    rest = [m for m in messages if m not in system]
    texts = [m.get("content") for m in system]
    if not system or not rest or rest[0].get("role") != "user":
        return None
    first = rest[0].get("content")
    if not isinstance(first, str) or not all(isinstance(text, str) for text in texts):
        return None
    return [{**rest[0], "content": "\n\n".join([*map(str, texts), first])}, *rest[1:]]
