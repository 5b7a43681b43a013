"""A study with the command line's settings: limits, evaluation, and each trial's configs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.errors import UserError, near
from tbr_lightning.preflight import missing_for
from tbr_lightning.processes import cores
from tbr_lightning.tuning.folder import Spec, trials_root
from tbr_lightning.tuning.reuse import save
from tbr_lightning.tuning.runner import Limits
from tbr_lightning.tuning.scheduling import Budget, Claim
from tbr_lightning.tuning.space import cells
from tbr_lightning.tuning.study import Study, load_study
from tbr_lightning.tuning.trial import ENTRY

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


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep."""

    config: SweepConfig  # config of the command
    study: Study  # study as its file describes it
    trains: list[TrainConfig]  # configs in which every choice and every end of a range occurs
    evaluation: EvaluateConfig  # evaluation config of every trial
    missing: str = ""  # reason why a dry run could not check the names of metrics

    @property
    def workers(self) -> int:
        """Number of trials at the same time here."""
        return self.config.sweep.workers or self.study.workers

    @property
    def trials(self) -> int:
        """Number of finished trials to reach."""
        wanted = self.config.sweep.trials or self.study.trials
        grid = self.study.sampler["name"] == "grid"
        return min(wanted, len(cells(self.study.space))) if grid else wanted

    @property
    def limits(self) -> Limits:
        """Limits of the command line, or else of the file."""
        given, study = self.config.sweep, self.study
        hours, minutes = given.hours or study.hours, given.timeout or study.timeout
        return Limits(
            budget=Budget(self.trials, None if hours is None else 3600 * hours),
            workers=self.workers,
            timeout=None if minutes is None else 60 * minutes,
            memory=given.memory or study.memory,
            max_failures=given.max_failures or study.max_failures,
            retries=given.retries,
            grace=given.grace,
        )

    def check(self) -> None:
        """Report what some trial would lack before anything long begins.

        Raises:
            UserError: Something is missing; one sentence for each thing.
        """
        missing = [
            sentence
            for one in self.trains
            for sentence in missing_for(
                one.model, one.data, one.reflection, one.trainer, one.adapter
            )
        ]
        missing += [
            f"trainer.num_nodes={one.trainer.num_nodes}: a trial runs on one machine: give "
            "trainer.num_nodes=1, and start the sweep on each machine with one storage"
            for one in self.trains
            if one.trainer.num_nodes > 1
        ]
        if missing:
            raise UserError("\n".join(dict.fromkeys(missing)))

    def spec(self, claim: Claim, slot: int, run_id: str) -> Spec:
        """Compose a trial's configs, write them into its folder, and return its spec.

        Args:
            claim: The trial.
            slot: Index among the trials that run at the same time.
            run_id: ID of the study's MLflow run.

        Raises:
            UserError: The trial's config does not compose.
        """
        study, point = self.study, dict(claim.point)
        executor = self.config.sweep.executor
        seeds = [int(str(point["seed"]))] if "seed" in point else study.first_seeds
        rest = {key: value for key, value in point.items() if key != "seed"}
        overrides = study.overrides(rest)
        made = compose_verb("train", overrides, self.config.sweep.config_dir).config
        folder = trials_root(self.config.paths, study.key) / str(claim.number)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            save(replace(here(made, self.config), seed=seed), folder / f"train-{seed}.yaml")
        save(self.evaluation, folder / "evaluate.yaml")
        return Spec(
            entry=ENTRY,
            study=study.key,
            number=claim.number,
            point=point,
            overrides=overrides,
            seeds=seeds,
            metrics=list(study.objectives),
            metric=study.reported,
            blocks=study.pruner is not None and study.pruner["name"] == "wilcoxon",
            parent_run=run_id,
            ranks=made.trainer.devices,
            threads=made.trainer.threads or self.config.sweep.cpus or threads_each(self.workers),
            # A scheduler gives a trial its devices itself.
            device=_device(made, slot, self.workers) if executor == "local" else None,
            reuse=self.config.sweep.reuse,
            again=claim.again,
        )


def make_plan(config: SweepConfig) -> Plan:
    """Read the study and compose what can be composed before the first trial.

    Raises:
        UserError: The study is wrong, or would choose by numbers that no run logs or on prompts
            that are kept for the end.
    """
    study, trains = load_study(config.study, config.sweep.config_dir)
    words = ["model=tiny", *study.evaluate]
    evaluation: EvaluateConfig = compose_verb("evaluate", words, config.sweep.config_dir).config
    if evaluation.suite.half != "dev":
        raise UserError(
            f"evaluate: suite.half={evaluation.suite.half} would let the study choose on prompts "
            "that reports and the gate need: add suite.half=dev"
        )
    missing = ""
    try:
        check_names(study, trains, evaluation)
    except UserError as error:
        if not config.dry_run:
            raise
        missing = str(error)  # prompts that are not here do not keep one from a plan
    # Traces of every trial's answers would fill the store; the answers themselves are kept.
    evaluation = replace(
        evaluation, tracking=config.tracking, paths=config.paths, traces=0, genai_dataset=False
    )
    return Plan(config, study, [here(one, config) for one in trains], evaluation, missing)


def here(config: TrainConfig, sweep: SweepConfig) -> TrainConfig:
    """Return the config with the study's own store and folders."""
    return replace(config, tracking=sweep.tracking, paths=sweep.paths)


def threads_each(workers: int) -> int:
    """Return the number of cores for each of several trials at once."""
    return max(1, cores() // workers)


def _device(config: TrainConfig, slot: int, workers: int) -> str | None:
    """Return the GPUs of a trial, where trials at the same time would share the first of them."""
    if workers == 1 or config.trainer.accelerator == "cpu":
        return None
    gpus, each = _visible_gpus(), config.trainer.devices
    if len(gpus) <= each:
        return None
    first = slot % (len(gpus) // each) * each
    return ",".join(gpus[first : first + each])


def _visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:  # by a scheduler: by number or by UUID
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number in range(len(listed.stdout.strip().splitlines()))]


def check_names(study: Study, trains: Iterable[TrainConfig], evaluation: EvaluateConfig) -> None:
    """Refuse objectives and constraints that no run of the study would log.

    Args:
        study: Study as its file describes it.
        trains: Training configs of some of its points.
        evaluation: Evaluation config of every point.

    Raises:
        UserError: A name is unknown; the message has the near match.
    """
    trains = list(trains)
    known = [*evaluation_names(evaluation), *_TRAINING]
    if any(config.data.validation for config in trains):
        known.append("validation/loss")
    if all(config.trainer.eval_every for config in trains):
        known += [f"probe/{name}" for name in _PROBED]
    wanted = [("objectives", name) for name in study.objectives]
    wanted += [("constraints", one.metric) for one in study.bounds]
    wanted += [("hypotheses", one.metric) for one in study.hypotheses]
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
    _check_reports(study, study.reported, trains)


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
        UserError: The suite's prompts or questions are not available.
    """
    from tbr_lightning.evaluation.judged_response import Judged
    from tbr_lightning.evaluation.questions import prepare
    from tbr_lightning.evaluation.results import metrics
    from tbr_lightning.evaluation.suites import load_suite

    rows = [
        replace(
            Judged.unseen(prompt, prompt.reference or "yes", reflection="harmless"),
            label="full_compliance",
        )
        for prompt in load_suite(config.suite)
    ]
    names = list(metrics(rows))
    tasks = [f"general/{task}" for task in {one.task for one in prepare(config.suite)}]
    return names + [f"{task}{end}" for task in tasks for end in ("", "_lo", "_hi", "_n")]
