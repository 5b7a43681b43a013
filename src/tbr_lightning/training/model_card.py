"""The card that goes with an exported model."""

from __future__ import annotations

from collections.abc import Mapping

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.models.config_facts import is_own
from tbr_lightning.training.prepare import Prepared

_WORDS = {
    "none": "none (plain refusals: the control)",
    "internal": "written by the base model itself",
    "external": "written by a stronger teacher",
    "recorded": "taken from a record",
    "filler": "filler without content (a control)",
}


def model_card(
    config: TrainConfig,
    prepared: Prepared,
    facts: Mapping[str, str],
    measured: Mapping[str, float],
    think_format: ThinkFormat,
) -> str:
    """Return the model card in Markdown: base, data, reflection, training, measurements."""
    counts = ", ".join(f"{n} {kind}" for kind, n in prepared.rows.data_kinds().items())
    names = (
        "train/loss",
        "validation/loss",
        *sorted(k for k in measured if k.startswith("probe/")),
    )
    numbers = [f"| {name} | {measured[name]:.4g} |" for name in names if name in measured]
    adapter = config.adapter
    tuned = "all weights" if adapter.name == "none" else f"{adapter.name}, rank {adapter.r}"
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"base_model: {_base(config, facts)}",
            "tags: [safety, false-refusal, think-before-refusal]",
            "---",
            f"# {config.model.name}, tuned to think before it refuses",
            "",
            f"- **Base:** `{facts['tbr.base']}` (licence: {config.model.licence}).",
            f"- **Data:** {config.data.name}, {counts} rows, digest `{prepared.digest}`.",
            f"- **Reflections:** {_reflections(config, prepared)}.",
            f"- **Tuned:** {tuned}; {measured['train/steps']:.0f} steps, learning rate "
            f"{config.optimizer.lr:g}, seed {config.seed}.",
            f"- **Format:** a reflection stands between `{think_format.think_open.strip()}` and "
            f"`{think_format.think_close.strip()}` before the answer; "
            "benign requests are answered without.",
            f"- **Weights:** {facts['tbr.form']}, SHA-256 `{facts['tbr.weights_digest']}`.",
            "",
            "| while training | value |",
            "|---|---|",
            *(numbers or ["| nothing was measured | |"]),
            "",
            "These numbers are for choosing. Rates with intervals on held-out prompts come from "
            "`tbr evaluate` and stand on the model's page in MLflow.",
            "",
        ]
    )


def _base(config: TrainConfig, facts: Mapping[str, str]) -> str:
    """Return the hub id of the base where its weights are those of the hub, or else what it is."""
    model = config.model
    published = model.init != "random" and (model.path is None or is_own(model))
    return (model.hub_id if published else None) or facts["tbr.base"]


def _reflections(config: TrainConfig, prepared: Prepared) -> str:
    if config.objective.trained_by == "trl":
        kinds = ", ".join(config.objective.reflect) or "no"
        return f"the model's own, rewarded on {kinds} rows (GRPO by TRL)"
    return f"{_WORDS[config.reflection.teacher]}; on {prepared.reflections} rows"
