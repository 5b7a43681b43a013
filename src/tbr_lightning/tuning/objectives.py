"""Which numbers the runs of a study will log, known before the first of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.errors import UserError, near
from tbr_lightning.tuning.study import Study

_TRAINING = (
    "train/loss",
    "train/lr",
    "train/supervised_tokens_per_second",
    "train/tokens_per_second",
    "train/padding_share",
    "train/epoch",
    "train/memory_gib",
    "train/steps",
    "train/supervised_tokens",
    "train/seconds",
    "data/rows",
    "data/rows_left_out_as_too_long",
)
_PROBED = ("false_refusal_rate", "harmful_compliance_rate", "general_accuracy", "unparsed_share")
"""What a probe measures while a model is trained."""


def check_names(study: Study, trains: Iterable[TrainConfig], evaluation: EvaluateConfig) -> None:
    """Refuse objectives and constraints that no run of the study would log.

    Args:
        study: Of the file.
        trains: Training configs of some of its points.
        evaluation: Of every point.

    Raises:
        UserError: With the near match.
    """
    trains = list(trains)
    known = [*evaluation_names(evaluation), *_TRAINING]
    if any(config.data.validation for config in trains):
        known.append("validation/loss")
    if all(config.trainer.eval_every for config in trains):
        known += [f"probe/{name}" for name in _PROBED]
    wanted = [("objectives", name) for name in study.objectives]
    wanted += [("constraints", one.metric) for one in study.bounds]
    for where, name in wanted:
        if name not in known:
            plain = [one for one in known if one.count("/") < 2]
            raise UserError(f"{where}.{name}: no run would log it{near(name, plain)}")
    if study.pruner is None:
        return
    if study.pruner["name"] == "wilcoxon":
        from tbr_lightning.evaluation.results import MEASURES

        (objective,) = study.objectives
        if objective not in (rates := [one.name for one in MEASURES]):
            raise UserError(
                f"pruner=wilcoxon compares answers prompt by prompt, and objectives.{objective} is "
                f"no rate over prompts: use another pruner, or one of {', '.join(rates)}"
            )
        return
    _check_reports(study, reported(study), trains)


def reported(study: Study) -> str | None:
    """Return the number that training reports to a pruner, or ``None`` if there is none."""
    if study.pruner is None or study.pruner["name"] == "wilcoxon":
        return None
    (objective,) = study.objectives
    return str(study.pruner.get("metric", f"probe/{objective}"))


def _check_reports(study: Study, metric: str | None, trains: Iterable[TrainConfig]) -> None:
    assert study.pruner is not None
    name = study.pruner["name"]
    known = ["validation/loss", *(f"probe/{one}" for one in _PROBED)]
    if metric not in known:
        raise UserError(
            f"pruner={name}: nothing measures {metric} during training: give pruner.metric, one of "
            f"{', '.join(known)}"
        )
    for config in trains:
        if not config.trainer.eval_every:
            raise UserError(
                f"pruner={name} needs measurements during training: put trainer.eval_every=50 or "
                "another number of steps into fixed"
            )
        if metric == "validation/loss" and not config.data.validation:
            raise UserError(
                f"pruner={name} with metric=validation/loss needs rows held out: put "
                "data.validation=0.1 into fixed"
            )


def evaluation_names(config: EvaluateConfig) -> list[str]:
    """Return the names that an evaluation logs, by counting its prompts as if all were answered.

    Raises:
        UserError: The suite's prompts or questions cannot be had.
    """
    from tbr_lightning.evaluation import general
    from tbr_lightning.evaluation.results import Judged, metrics
    from tbr_lightning.evaluation.suites import load_suite

    rows = [
        replace(
            Judged.unseen(prompt, prompt.reference or "yes", reflection="harmless"),
            label="full_compliance",
        )
        for prompt in load_suite(config.suite)
    ]
    names = list(metrics(rows))
    tasks = [f"general/{task}" for task in {one.task for one in general.prepare(config.suite)}]
    return names + [f"{task}{end}" for task in tasks for end in ("", "_lo", "_hi", "_n")]
