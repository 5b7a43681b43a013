"""A runner of cheap trials; as a program ``cheap_main.py STUDY STORAGE RUNS [WORKERS] [GRACE]``."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.processes import identity_of
from tbr_lightning.tuning import local_executor, runner
from tbr_lightning.tuning.executor import Executor
from tbr_lightning.tuning.folder import Spec
from tbr_lightning.tuning.scheduling import Budget, Claim
from tbr_lightning.tuning.storage import Opened, open_study
from tbr_lightning.tuning.study import Study, read_study
from tbr_lightning.tuning.trial import TrialContext


def sweep(
    file: Path,
    storage: str,
    runs: Path,
    *,
    workers: int = 1,
    grace: float = 60,
    executor: Executor | None = None,
    **limits: float,
) -> tuple[Study, Opened, list[str]]:
    """Run a study of cheap trials in this process; return it and what was said."""
    # All that cheap trials need, for every start of one would import it again.
    multiprocessing.set_forkserver_preload(["tbr_lightning.tuning.trial", "tbr_lightning.cli"])
    study = read_study(file.stem, str(file), file.read_text())
    opened = open_study(study, storage, grace=grace)
    me = identity_of()
    around = TrialContext(
        TrackingConfig(uri="-"), PathsConfig(cache="-", runs=str(runs)), me.pid, me.started
    )

    def prepare(claim: Claim, slot: int) -> Spec:
        return Spec(
            entry="cheap_trials:trial",
            study=study.key,
            number=claim.number,
            point=claim.point,
            overrides=[],
            seeds=[0],
            metric=study.reported,
            ranks=int(claim.point.get("ranks") or 1),
            again=claim.again,
        )

    said: list[str] = []
    hooks = runner.Hooks(
        prepare=prepare, said=said.append, executor=executor or local_executor.LocalExecutor()
    )
    whole = runner.Limits(
        Budget(study.trials), workers, grace=grace, max_failures=study.max_failures, **limits
    )
    runner.run(study, opened, whole, around, hooks)
    return study, opened, said


def main() -> None:
    file, storage, runs, *more = sys.argv[1:]
    numbers = [int(word) for word in more]
    workers, grace = [*numbers, *(1, 60)[len(numbers) :]]
    _, opened, said = sweep(Path(file), storage, Path(runs), workers=workers, grace=grace)
    print(json.dumps({"counts": opened.counts(), "said": said}))
