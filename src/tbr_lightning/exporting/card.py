"""The model card: what the model is, and what its evaluations in this store found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from mlflow.tracking import MlflowClient

from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.evaluation.results import MEASURES
from tbr_lightning.exporting.source import Source
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.search import newest_runs

_MOST = 50  # evaluations of a model that are looked at
_IDS = {"apache-2.0": "apache-2.0", "mit": "mit"}


_KINDS = ("false_refusal_rate", "harmful_compliance_rate", "general_accuracy")
"""Rates of the three kinds of prompts, whose numbers add up."""


@dataclass(frozen=True)
class Evaluation:
    """Numbers of one evaluation.

    Attributes:
        run_id: ID of the evaluation's run.
        tags: Tags of its run: suite, half, arm.
        metrics: Metrics by name, rates with ``_lo``, ``_hi`` and ``_n``.
        params: Settings of its run.
        gated: Whether the gate has decided by it.
    """

    run_id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    gated: bool = False

    @property
    def what(self) -> str:
        """Suite, half, arm and judge, in words; the usual ones are left out."""
        arm, judge = self.tags.get("tbr.arm", "trained"), self.params.get("judge.name", "rules")
        asked = "" if arm == "trained" else f", {arm}"
        asked += "" if judge == "rules" else f", judged by {judge}"
        return f"{self.tags.get('tbr.suite', '?')}, {self.tags.get('tbr.half', '?')} half{asked}"

    @property
    def prompts(self) -> int:
        """Number of prompts whose answers have a label."""
        answers = sum(self.metrics.get(f"{name}_n", 0) for name in _KINDS)
        return round(answers / int(self.params.get("repeats", "1")))

    @property
    def told(self) -> str:
        """What a reader must know beside the rates, in words."""
        limit = self.params.get("suite.limit", "None")
        parts = [f"{self.prompts} prompts"]
        if limit != "None":
            parts.append(f"limited to {limit} of each kind and benchmark")
        if (repeats := self.params.get("repeats", "1")) != "1":
            parts.append(f"{repeats} answers to each")
        return ", ".join([*parts, *(["read by the gate"] if self.gated else [])])


def evaluations(source: Source) -> list[Evaluation]:
    """Return a logged model's evaluation with each suite, half, arm and judge.

    Of several it is the one with the most prompts; of those the one that the gate has decided by,
    and of those the newest. A later look at a few prompts takes no place of a whole evaluation.
    """
    if source.logged is None:
        return []
    wanted = {"tbr.stage": "evaluate", "tbr.subject": source.logged.model_id}
    found: dict[str, Evaluation] = {}
    for run_id in newest_runs("= 'FINISHED'", wanted, _MOST):
        data = MlflowClient().get_run(run_id).data
        decided = {"tbr.stage": "promote", "tbr.evaluation_run": run_id}
        gated = bool(newest_runs("= 'FINISHED'", decided, most=1))
        one = Evaluation(run_id, data.tags, Run(run_id).numbers(), data.params, gated)
        before = found.setdefault(one.what, one)
        if (one.prompts, one.gated) > (before.prompts, before.gated):
            found[one.what] = one
    return list(found.values())


def model_card(source: Source, title: str, licence: str | None) -> str:
    """Return the model card as Markdown with the hub's metadata.

    Args:
        source: The exported model.
        title: Name of the model.
        licence: Name of the licence, or ``None`` for what the training run's config says.
    """
    params = _training(source)
    made = evaluations(source)
    licence = licence or params.get("model.licence")
    known = _IDS.get((licence or "").lower())
    base = params.get("model.hub_id")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["safety", "think-before-refusal", "tbr-lightning"],
        base_model=base if base and params.get("model.init") != "random" and "/" in base else None,
        license=known or ("other" if licence else None),
        license_name=None if known else licence,
        model_name=title,
        eval_results=[result for one in made for result in _results(one)] or None,
    )
    text = "\n".join(_lines(source, title, params, made, licence))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def _training(source: Source) -> Mapping[str, str]:
    if source.logged is None:
        return {}
    params = MlflowClient().get_run(source.logged.run_id).data.params
    return {key: value for key, value in params.items() if value != "None"}


def _results(one: Evaluation) -> Iterator[EvalResult]:
    for measure in MEASURES:
        if measure.name in one.metrics:
            yield EvalResult(
                task_type="text-generation",
                dataset_type=f"tbr-{one.tags.get('tbr.suite', 'suite')}",
                dataset_name=one.what,
                metric_type=measure.name,
                metric_name=measure.heading,
                metric_value=round(one.metrics[measure.name], 4),
            )


def _lines(
    source: Source,
    title: str,
    params: Mapping[str, str],
    made: list[Evaluation],
    licence: str | None,
) -> Iterator[str]:
    yield f"# {title}\n"
    yield (
        "A causal language model, exported by TBR-Lightning, an experiment platform around "
        "Think-Before-Refusal ([arXiv 2503.17882](https://arxiv.org/abs/2503.17882)).\n"
    )
    yield f"- Weights: {source.dtype}, {source.backbone.model.config.model_type}"
    if source.logged is not None:
        yield f"- MLflow: `{source.logged.uri}`, trained by run `{source.logged.run_id}`"
    for heading, key in (
        ("Base", "model.hub_id"),
        ("Training data", "data.name"),
        ("Reflections", "reflection.teacher"),
        ("Objective", "objective._target_"),
        ("Adapter", "adapter.name"),
        ("Seed", "seed"),
    ):
        if key in params:
            value = params[key]
            # An objective is known by its class.
            yield f"- {heading}: {value.rpartition('.')[2] if '_target_' in key else value}"
    yield f"- Licence: {licence or 'not stated; that of the base model and of the data holds'}"
    yield "\n## Safety\n"
    yield from _safety(made)
    yield "\n## Think format\n"
    yield from _format(source.backbone.think_format)


def _safety(made: list[Evaluation]) -> Iterator[str]:
    if not made:
        yield (
            "**Not evaluated.** No evaluation of this model was found where it was exported: "
            "neither what it refuses wrongly nor what it lets through is known."
        )
        return
    yield (
        "Shares with 95% intervals and the number of answers. Two-sided: false refusals of "
        "harmless look-alikes should be rare, and so should compliance with harmful requests.\n"
    )
    yield f"| prompts | {' | '.join(measure.heading for measure in MEASURES)} | run |"
    yield f"|---{'|---' * len(MEASURES)}|---|"
    for one in made:
        cells = [_cell(one.metrics, measure.name) for measure in MEASURES]
        yield f"| {one.what}: {one.told} | {' | '.join(cells)} | `{one.run_id[:8]}` |"
    told = {one.tags["tbr.contamination"] for one in made if "tbr.contamination" in one.tags}
    yield from (f"\n{sentence}" for sentence in sorted(told))


def _cell(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "–"
    low, high = metrics.get(f"{name}_lo"), metrics.get(f"{name}_hi")
    interval = f" [{low:.1%}, {high:.1%}]" if low is not None and high is not None else ""
    count = f", n={metrics[f'{name}_n']:.0f}" if f"{name}_n" in metrics else ""
    return f"{metrics[name]:.1%}{interval}{count}"


def _format(think_format: ThinkFormat) -> Iterator[str]:
    opened, closed = think_format.think_open.strip(), think_format.think_close.strip()
    yield (
        f"A reflection, where there is one, stands between `{opened}` and `{closed}` before the "
        f"answer. Decode greedily, with up to {think_format.max_new_tokens} new tokens."
    )
