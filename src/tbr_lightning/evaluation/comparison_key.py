"""When two evaluations may be compared: the hash of all that can change an answer or a verdict.

It is made of the whole config but for the settings that are named here as without effect, so that
a setting that is added later counts without anybody thinking of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.verbs import EvaluateConfig, GenerationConfig
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.evaluation.judges.loading import identity

NO_EFFECT_ON_ANSWERS = ("batch_size", "engine", "reuse", "dtype")
"""Settings of generation that change no answer but for ties within rounding, and the type, which
counts as it was taken: see :func:`evaluation_key`."""


def evaluation_key(
    suite_digest: str,
    judge: JudgeConfig,
    generation: GenerationConfig,
    max_new_tokens: int,
    mitigation: str = "",
    *,
    dtype: str = "float32",
    cue: str = "",
    others: Mapping[str, Any] | None = None,
) -> str:
    """Return a hash of all that must agree before two evaluations are compared.

    The type in which the answers were computed counts where it is not float32, as evaluations of
    versions that do not name it have it.

    Args:
        suite_digest: Digest of the prompts, their kinds and their references.
        judge: Counts by its identity.
        generation: Counts but for :data:`NO_EFFECT_ON_ANSWERS`.
        max_new_tokens: Token limit of an answer, reflection included.
        mitigation: Its identity; empty for none.
        dtype: Type in which the answers are computed.
        cue: Result of :func:`cue_of`.
        others: Result of :func:`other_settings`.
    """
    settings = asdict(generation)
    settings["max_new_tokens"] = max_new_tokens
    greedy = () if generation.temperature else ("seed",)
    kept = {k: v for k, v in settings.items() if k not in (*NO_EFFECT_ON_ANSWERS, *greedy)}
    beside = [mitigation] if mitigation else []
    beside += [] if dtype == "float32" else [dtype]
    beside += [f"cue: {cue}"] if cue else []
    beside += [f"others: {json.dumps(others, sort_keys=True, default=str)}"] if others else []
    parts = [suite_digest, identity(judge), kept, *beside]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


_COUNTED = ("suite", "judge", "generation", "mitigation", "repeats")
"""Settings of an evaluation that have a part of its key to themselves."""

NO_EFFECT_ON_AN_EVALUATION = (
    # Which model, and where it is: an evaluation's subject.
    "model_uri",
    "endpoint",
    # What is labelled, explained, shown or kept beside the first judge's verdicts.
    "second_judge",
    "attribution",
    "attribution_prompts",
    "attribution_against",
    "attribution_swaps",
    "genai_dataset",
    "labelled",
    "traces",
    "format",
    "gold",
    "gold_columns",
    "reuse",
    # Where and how fast it runs, and what it is called.
    "tracking",
    "paths",
    "threads",
    "run_name",
    "tags",
)
"""Settings of an evaluation that change neither an answer nor a verdict; all others count."""


def other_settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return the settings that are in no other part of the key, which a new one is."""
    left_out = (*_COUNTED, *NO_EFFECT_ON_AN_EVALUATION)
    return {key: value for key, value in asdict(config).items() if key not in left_out}


def cue_of(think_format: ThinkFormat, generation: GenerationConfig) -> str:
    """Return the sentence that asks for a reflection; empty in arms that do not ask."""
    return think_format.cue if generation.arm == "prompted" else ""


def token_limit(think_format: ThinkFormat, generation: GenerationConfig) -> int:
    """Return how many tokens an answer may have."""
    return generation.max_new_tokens or think_format.max_new_tokens
