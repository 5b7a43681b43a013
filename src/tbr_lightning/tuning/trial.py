"""One trial, in a process of its own: training and evaluation for each seed.

``python -m tbr_lightning.tuning.trial FOLDER`` runs what ``FOLDER/trial.json`` describes; where to
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
from typing import TYPE_CHECKING

from tbr_lightning import processes
from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.outages import OutageError, outage
from tbr_lightning.training.trial_pruning_channel import Pruned, PruningChannel
from tbr_lightning.tuning.folder import Spec, TrialFolder, TrialResult

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
    from tbr_lightning.tuning import reuse

ENTRY = "tbr_lightning.tuning.trial:train_and_evaluate"
"""What a trial of a study does."""

_LONGEST_WAIT = 30.0  # seconds between two looks whether the tracker answers again


@dataclass(frozen=True)
class TrialContext:
    """The context of a trial, which is not written to its folder."""

    tracking: TrackingConfig  # where its runs are written
    paths: PathsConfig  # folders
    runner: int  # process id of the runner, without which the trial may not live
    runner_started: float  # when that process started

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
    """Run in the process of a trial: run its entry, and write how it ended."""
    if os.getpid() != os.getsid(0):
        os.setsid()  # with all that it starts it can be ended as one
    folder = TrialFolder(Path(path))
    _write_to(folder.log)
    processes.die_with(around.runner, around.runner_started, _end_all)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from tbr_lightning.processes import quiet

    quiet()
    start = time.monotonic()
    spec = folder.spec()
    _share_machine(spec)
    module, _, function = spec.entry.partition(":")
    try:
        result: TrialResult = getattr(import_module(module), function)(spec, folder, around)
    except KeyboardInterrupt as error:
        # Those whom a pruner stopped end in the same way as those who were killed.
        pruned = PruningChannel(folder.path).pruned
        words = str(error) or "pruned"
        result = (
            TrialResult("pruned", words) if pruned else TrialResult("interrupted", "it was stopped")
        )
    except BaseException as error:
        traceback.print_exc()
        is_outage = isinstance(error, OutageError) or outage(error) is not None
        result = TrialResult("outage" if is_outage else "failed", _reason(error))
    folder.finish(replace(result, seconds=time.monotonic() - start))
    sys.stdout.flush()
    sys.stderr.flush()


def train_and_evaluate(spec: Spec, folder: TrialFolder, around: TrialContext) -> TrialResult:
    """Train and evaluate one point of a study's space with each seed, reusing finished runs."""
    from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
    from tbr_lightning.data.cache import content_key
    from tbr_lightning.tracking.run import Run
    from tbr_lightning.tuning import reuse
    from tbr_lightning.tuning.mlflow_sync import trial_run
    from tbr_lightning.tuning.outcome import over_seeds

    _connect(around.tracking)
    where = (around.tracking, around.paths)
    files = [folder.path / f"train-{seed}.yaml" for seed in spec.seeds]
    trains = [reuse.load(TrainConfig, file, *where) for file in files]
    evaluation = reuse.load(EvaluateConfig, folder.path / "evaluate.yaml", *where)
    watched = spec.metric is not None or spec.blocks
    channel = PruningChannel(folder.path, spec.metric or "") if watched else None
    keys: list[str] = []
    numbers: list[dict[str, float]] = []
    runs: list[reuse.SeedRun] = []
    with trial_run(spec.parent_run, spec.study, spec.number, spec.point, trains[0]):
        for train in trains:
            key = reuse.train_key(train)
            keys.append(reuse.evaluate_key(evaluation, key))
            # One report for a trial: that of its first seed.
            asked = channel if not runs and spec.metric else None
            runs.append(_one(spec, train, evaluation, (key, keys[-1]), asked))
            numbers.append({**Run(runs[-1].train).metrics(), **Run(runs[-1].evaluate).numbers()})
            if spec.blocks and channel is not None and train is not trains[-1]:
                _compare(channel, spec, runs)
    metrics, intervals = over_seeds(numbers)
    return TrialResult(
        "complete", "", metrics, intervals, list(map(asdict, runs)), content_key(keys)
    )


