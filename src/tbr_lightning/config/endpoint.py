"""Typed schema of an OpenAI-compatible endpoint: one for teacher, judge and evaluated model."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from tbr_lightning.credentials import shown_url
from tbr_lightning.errors import UserError, above, at_least


@dataclass
class EndpointConfig:
    """Address, model, pace and budget of an endpoint (``conf/endpoint/``)."""

    base_url: str | None = None  # null: the openai client's default
    model: str | None = None  # name at that endpoint; null where it has one model only
    api_key_env: str = "OPENAI_API_KEY"  # the variable that holds the key
    concurrency: int = 8  # requests under way at once
    timeout: float = 60.0  # seconds per request
    retries: int = 6  # with backoff, after 429, 5xx and time-outs
    requests_per_minute: float | None = None  # null: no limit
    tokens_per_minute: float | None = None  # prompt and completion; null: no limit
    max_requests: int | None = None  # stop after this many in one run
    max_cost: float | None = None  # stop at this cost in one run, in the currency of the prices
    prompt_price: float = 0.0  # per million tokens
    completion_price: float = 0.0  # per million tokens
    traces: int = 0  # how many calls are traced in MLflow; a trace takes some 65 ms

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            # Not shown: it may be the key itself.
            raise UserError(
                "endpoint.api_key_env is not the name of an environment variable: export the key "
                "and give the variable's name"
            )
        for name in ("requests_per_minute", "tokens_per_minute", "max_cost", "timeout"):
            above(f"endpoint.{name}", getattr(self, name), 0)
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise UserError(
                f"endpoint.max_cost={self.max_cost} needs endpoint.prompt_price and "
                "endpoint.completion_price, per million tokens"
            )
        at_least("endpoint.max_requests", self.max_requests, 1)
        at_least("endpoint.concurrency", self.concurrency, 1)
        for name in ("retries", "prompt_price", "completion_price", "traces"):
            at_least(f"endpoint.{name}", getattr(self, name), 0)

    @property
    def identity(self) -> str:
        """The model and its address, without credentials: what determines the replies."""
        where = shown_url(self.base_url) if self.base_url else "default"
        return f"{self.model or 'default'}@{where}"


NAMES = frozenset(item.name for item in fields(EndpointConfig))
"""Its settings. Earlier versions had them beside those of the teacher and of the judge."""

HOLDERS = ("reflection", "judge", "second_judge")
"""Groups of which :func:`nested` and :func:`nested_override` know the earlier form."""


def nested(settings: Any) -> None:
    """Move settings of an endpoint that an earlier version wrote flat under ``endpoint``."""
    moved = {name: settings.pop(name) for name in sorted(NAMES) if name in settings}
    if moved:
        settings["endpoint"] = moved | dict(settings.get("endpoint") or {})


def nested_override(override: str) -> str:
    """Return ``judge.base_url=…``, as earlier versions had it, as ``judge.endpoint.base_url=…``."""
    found = re.match(rf"(\+{{0,2}})({'|'.join(HOLDERS)})\.(\w+)=", override)
    if found is None or found[3] not in NAMES:
        return override
    return f"{found[1]}{found[2]}.endpoint.{found[3]}{override[found.end() - 1 :]}"
