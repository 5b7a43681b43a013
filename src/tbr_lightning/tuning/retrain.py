"""The chosen configuration: trained with fresh seeds, measured, registered, gated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import optuna
from optuna.trial import FrozenTrial

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.outages import OutageError
from tbr_lightning.tracking.open_run import child_run
from tbr_lightning.tracking.run import Run
from tbr_lightning.tuning.pareto_front import train_overrides
from tbr_lightning.tuning.report import RetrainedModel, told_metrics
from tbr_lightning.tuning.study import Study

_FAILURES = (UserError, FloatingPointError, RuntimeError, MemoryError)
"""What a training run may end in without ending the sweep."""


def fresh_seeds(study: Study, trials: Sequence[FrozenTrial], count: int) -> list[int]:
    """Return ``count`` seeds that no trial of the study was trained with, the least above them."""
    used = {study.seed, *study.first_seeds}
    for trial in trials:
        used |= {int(run["seed"]) for run in trial.user_attrs.get("runs", [])}
        if "seed" in trial.params:
            used.add(int(trial.params["seed"]))
    return list(range(max(used) + 1, max(used) + 1 + count))


def own_model(study: Study, config: SweepConfig, trial: FrozenTrial) -> RetrainedModel:
    """Return the model of the trial's first seed, measured on the test half.

    Raises:
        UserError: The trial did not record which model it made, or it is gone.
    """
    done = [run for run in trial.user_attrs.get("runs", []) if run.get("model_uri")]
    if not done:
        raise UserError(
            f"trial {trial.number} names no model: give sweep.retrain_seeds=1 to train it again"
        )
    first = done[0]
    dev = _metrics(study, first["train"], first.get("evaluate"))
    if first.get("evaluate"):
        from tbr_lightning.evaluation import mlflow_logging

        mlflow_logging.draw(first["evaluate"])  # as a trial it has no figures
    made = RetrainedModel(int(first["seed"]), first["train"], first["model_uri"], dev)
    called = f"trial {trial.number} seed {made.seed}"
    return measure(study, config, made, half="test", called=called)


def retrain(
    study: Study,
    config: SweepConfig,
    storage_study: optuna.Study,
    trial: FrozenTrial,
    parent_run_id: str,
) -> tuple[list[RetrainedModel], dict[int, str]]:
    """Train the chosen configuration with fresh seeds and measure each model on both halves.

    What an interrupted sweep has trained already is not trained again.

    Returns:
        The models by seed, and the seeds that failed with the reason.
    """
    seeds = fresh_seeds(study, storage_study.get_trials(deepcopy=False), config.sweep.retrain_seeds)
    key = f"retrained_{trial.number}"
    kept = [RetrainedModel(**one) for one in storage_study.user_attrs.get(key) or []]
    made = {one.seed: one for one in kept if _there(one)}
    failed: dict[int, str] = {}
    missing = [seed for seed in seeds if seed not in made]
    if missing:
        with child_run(
            Run(parent_run_id),
            "trial",
            f"trial {trial.number}, fresh seeds",
            config.tracking,
            params=trial.params,
            tags={"tbr.study": study.key, "tbr.retrained": str(trial.number)},
        ):
            for seed in missing:
                place = f"{seeds.index(seed) + 1} of {len(seeds)}"
                print(f"training trial {trial.number} with seed {seed} ({place})", flush=True)
                try:
                    made[seed] = _train(study, config, trial, seed)
                except OutageError:
                    raise  # nothing of this seed failed: the same command trains it
                except _FAILURES as error:
                    failed[seed] = first_line(error)
                    continue
                stored = [asdict(one) for _, one in sorted(made.items())]
                storage_study.set_user_attr(key, stored)
    return [made[seed] for seed in seeds if seed in made], failed


def _train(study: Study, config: SweepConfig, trial: FrozenTrial, seed: int) -> RetrainedModel:
    from tbr_lightning.tuning import reuse

    called = f"trial {trial.number} seed {seed}"
    overrides = [*train_overrides(study, trial), f"seed={seed}"]
    settings: TrainConfig = compose_verb("train", overrides, config.sweep.config_dir).config
    key = reuse.train_key(settings)
    tags = {"tbr.study": study.key, "tbr.retrained": str(trial.number)}
    settings = replace(
        settings,
        tracking=config.tracking,
        paths=config.paths,
        run_name=f"train {called}",
        tags={**settings.tags, **tags},
    )
    done = reuse.train_or_take(settings, key, take=config.sweep.reuse)
    made = RetrainedModel(seed, done.run_id, done.model_uri, {}, fresh=True)
    made = measure(study, config, made, half="dev", called=called)
    return measure(study, config, made, half="test", called=called)


def measure(
    study: Study, config: SweepConfig, made: RetrainedModel, *, half: str, called: str
) -> RetrainedModel:
    """Return a model with its metrics on one half of the study's suite."""
    from tbr_lightning.evaluation import pipeline as evaluation

    found = evaluation.run(
        replace(
            _evaluation(study, config, made.model_uri, half=half),
            run_name=f"evaluate {called}, {half} half",
            tags={"tbr.study": study.key},
            traces=0,
            genai_dataset=False,
            reuse=True,
        )
    )
    metrics = _metrics(study, made.train, found.run_id)
    if half == "dev":
        return replace(made, dev=metrics)
    return replace(made, test=metrics, evaluate=found.run_id)


