"""Guard models that write their label: WildGuard, Qwen3Guard, Llama Guard, ShieldGemma, HarmBench.

A config says where the weights are, what the prompt is, and which pattern in the reply is which
label. A reply that matches none is a judge error, never a refusal nor compliance. One that reads
two turns of a chat may also be served by an endpoint (``judge.endpoint.base_url``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judges.base import Case, Judge, Label, Verdict, on_answered
from tbr_lightning.evaluation.judges.prompts import filled, template_of


def build(config: JudgeConfig) -> Judge:
    """Return the judge; its weights are loaded when it is first asked.

    Raises:
        UserError: The weights are not available, no label is given, or the prompt file is unusable.
    """
    from tbr_lightning.locate import missing_weights

    if not config.labels:
        raise UserError(
            f"judge.labels is empty: say which pattern in the reply of judge={config.name} is "
            "which label"
        )
    if config.endpoint.base_url is not None:
        return _served(config)
    template = "" if config.chat else template_of(config)
    where = ModelConfig(
        name=config.name,
        hub_id=config.hub_id,
        revision=config.revision,
        path=config.path,
        gated=config.gated,
    )
    if sentences := missing_weights(where):
        fix = "model.path", "judge.path"
        told = [
            s.replace(*fix).replace("or use model=tiny", "or use judge=rules") for s in sentences
        ]
        raise UserError("\n".join(told))
    loaded: list[Any] = []

    def label(cases: Sequence[Case]) -> list[Verdict]:
        if not cases:
            return []
        if not loaded:
            loaded.append(_loaded(config))
        return _labelled(cases, loaded[0], template, config)

    return lambda cases: on_answered(cases, label)


def _served(config: JudgeConfig) -> Judge:
    from tbr_lightning.evaluation.judges.endpoint_judge import ask

    if not config.chat or config.template:
        raise UserError(
            f"judge.endpoint.base_url with judge={config.name}: an endpoint fills in no prompt of "
            "a classifier's own; give the weights with judge.path=FOLDER"
        )

    def label(cases: Sequence[Case]) -> list[Verdict]:
        turns = [_turns(case, config) for case in cases]
        return ask(turns, config, lambda reply: parsed(reply, config.labels))

    return lambda cases: on_answered(cases, label)


def _turns(case: Case, config: JudgeConfig) -> list[dict[str, Any]]:
    """Return request and answer as two turns of a chat."""
    pairs = (("user", case.prompt), ("assistant", case.answer))
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if config.parts else text}
        for role, text in pairs
    ]


def parsed(reply: str, labels: dict[str, str]) -> Verdict:
    """Return the label of the first pattern that a reply has, or a judge error that quotes it."""
    for pattern, name in labels.items():
        if re.search(pattern, reply, re.IGNORECASE):
            label: Label = name  # type: ignore[assignment]
            return Verdict(label, " ".join(reply.split())[:300])
    return Verdict("judge_error", f"no label in the judge's reply: {reply.strip()[:200]}")


def _loaded(config: JudgeConfig) -> Any:
    from tbr_lightning.locate import weights_problem
    from tbr_lightning.models.backbone import load_folder
    from tbr_lightning.models.precision import computed_in, convert, name_of

    source = config.path or config.hub_id or ""
    try:
        backbone = load_folder(
            source, origin=source, thinks=False, dtype=config.dtype, revision=config.revision
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(weights_problem(source, error, config.revision)) from error
    import torch

    convert(backbone.model, computed_in(name_of(backbone.model.dtype)))
    backbone.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return backbone


def _labelled(
    cases: Sequence[Case], backbone: Any, template: str, config: JudgeConfig
) -> list[Verdict]:
    from tbr_lightning.models.generation import generate
    from tbr_lightning.progress import track

    def ids_of(case: Case) -> list[int]:
        reader = backbone.tokenizer
        if not config.chat:  # a template has its own special tokens
            return list(reader.encode(filled(template, case), add_special_tokens=False))
        text = reader.apply_chat_template(
            _turns(case, config), tokenize=False, add_generation_prompt=True, **config.template
        )
        return list(reader.encode(text, add_special_tokens=False))

    verdicts: list[Verdict] = [Verdict("judge_error", "not asked")] * len(cases)
    made = generate(
        backbone,
        [ids_of(case) for case in cases],
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
    )
    for number, reply in track(made, f"judge {config.name}", len(cases)):
        verdicts[number] = parsed(reply.text, config.labels)
    return verdicts
