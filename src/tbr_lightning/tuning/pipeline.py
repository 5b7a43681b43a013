"""From a study file to its front and a registered model; trials are ordinary runs.

Run again, the same command finishes what is left of the budget; two at once share it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from tbr_lightning.config.sweep import SweepSettings
    from tbr_lightning.tuning.conclude import Summarise
    from tbr_lightning.tuning.executor import Executor
    from tbr_lightning.tuning.plan import Plan
    from tbr_lightning.tuning.runner import Limits
    from tbr_lightning.tuning.storage import Opened
    from tbr_lightning.tuning.view import View


def run(config: SweepConfig, summarise: Summarise | None = None) -> None:
    """Run what is left of the study's budget, and end the study; see :mod:`.conclude`."""
    from tbr_lightning.tuning.plan import make_plan, threads_each

    plan = make_plan(config)
    if config.dry_run:
        from tbr_lightning.tuning.dry_run import dry_run

        dry_run(plan)
        return
    plan.check()
    from tbr_lightning.tuning import local_executor
    from tbr_lightning.tuning.storage import open_study
    from tbr_lightning.tuning.view import View

    study, limits = plan.study, plan.limits
    opened = open_study(study, config.storage, grace=limits.grace, new=config.sweep.new)
    if config.sweep.executor == "local":
        # The trials' process imports the stack while this one reads the study.
        local_executor.warm_up(threads_each(limits.workers))
    view = View(study, opened, plan.trials, limits.workers)
    view.look()
    about = f" ({study.about})" if study.about else ""
    print(f"study {study.key}: {view.done} of {plan.trials} trials are there{about}", flush=True)
    _run(plan, opened, view, summarise)


def _run(plan: Plan, opened: Opened, view: View, summarise: Summarise | None) -> None:
    from tbr_lightning.processes import identity_of
    from tbr_lightning.tuning import conclude, mlflow_sync, runner
    from tbr_lightning.tuning.folder import trials_root
    from tbr_lightning.tuning.trial import TrialContext
    from tbr_lightning.tuning.warm_cache import warm_caches

    config, study, me = plan.config, plan.study, identity_of()
    root = trials_root(config.paths, study.key)
    executor = _executor(config.sweep, root / "jobs", plan.limits)
    around = TrialContext(config.tracking, config.paths, me.pid, me.started)
    if view.done < plan.trials:
        opened.study.set_user_attr("finished", False)
        warm_caches(plan.trains, root)
    with mlflow_sync.parent_run(study, config, opened) as run_id:

        def told(number: int) -> None:
            view.told(number)
            mlflow_sync.refresh(opened.study, study, run_id)

        hooks = runner.Hooks(
            prepare=lambda claim, slot: plan.spec(claim, slot, run_id),
            ended=lambda number, status, why: mlflow_sync.close_child(run_id, number, status, why),
            told=told,
            tick=view.tick,
            said=view.say,
            executor=executor,
        )
        with view.showing():
            runner.run(study, opened, plan.limits, around, hooks)
        view.look()
        opened.study.set_user_attr("finished", True)
        print(_counted(view.counts, plan.trials), flush=True)
        for line in conclude.finish(study, config, opened, run_id, summarise):
            print(line, flush=True)


def _executor(settings: SweepSettings, folder: Path, limits: Limits) -> Executor:
    """Return the executor of a sweep.

    Args:
        settings: Sweep settings: the executor, and what a trial asks for.
        folder: Folder for a scheduler's own files.
        limits: Limits of the command line, or else of the study.

    Raises:
        UserError: Its package is not installed.
    """
    settings = replace(settings, memory=limits.memory)
    try:
        if settings.executor == "ray":
            from tbr_lightning.tuning.ray_executor import RayExecutor

            return RayExecutor(settings)
        if settings.executor == "submitit":
            from tbr_lightning.tuning.submitit_executor import SubmititExecutor

            return SubmititExecutor(settings, folder, limits.timeout)
    except ModuleNotFoundError as error:
        raise UserError(
            f"sweep.executor={settings.executor} needs the package {error.name}: pip install "
            f"'tbr-lightning[{settings.executor}]'"
        ) from error
    from tbr_lightning.tuning.local_executor import LocalExecutor

    return LocalExecutor()


def _counted(counts: dict[str, int], budget: int) -> str:
    done = counts.get("COMPLETE", 0) + counts.get("PRUNED", 0)
    words = {"PRUNED": "of them pruned", "FAIL": "failed", "RUNNING": "running elsewhere"}
    more = [f"{counts[state]} {word}" for state, word in words.items() if counts.get(state)]
    return ", ".join([f"{done} of {budget} trials finished", *more])
