"""The verb ``sweep``: an Optuna study whose trials are ordinary training and evaluation runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tbr_lightning import cli
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.sweeping.claims import Claim
    from tbr_lightning.sweeping.folder import Spec
    from tbr_lightning.sweeping.runner import Limits
    from tbr_lightning.sweeping.study import Study


def command(config: SweepConfig) -> int:
    """Run what is left of the study's budget, and end the study."""
    from tbr_lightning.sweeping.objectives import check_names
    from tbr_lightning.sweeping.study import load_checked

    study, trains = load_checked(config.study, config.sweep.config_dir)
    evaluation = _evaluation(study, config)
    check_names(study, trains, evaluation)
    trials = _budget(study, config)
    workers = config.sweep.workers or study.workers
    if config.dry_run:
        from tbr_lightning.sweeping.outlook import dry_run

        dry_run(study, config, trials, workers)
        return 0
    _run(study, config, [_here(one, config) for one in trains], evaluation)
    return 0


def _run(
    study: Study, config: SweepConfig, trains: list[TrainConfig], evaluation: EvaluateConfig
) -> None:
    from tbr_lightning.sweeping import process, runner
    from tbr_lightning.sweeping.owner import owner_of
    from tbr_lightning.sweeping.shared import prepare_shared
    from tbr_lightning.sweeping.storage import open_study
    from tbr_lightning.sweeping.trial import Around
    from tbr_lightning.sweeping.view import View

    limits = _limits(study, config)
    opened = open_study(study, config.storage, grace=limits.grace, new=config.sweep.new)
    _check(trains)
    os.environ["OMP_NUM_THREADS"] = str(runner.threads_each(limits.workers))
    process.warm_up()
    root = runner.trials_root(config.paths, study)
    me = owner_of()
    around = Around(config.tracking, config.paths, me.pid, me.started)
    view = View(study, opened, limits.budget.trials, limits.workers)
    view.look()
    print(
        f"study {study.key}: {view.done} of {limits.budget.trials} trials are there"
        f"{f' ({study.about})' if study.about else ''}",
        flush=True,
    )
    if view.done < limits.budget.trials:
        prepare_shared(trains, root)
    from tbr_lightning.sweeping import finish, mirror

    with mirror.parent_run(study, config, opened.study, alone=opened.locked) as run_id:

        def told(number: int) -> None:
            view.told(number)
            mirror.refresh(opened.study, study, run_id)

        hooks = runner.Hooks(
            prepare=partial(_prepare, study, config, evaluation, run_id),
            ended=partial(mirror.close_child, run_id),
            told=told,
            tick=view.tick,
            said=view.say,
        )
        with view:
            runner.run(study, opened, limits, around, hooks)
        view.look()
        opened.study.set_user_attr("finished", True)
        print(_counted(view.counts, limits.budget.trials), flush=True)
        for line in finish.finish(study, config, opened.study, run_id, alone=opened.locked):
            print(line, flush=True)


def _prepare(
    study: Study,
    config: SweepConfig,
    evaluation: EvaluateConfig,
    run_id: str,
    claim: Claim,
    slot: int,
) -> Spec:
    """Compose a trial's configs and write them into its folder."""
    from tbr_lightning.sweeping.folder import Spec
    from tbr_lightning.sweeping.objectives import reported
    from tbr_lightning.sweeping.runner import threads_each, trials_root
    from tbr_lightning.sweeping.saved import save
    from tbr_lightning.sweeping.space import overrides_of
    from tbr_lightning.sweeping.trial import ENTRY

    point = dict(claim.point)
    seeds = study.first_seeds
    if "seed" in point:
        seeds = [int(str(point["seed"]))]
    overrides = [*study.fixed, *overrides_of({k: v for k, v in point.items() if k != "seed"})]
    folder = trials_root(config.paths, study) / str(claim.number)
    folder.mkdir(parents=True, exist_ok=True)
    made = compose_verb("train", overrides, config.sweep.config_dir).config
    for seed in seeds:
        save(replace(_here(made, config), seed=seed), folder / f"train-{seed}.yaml")
    save(evaluation, folder / "evaluate.yaml")
    workers = config.sweep.workers or study.workers
    wilcoxon = study.pruner is not None and study.pruner["name"] == "wilcoxon"
    return Spec(
        entry=ENTRY,
        study=study.key,
        number=claim.number,
        point=point,
        overrides=overrides,
        seeds=seeds,
        metrics=list(study.objectives),
        metric=reported(study),
        blocks=wilcoxon,
        parent_run=run_id,
        ranks=made.trainer.devices,
        threads=made.trainer.threads or threads_each(workers),
        device=_device(made, slot, workers),
        reuse=config.sweep.reuse,
        again=claim.again,
    )


