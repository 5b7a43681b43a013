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
    repeats: int = 1,
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
        repeats: Number of answers to each prompt.
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
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    # "-5" was the end of a key whose answers after the first were drawn from the next seeds.
    return key if repeats == 1 else f"{key}-{repeats}-independent"


def seed_of(seed: int, repeat: int) -> int:
    """Return the seed of one of several answers to each prompt.

    The first has the seed itself, as an evaluation with one answer does. Those of the others are
    hashes, so that two evaluations share no draw unless they have the same seed: with the next
    integers, four of five answers with seed 1 would be those with seed 0.

    Args:
        seed: Seed of the evaluation.
        repeat: Number of the answer, from 0.

    Returns:
        The seed, or a number of 31 bits, which every engine and endpoint takes.
    """
    if repeat == 0:
        return seed
    found = hashlib.sha256(f"{seed} {repeat}".encode()).digest()
    return int.from_bytes(found[:4], "big") >> 1


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
    "evaluation",
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