def _connect(tracking: TrackingConfig) -> None:
    """Connect to the tracker; where it is away, wait for it, so that no outage costs a trial."""
    from tbr_lightning.tracking.store import connect

    wait = 1.0
    while True:
        try:
            connect(tracking)
        except OutageError as error:
            print(f"{error}; this trial waits for it", flush=True)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        else:
            return


def _one(
    spec: Spec,
    train: TrainConfig,
    evaluation: EvaluateConfig,
    keys: tuple[str, str],
    channel: PruningChannel | None,
) -> reuse.SeedRun:
    """Train and evaluate with one seed, reusing finished runs."""
    from tbr_lightning.evaluation import pipeline as evaluating
    from tbr_lightning.tuning import reuse

    start = time.monotonic()
    called = f"trial {spec.number} seed {train.seed}"
    tags = {"tbr.study": spec.study, "tbr.trial": str(spec.number)}
    trained = reuse.train_or_take(
        replace(
            train,
            run_name=f"train {called}",
            tags={**train.tags, **tags},
            resume=reuse.find_interrupted(train, tags) if spec.again else None,
        ),
        keys[0],
        take=spec.reuse,
        channel=channel,
    )
    evaluated = reuse.find_evaluated(keys[1], trained) if trained.reused else None
    reused = evaluated is not None
    if evaluated is None:
        config = replace(
            evaluation,
            model_uri=trained.model_uri,
            run_name=f"evaluate {called}",
            tags={**evaluation.tags, **tags, reuse.KEY: keys[1]},
        )
        # Nobody looks at the figures of most trials: `evaluate draw` makes them.
        evaluated = evaluating.run(config, figures=False).run_id
    seconds = time.monotonic() - start
    return reuse.SeedRun(
        train.seed, trained.run_id, evaluated, trained.model_uri, reused=reused, seconds=seconds
    )


def _compare(channel: PruningChannel, spec: Spec, runs: list[reuse.SeedRun]) -> None:
    """Report the answers to each prompt with the last seed; raise if the pruner says stop."""
    answers = answers_as_numbers(runs[-1].evaluate, spec.metrics[0])
    first = (len(runs) - 1) * len(answers)
    if channel.ask({first + index: value for index, value in enumerate(answers)}):
        raise Pruned(f"pruned after seed {runs[-1].seed}")


def answers_as_numbers(run_id: str, metric: str) -> list[float]:
    """Return 1 for each prompt of an evaluation that counts for a rate, 0 for each that does not.

    The order is that of the prompts' ids, so that it is the same in every trial. A prompt without
    a verdict counts as 0.5.

    Args:
        run_id: Run of the evaluation.
        metric: Name of a rate.

    Raises:
        UserError: The metric is not a rate over prompts.
    """
    from tbr_lightning.evaluation.evaluation_result import RESPONSES
    from tbr_lightning.evaluation.judged_response import from_table
    from tbr_lightning.evaluation.results import MEASURES
    from tbr_lightning.tracking.run import Run

    measure = next((one for one in MEASURES if one.name == metric), None)
    if measure is None:
        raise UserError(
            f"objectives.{metric} is not a rate over prompts: leave pruner=wilcoxon out"
        )
    rows = [row for row in from_table(Run(run_id).text(RESPONSES)) if row.kind == measure.kind]
    rows.sort(key=lambda row: row.id)
    return [float(measure.hit(row)) if measure.counts(row) else 0.5 for row in rows]


def _share_machine(spec: Spec) -> None:
    """Restrict this trial to its share of the cores, or to its GPUs."""
    if spec.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.device
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


def _reason(error: BaseException) -> str:
    """Return an error in one line; of a rank's, what the rank itself raised."""
    if isinstance(error, UserError):
        return in_one_line(error)
    if isinstance(error, MemoryError):
        return "out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b: ", line)]
    if raised:
        return raised[-1][:500]
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")[:500]


if __name__ == "__main__":
    enter(sys.argv[1], TrialContext.from_json(sys.stdin.read()))
