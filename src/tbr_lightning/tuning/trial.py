"""One trial, in a process of its own: training and evaluation for each seed.

``python -m tbr_lightning.tuning.trial FOLDER`` runs what ``FOLDER/trial.json`` says; where to
track is read from standard input, since it may hold a password.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbr_lightning import processes
from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.tuning.folder import Result, Spec, TrialFolder

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
    from tbr_lightning.training.pruning_channel import PruningChannel

ENTRY = "tbr_lightning.tuning.trial:train_and_evaluate"
"""What a trial of a study does."""


@dataclass(frozen=True)
class TrialContext:
    """What surrounds a trial and is not written to its folder.

    Attributes:
        tracking: Where its runs are written.
        paths: Folders.
        runner: Process id of the runner, without which the trial may not live.
        runner_started: When that process started.
    """

    tracking: TrackingConfig
    paths: PathsConfig
    runner: int
    runner_started: float

    def as_json(self) -> str:
        """Return it as :meth:`from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialContext:
        """Read what :meth:`as_json` wrote."""
        found = json.loads(text)
        return cls(
            TrackingConfig(**found["tracking"]),
            PathsConfig(**found["paths"]),
            found["runner"],
            found["runner_started"],
        )


def enter(path: str, around: TrialContext) -> None:
    """Be the process of a trial: run its entry, and write how it ended."""
    if os.getpid() != os.getsid(0):
        os.setsid()  # with all that it starts it can be ended as one
    folder = TrialFolder(Path(path))
    _write_to(folder.log)
    processes.die_with(around.runner, around.runner_started, _end_all)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    from tbr_lightning.processes import quiet

    quiet()
    start = time.monotonic()
    spec = folder.spec()
    _share_machine(spec)
    module, _, function = spec.entry.partition(":")
    try:
        result: Result = getattr(import_module(module), function)(spec, folder, around)
    except KeyboardInterrupt as error:
        # Those who were told to stop by a pruner end in the same way as those who were killed.
        pruned = (folder.path / "pruned").exists()
        words = str(error) or "a pruner found it hopeless"
        result = Result("pruned", words) if pruned else Result("interrupted", "it was stopped")
    except BaseException as error:
        traceback.print_exc()
        result = Result("failed", _reason(error))
    folder.finish(replace(result, seconds=time.monotonic() - start))
    sys.stdout.flush()
    sys.stderr.flush()


def train_and_evaluate(spec: Spec, folder: TrialFolder, around: TrialContext) -> Result:
    """Train and evaluate one point of a study's space with each seed, or take what is there."""
    from tbr_lightning.tracking.store import connect
    from tbr_lightning.tuning import reuse
    from tbr_lightning.tuning.mlflow_sync import trial_run
    from tbr_lightning.tuning.outcome import over_seeds
    from tbr_lightning.tuning.saved import load_evaluate, load_train

    connect(around.tracking)
    trains = [
        load_train(folder.path / f"train-{seed}.yaml", around.tracking, around.paths)
        for seed in spec.seeds
    ]
    evaluation = load_evaluate(folder.path / "evaluate.yaml", around.tracking, around.paths)
    channel = _channel(spec, folder)
    done: list[reuse.Done] = []
    with trial_run(spec.parent_run or "", spec.number, spec.point, trains[0]):
        for train, seed in zip(trains, spec.seeds, strict=True):
            tags = {"tbr.study": spec.study, "tbr.trial": str(spec.number)}
            # One report for a trial: that of its first seed.
            asked = channel if not done and spec.metric else None
            done.append(_one(spec, train, evaluation, tags, asked))
            if spec.blocks and channel is not None and seed != spec.seeds[-1]:
                _compare(channel, spec, done)
    metrics, intervals = over_seeds([one.metrics for one in done])
    runs = [one.as_dict(seed) for one, seed in zip(done, spec.seeds, strict=True)]
    return Result("complete", "", metrics, intervals, runs, reuse.trial_key(done))


def _one(
    spec: Spec,
    train: TrainConfig,
    evaluation: EvaluateConfig,
    tags: dict[str, str],
    channel: PruningChannel | None,
) -> Any:
    """Train and evaluate with one seed; what is finished already is taken."""
    from tbr_lightning.evaluation import pipeline as evaluating
    from tbr_lightning.tracking.run import Run
    from tbr_lightning.training import pipeline as training
    from tbr_lightning.tuning import reuse
    from tbr_lightning.tuning.saved import evaluate_key, train_key

    start = time.monotonic()
    key = train_key(train)
    asked = evaluate_key(evaluation, key)
    trained = reuse.find_trained(key) if spec.reuse else None
    evaluated = reuse.find_evaluated(asked, trained) if spec.reuse and trained else None
    reused = trained is not None
    if trained is None:
        resume = reuse.find_interrupted(train, tags) if spec.again else None
        config = replace(
            train,
            run_name=f"train trial {spec.number} seed {train.seed}",
            tags={**train.tags, **tags, reuse.KEY: key},
            resume=resume,
        )
        if resume is not None:
            print(f"trial {spec.number}: run {resume} goes on", flush=True)
        result = training.run(config, channel)
        trained = reuse.Trained(result.run_id, result.model_uri)
    else:
        print(f"trial {spec.number}: run {trained.run_id} has this config and seed", flush=True)
    if evaluated is None:
        config_of_it = replace(
            evaluation,
            model_uri=trained.model_uri,
            run_name=f"evaluate trial {spec.number} seed {train.seed}",
            tags={**evaluation.tags, **tags, reuse.KEY: asked},
        )
        evaluated = evaluating.run(config_of_it).run_id
        reused = False
    numbers = {**Run(trained.run_id).metrics(), **Run(evaluated).metrics()}
    return reuse.Done(
        trained.run_id,
        evaluated,
        trained.model_uri,
        numbers,
        asked,
        reused=reused,
        seconds=time.monotonic() - start,
    )


def _channel(spec: Spec, folder: TrialFolder) -> PruningChannel | None:
    from tbr_lightning.training.pruning_channel import PruningChannel

    if spec.metric is None and not spec.blocks:
        return None
    return PruningChannel(folder.path, spec.metric or "")


def _compare(channel: PruningChannel, spec: Spec, done: list[Any]) -> None:
    """Report the answers to each prompt with the last seed, and stop if the answer is to stop."""
    from tbr_lightning.training.pruning_channel import Pruned
    from tbr_lightning.tuning.prune_per_prompt import outcomes

    answers = outcomes(done[-1].evaluate, spec.metrics[0])
    first = (len(done) - 1) * len(answers)
    if channel.ask({first + index: value for index, value in enumerate(answers)}):
        raise Pruned(f"pruned after seed {spec.seeds[len(done) - 1]}")


def _share_machine(spec: Spec) -> None:
    """Keep to this trial's share of the cores, or to its GPU."""
    if spec.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(spec.device)
    if spec.threads is not None:
        import torch

        torch.set_num_threads(spec.threads)


def _write_to(log: Path) -> None:
    """Let this process and all that it starts print into a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)


def _end_all() -> None:
    """End this process and all that it started."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _reason(error: BaseException) -> str:
    """Return an error in one line; of a rank's, what the rank itself raised."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b: ", line)]
    if raised:
        return raised[-1][:500]
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")[:500]


if __name__ == "__main__":
    enter(sys.argv[1], TrialContext.from_json(sys.stdin.read()))
