"""The verb ``sweep``: an Optuna study whose trials are ordinary training and evaluation runs."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tbr_lightning import cli
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.verbs import SweepConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    import optuna

    from tbr_lightning.sweeping.study import Study


def command(config: SweepConfig) -> int:
    """Run what is left of the study's budget and print its Pareto front."""
    import optuna
    from optuna.trial import TrialState

    from tbr_lightning.sweeping.study import load_study, open_study
    from tbr_lightning.tracking import runs

    study = load_study(config.study)
    budget = config.trials or study.trials
    storage = open_study(study, config.storage)
    # One process runs a study here, so what is marked running was left behind by a killed one.
    for stale in storage.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        storage.tell(stale.number, state=TrialState.FAIL)
    done = len(storage.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    print(f"study {study.key}: {done} of {budget} trials are there ({study.about})", flush=True)
    with runs.start_run("sweep", f"sweep {study.name}", config, config.tracking) as opened:
        runs.log_text(str(dict(study.settings)), "study.txt")
        failures = 0
        while done < budget:
            trial = storage.ask(study.space)
            try:
                values = _trial(config, study, trial)
            except (UserError, FloatingPointError) as error:
                # One bad trial is a failed trial, not the end of a study.
                storage.tell(trial, state=TrialState.FAIL)
                failures += 1
                print(f"trial {trial.number} failed: {error}", file=sys.stderr)
                if failures > budget:
                    raise UserError(f"{failures} trials failed, the last: {error}") from error
                continue
            storage.tell(trial, values)
            done += 1
            print(f"[{done}/{budget}] {_line(study, trial.params, values)}", flush=True)
        front = storage.best_trials
        runs.log_metrics({"trials": done, "trials_failed": failures, "pareto_front": len(front)})
        runs.log_table(
            [
                {**one.params, **dict(zip(study.objectives, one.values, strict=True))}
                for one in front
            ],
            "pareto.json",
        )
        if len(study.objectives) == 2:
            names = list(study.objectives)
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            axes = optuna.visualization.matplotlib.plot_pareto_front(storage, target_names=names)
            axes.figure.set_size_inches(8, 6)
            runs.log_figure(axes.figure, "pareto.png")
    print("Pareto front (dev half):")
    for one in front:
        print(f"  {_line(study, one.params, one.values)}")
    print(f"run {opened.id}")
    return 0


def _trial(config: SweepConfig, study: Study, trial: optuna.Trial) -> list[float]:
    """Train and evaluate one point of the space; return its objectives."""
    from tbr_lightning import evaluate, train
    from tbr_lightning.evaluation.results import metrics
    from tbr_lightning.sweeping.study import overrides_of

    def within(verb: str, overrides: list[str]) -> Any:
        settings = compose_verb(verb, overrides).config
        return replace(settings, tracking=config.tracking, paths=config.paths)

    words = [*study.fixed, f"seed={study.seed}", *overrides_of(trial.params)]
    tags = {"tbr.study": study.key, "tbr.trial": str(trial.number)}
    settings = within("train", words)
    trained = train.run(replace(settings, run_name=f"trial {trial.number}", tags=tags))
    words = [f"model='{trained.model_uri}'", *study.evaluate]
    found = evaluate.run(replace(within("evaluate", words), tags=tags, traces=0))
    numbers = metrics(found.rows)
    for name in study.objectives:
        if name not in numbers:
            raise UserError(f"objectives.{name}: no evaluation logs it: use one of {list(numbers)}")
    return [numbers[name] for name in study.objectives]


def _line(study: Study, params: dict[str, Any], values: Any) -> str:
    point = ", ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items()
    )
    reached = ", ".join(f"{k} {v:.3f}" for k, v in zip(study.objectives, values, strict=True))
    return f"{reached}  ({point})"


if __name__ == "__main__":
    sys.exit(cli.main("sweep"))
