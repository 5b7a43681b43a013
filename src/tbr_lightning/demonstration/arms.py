"""Every arm of the comparison, trained and evaluated through the ordinary commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.verbs import DemoVerbConfig
from tbr_lightning.evaluation import pipeline as evaluation
from tbr_lightning.evaluation.figures import pool
from tbr_lightning.evaluation.findings import asked_of
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import rates
from tbr_lightning.evaluation.statistics import Rate
from tbr_lightning.tracking.run import Run
from tbr_lightning.training import pipeline as training


@dataclass(frozen=True)
class ArmResult:
    """The result of one arm with one seed.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the tuning; ``None`` for an arm that is not tuned.
        rows: Judged answers of the arm to the test prompts.
        model_uri: The logged model, if one was trained.
        supervised_tokens: Number of supervised tokens seen in training, all epochs together.
        choices: Accuracy of general ability by task of lm-eval.
        run_id: ID of the evaluation's run.
        judge: Name of the judge.
        notices: What its evaluation says that a reader must know.
        label: Display name of the model, as every figure has it.
        asked: Which prompts it was asked and who judged, in words.
    """

    arm: str
    seed: int | None
    rows: list[Judged]
    model_uri: str | None = None
    supervised_tokens: int = 0
    choices: Mapping[str, Rate] = field(default_factory=dict)
    run_id: str = ""
    judge: str = ""
    notices: tuple[str, ...] = ()
    label: str = ""
    asked: str = ""

    def general(self) -> Rate:
        """Return the share of general prompts answered correctly; without such, of the choices."""
        found = rates(self.rows).general_accuracy
        return found if found.n or not self.choices else pool(list(self.choices.values()))


def plan(config: DemoVerbConfig) -> list[tuple[str, int | None]]:
    """Return arms with seeds in the order they are run; untuned arms come once."""
    seeds = range(config.demo.first_seed, config.demo.first_seed + config.demo.seeds)
    steps: list[tuple[str, int | None]] = []
    for name, arm in config.demo.arms.items():
        steps += [(name, None)] if arm.train is None else [(name, seed) for seed in seeds]
    return steps


def outcomes(config: DemoVerbConfig, tags: dict[str, str]) -> Iterator[ArmResult]:
    """Train and evaluate every arm with every seed, each run carrying ``tags``."""
    for name, seed in plan(config):
        yield _outcome(config, name, seed, {**tags, "tbr.demo_arm": name})


def _outcome(
    config: DemoVerbConfig, name: str, seed: int | None, tags: dict[str, str]
) -> ArmResult:
    arm = config.demo.arms[name]
    demo = config.demo
    model, trained = demo.model, None
    if arm.train is not None:
        overrides = [f"model={demo.model}", *demo.rows, *demo.train, *arm.train]
        settings = _within(config, compose_verb("train", [*overrides, f"seed={seed}"]).config)
        title = f"train {name} seed {seed}"
        trained = training.run(replace(settings, run_name=title, tags=tags))
        model = trained.model_uri
    overrides = [f"model='{model}'", *demo.suite, *demo.evaluate, *arm.evaluate]
    settings = _within(config, compose_verb("evaluate", overrides).config)
    title = f"evaluate {name}" + (f" seed {seed}" if seed is not None else "")
    notices: list[str] = []
    judged = evaluation.run(
        replace(settings, run_name=title, tags=tags, traces=0, genai_dataset=False),
        tell=notices.append,
    )
    numbers = Run(judged.run_id).numbers()
    choices = {
        task: Rate(round(numbers[f"general/{task}"] * n), n)
        for task in settings.suite.lm_eval
        if (n := int(numbers.get(f"general/{task}_n", 0)))
    }
    return ArmResult(
        name,
        seed,
        judged.rows,
        trained.model_uri if trained else None,
        trained.supervised_tokens if trained else 0,
        choices,
        judged.run_id,
        settings.judge.name,
        tuple(notices),
        judged.label,
        asked_of(settings.suite, settings.judge, judged.rows),
    )


def _within(config: DemoVerbConfig, settings: Any) -> Any:
    """Return settings with the demo's own store and folders."""
    return replace(settings, tracking=config.tracking, paths=config.paths)