def _evaluation(study: Study, config: SweepConfig) -> EvaluateConfig:
    overrides = ["model=tiny", *study.evaluate]
    made: EvaluateConfig = compose_verb("evaluate", overrides, config.sweep.config_dir).config
    if made.suite.half != "dev":
        raise UserError(
            f"evaluate: suite.half={made.suite.half} would let the study choose on prompts that "
            "reports and the gate need: add suite.half=dev"
        )
    # Traces of every trial's answers would fill the store; the answers themselves are kept.
    return replace(made, tracking=config.tracking, paths=config.paths, traces=0)


def _here(config: TrainConfig, sweep: SweepConfig) -> TrainConfig:
    """Write to the study's own store and folders."""
    return replace(config, tracking=sweep.tracking, paths=sweep.paths)


def _check(trains: list[TrainConfig]) -> None:
    """Tell what some trial would lack before anything long begins."""
    from tbr_lightning.config.preflight import missing_for

    missing = {
        sentence: None
        for one in trains
        for sentence in missing_for(one.model, one.data, one.reflection, one.trainer, one.adapter)
    }
    for one in trains:
        if one.trainer.num_nodes > 1:
            missing[
                f"trainer.num_nodes={one.trainer.num_nodes}: a trial runs on one machine: give "
                "trainer.num_nodes=1, and start the sweep on each machine with one storage"
            ] = None
    if missing:
        raise UserError("\n".join(missing))


def _limits(study: Study, config: SweepConfig) -> Limits:
    from tbr_lightning.sweeping.claims import Budget
    from tbr_lightning.sweeping.runner import Limits

    given = config.sweep
    hours, minutes = given.hours or study.hours, given.timeout or study.timeout
    return Limits(
        budget=Budget(_budget(study, config), None if hours is None else 3600 * hours),
        workers=given.workers or study.workers,
        timeout=None if minutes is None else 60 * minutes,
        memory=given.memory or study.memory,
        max_failures=given.max_failures or study.max_failures,
        retries=given.retries,
        grace=given.grace,
    )


def _budget(study: Study, config: SweepConfig) -> int:
    wanted = config.sweep.trials or study.trials
    return min(wanted, len(study.space.cells())) if study.sampler["name"] == "grid" else wanted


def _device(config: TrainConfig, slot: int, workers: int) -> int | None:
    """Return the GPU of a trial, where trials at the same time would share the first of several."""
    if workers == 1 or config.trainer.devices > 1 or config.trainer.accelerator == "cpu":
        return None
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    gpus = len(listed.stdout.strip().splitlines())
    return slot % gpus if gpus > 1 else None


def _counted(counts: dict[str, int], budget: int) -> str:
    done = counts.get("COMPLETE", 0) + counts.get("PRUNED", 0)
    more = [
        f"{counts[state]} {word}"
        for state, word in (
            ("PRUNED", "of them pruned"),
            ("FAIL", "failed"),
            ("RUNNING", "running elsewhere"),
        )
        if counts.get(state)
    ]
    return f"{done} of {budget} trials finished" + "".join(f", {one}" for one in more)


if __name__ == "__main__":
    sys.exit(cli.main("sweep"))
