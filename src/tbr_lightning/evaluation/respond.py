"""From prompts to judged responses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tbr_lightning.config.schema import JudgeConfig, PathsConfig
from tbr_lightning.config.verbs import GenerationConfig
from tbr_lightning.data.layout import Layout, prompt_ids
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judge import identity, make_judge
from tbr_lightning.evaluation.results import Judged
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.evaluation.verdicts import with_verdicts
from tbr_lightning.modeling.backbone import Backbone, load_folder
from tbr_lightning.modeling.generation import Generated, generate
from tbr_lightning.progress import track
from tbr_lightning.tracking.models import LoggedModel, find_model, hf_folder


@dataclass(frozen=True)
class Subject:
    """A model under evaluation.

    Attributes:
        backbone: It.
        logged: Its entry in MLflow, or ``None`` for a folder, a hub id or a base made here.
    """

    backbone: Backbone
    logged: LoggedModel | None

    @property
    def name(self) -> str:
        """Identity of the weights."""
        return self.logged.model_id if self.logged else self.backbone.origin


def load_subject(name: str, paths: PathsConfig) -> Subject:
    """Load what ``model=`` of ``evaluate`` names.

    Args:
        name: A registry URI, a run id, a local folder, ``tiny`` for the micro-world's base, or a
            hub id.
        paths: Folders.

    Raises:
        UserError: There is no such model, or its files cannot be had.
    """
    if name.startswith("models:/") or (len(name) == 32 and set(name) <= set("0123456789abcdef")):
        logged = find_model(name)
        folder = hf_folder(logged, Path(paths.cache) / "models")
        return Subject(load_folder(folder, origin=logged.model_id, thinks=True), logged)
    if (Path(name) / "config.json").is_file():
        return Subject(load_folder(name, origin=name, thinks=True), None)
    from tbr_lightning.config.compose import compose_verb, options
    from tbr_lightning.modeling.backbone import load_backbone

    if name in options("model"):
        config = compose_verb("train", [f"model={name}"]).config
        model, data = config.model, config.data.name
    elif "/" in name:
        model, data = compose_verb("train", ["model=mistral"]).config.model, ""
        model.name, model.hub_id, model.dtype = name, name, "float32"
    else:
        raise UserError(
            f"model='{name}' is nothing known: give models:/NAME@alias, a run id, a folder with "
            f"config.json, a hub id (owner/name), or one of {', '.join(options('model'))}"
        )
    from tbr_lightning.config.preflight import missing_weights

    if sentences := missing_weights(model):
        raise UserError("\n".join(sentences))
    backbone = load_backbone(model, data=data, rows=(), cache=Path(paths.cache), seed=0)
    return Subject(backbone, None)


def evaluation_key(
    suite_digest: str, judge: JudgeConfig, generation: GenerationConfig, max_new_tokens: int
) -> str:
    """Return a hash of all that must agree before two evaluations are compared."""
    parts = [suite_digest, identity(judge), generation.arm, max_new_tokens]
    if generation.temperature:
        parts.append(generation.temperature)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def token_limit(layout: Layout, generation: GenerationConfig) -> int:
    """Return how many tokens an answer may have."""
    return generation.max_new_tokens or layout.max_new_tokens


def respond(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    judge: JudgeConfig,
    generation: GenerationConfig,
    what: str,
    *,
    second_judge: JudgeConfig | None = None,
    seed: int = 0,
) -> list[Judged]:
    """Let a model answer every prompt, split off the reflection, and judge the answer."""
    # Made first: what a judge lacks is told before anything is generated.
    first, second = make_judge(judge), make_judge(second_judge) if second_judge else None
    layout, tokenizer = backbone.layout, backbone.tokenizer
    opened = tokenizer.encode(layout.think_open, add_special_tokens=False)
    forced = layout.think_open if generation.arm == "forced" else ""
    cue = layout.think_cue if generation.arm == "prompted" else None

    def ids_of(prompt: Prompt) -> list[int]:
        if generation.arm == "forced":
            return prompt_ids(tokenizer, prompt.text) + list(opened)
        return prompt_ids(tokenizer, prompt.text, cue)

    made = generate(
        backbone,
        [ids_of(prompt) for prompt in prompts],
        max_new_tokens=token_limit(layout, generation),
        batch_size=generation.batch_size,
        temperature=generation.temperature,
        seed=seed,
        suppress_first=opened[:1] if generation.arm == "suppressed" else (),
    )
    rows: list[Judged | None] = [None] * len(prompts)
    for number, response in track(made, what, len(prompts)):
        rows[number] = _written(prompts[number], forced, response, layout)
    return with_verdicts(
        [row for row in rows if row is not None],
        first,
        second,
        second_about=second_judge.about if second_judge else "",
    )


def _written(prompt: Prompt, forced: str, response: Generated, layout: Layout) -> Judged:
    """Return a response that no judge has seen yet."""
    reflection, answer = layout.split(forced + response.text)
    return Judged(
        id=prompt.id,
        prompt=prompt.text,
        kind=prompt.kind,
        benchmark=prompt.benchmark,
        category=prompt.category,
        reference=prompt.reference,
        reflection=reflection,
        answer=answer,
        label="unparsed",
        because="",
        right=answer == prompt.reference if prompt.reference else None,
        new_tokens=response.new_tokens,
        cut=response.cut,
    )