def _evaluation(study: Study, config: SweepConfig, model_uri: str, *, half: str) -> EvaluateConfig:
    """Return the config by which the study evaluates a model on one half of its suite."""
    words = [f"model='{model_uri}'", *of_half(study.evaluate, half)]
    made: EvaluateConfig = compose_verb("evaluate", words, config.sweep.config_dir).config
    return replace(made, tracking=config.tracking, paths=config.paths)


def of_half(overrides: Sequence[str], half: str) -> list[str]:
    """Return overrides of an evaluation that ask for one half of its suite."""
    return [*(word for word in overrides if not _sets(word, "suite.half")), f"suite.half={half}"]


def median(study: Study, made: Sequence[RetrainedModel]) -> RetrainedModel:
    """Return the model with the median of the first objective on the dev half.

    Of an even number it is the worse of the middle two, and of equals the one of the least seed.
    """
    name, goal = next(iter(study.objectives.items()))
    sign = 1 if goal == "minimize" else -1
    ordered = sorted(made, key=lambda one: (sign * one.dev[name], one.seed))
    return ordered[len(ordered) // 2]


def gate(study: Study, config: SweepConfig, model: Gated) -> list[str]:
    """Hand a model to the gate, on the test half of the study's suite; return its messages.

    It is evaluated as the study evaluates, or a message says in what not. A rejection is a result,
    and so is a gate that cannot decide: neither is the sweep's error.
    """
    from tbr_lightning.registry import pipeline as registry

    if model.not_gated:
        return [f"it does not decide: {model.not_gated}"]
    words = [f"model='{model.uri}'", f"name={config.sweep.name}"]
    try:
        asked = _evaluation(study, config, model.uri, half="test")
        settings = replace(
            compose_verb("promote", words, config.sweep.config_dir).config,
            suite=asked.suite,
            judge=asked.judge,
            generation=asked.generation,
            threads=asked.threads,
            tracking=config.tracking,
            paths=config.paths,
        )
        result = registry.run(settings)
    except UserError as error:
        return [f"it cannot decide: {error}"]
    against = f"against champion v{result.champion}" if result.champion else "with no champion yet"
    word = "promoted" if result.verdict.promoted else "not promoted"
    first = f"{config.sweep.name} v{result.version} {against}: {word}"
    return [first, *_differs(asked), *result.verdict.lines]


def _differs(asked: EvaluateConfig) -> list[str]:
    """Return in what the gate's evaluation differs from the study's."""
    if asked.repeats == 1:
        return []
    how = asked.generation
    return [
        f"the study asks each prompt {asked.repeats} times (repeats={asked.repeats}); the gate "
        "pairs prompts, whose answers must be independent, so it judges the first answer alone "
        f"(generation.temperature={how.temperature:g}, generation.seed={how.seed})"
    ]


@dataclass(frozen=True)
class Gated:
    """The model that the gate judges in place of what a study evaluated.

    Attributes:
        uri: URI of the logged model.
        note: How it differs from the trained one; empty where it is that.
        not_gated: Reason why the gate cannot judge what the study evaluated; empty if it can.
    """

    uri: str
    note: str = ""
    not_gated: str = ""


def as_evaluated(study: Study, config: SweepConfig, model_uri: str) -> Gated:
    """Return a model as the study evaluates it: with the study's mitigation on, if it has one.

    A mitigation of the weights or of the chat template is written into a logged model of its own,
    which can be gated and served; one that takes part in decoding cannot.
    """
    asked = _evaluation(study, config, model_uri, half="test")
    if not asked.mitigated:
        return Gated(model_uri)
    name = asked.mitigation.name
    if asked.mitigation.unservable:
        why = (
            f"the study evaluates with mitigation={name}, which {asked.mitigation.unservable}; the "
            "model without it is not what was measured"
        )
        return Gated(model_uri, f"without mitigation={name}, which the study's numbers have", why)
    from tbr_lightning.mitigations.log_mitigated import keep

    return Gated(keep(asked, model_uri), f"with mitigation={name}, as the study evaluates it")


def _sets(word: str, *keys: str) -> bool:
    """Return whether an override sets one of these keys or something below it."""
    name = word.lstrip("+~").partition("=")[0]
    return any(name == key or name.startswith((f"{key}.", f"{key}@")) for key in keys)


def _metrics(study: Study, train: str, evaluate: str | None) -> dict[str, float]:
    """Return what the study is about of what the two runs have logged, with intervals."""
    found: dict[str, float] = {}
    for run_id in (train, evaluate):
        if run_id:
            found |= Run(run_id).numbers()
    ends = ("", "_lo", "_hi", "_n")
    names = [f"{name}{end}" for name in told_metrics(study) for end in ends]
    return {name: found[name] for name in names if name in found}


def _there(made: RetrainedModel) -> bool:
    """Return whether a model is still in the store."""
    from tbr_lightning.models.logged import find_model

    with suppress(UserError):
        find_model(made.model_uri)
        return True
    return False
