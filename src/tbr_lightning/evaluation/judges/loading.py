"""How a judge is chosen and built, and what tells two judges apart.

To add one, write a function from :class:`~tbr_lightning.config.evaluation.JudgeConfig` to a
:data:`~tbr_lightning.evaluation.judges.base.Judge`, and name it as ``_target_`` in
``judge/NAME.yaml`` of a folder that ``--config-dir`` gives. Its module is part of its identity.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_method, get_object

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.data.cache import content_key, contents_key, file_key
from tbr_lightning.evaluation.judges.base import Judge
from tbr_lightning.tracking.prompts import in_registry


def make_judge(config: JudgeConfig) -> Judge:
    """Return the judge that a config describes; its ``_target_`` builds it.

    Raises:
        UserError: Something that it needs is missing.
    """
    build: Any = get_method(config._target_)
    judge: Judge = build(config)
    return judge


NO_EFFECT_ON_VERDICTS = frozenset(
    {
        # What an evaluation is refused for, after the verdicts are there.
        "max_unparsed",
        "max_errors",
        # What is known of the weights, and on what terms.
        "verified",
        "licence",
        "gated",
        "batch_size",
        # Counts by what it names; its key, pace, patience and prices are no part of the judge.
        "endpoint",
        # A file counts by its text, and a folder by its files.
        "prompt",
        "path",
    }
)
"""Settings of a judge that cannot change what it says; every other one is part of its identity."""


def identity(config: JudgeConfig) -> str:
    """Return an identity of the judge that differs whenever its verdicts may.

    Two evaluations are compared only if it agrees. It holds every setting but
    :data:`NO_EFFECT_ON_VERDICTS`, the contents of the files that they name, and the judge's code.
    """
    settings = asdict(config)
    kept = {key: value for key, value in settings.items() if key not in NO_EFFECT_ON_VERDICTS}
    named = {key: contents_key(settings[key]) for key in ("prompt", "path")}
    if in_registry(config.prompt):  # a version there never changes
        named["prompt"] = config.prompt
    parts = [kept, named, config.endpoint.identity, _code(str(config._target_))]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return f"{config.name}/{digest[:12]}"


@cache
def _code(target: str) -> str:
    """Return a hash of the code that decides: our judges without this module, the target's own."""
    files = [one for one in Path(__file__).parent.glob("*.py") if one.name != "loading.py"]
    if module := inspect.getmodule(get_object(target)):
        files.append(Path(module.__file__ or ""))
    return content_key([file_key(file) for file in sorted(set(files)) if file.is_file()])
