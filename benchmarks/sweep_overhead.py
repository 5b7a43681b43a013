"""What the sweep's runner costs beside the trials themselves.

    python benchmarks/sweep_overhead.py [--quick]

* a trial on one device: the time from one trial's end to the next one's, less its own training and
  evaluation (bound: 3 s);
* a trial that Ray or submitit starts here, where their packages are: the same; it is a process of
  its own (bound: twice the time to import the stack in a fresh process + 5 s);
* a trial of two ranks: the same (bound: the time to import the stack in a fresh process + 2 s);
* two workers against one, a thread each, on the same trials (bound: 1.6 times as fast);
* a study of 10,000 finished trials: to read it for the first time and show its state
  (bound: 8 s), to show it again and to ask for the next point (bound: 1 s each).

``--quick`` leaves out the ranks and takes 2,000 trials.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STUDY = """
fixed: [model=tiny, data=microworld, reflection=none, data.general={rows}, data.harmful=40{more}]
space: {{optimizer.lr: {{low: 1e-4, high: 1e-3}}}}
evaluate: [suite=smoke, suite.half=dev, suite.limit=20]
objectives: {{false_refusal_rate: minimize}}
sampler: random
trials: {trials}
"""
LARGE = """
space: {a: {choices: [x, y, z]}, b: {low: 100, high: 300, step: 50}, lr: {low: 1e-4, high: 1e-3}}
objectives: {false_refusal_rate: minimize, harmful_compliance_rate: minimize}
trials: 20000
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    os.environ.pop("OMP_NUM_THREADS", None)
    missed = []

    def held(
        what: str, value: float, bound: float, unit: str = "s", *, above: bool = False
    ) -> None:
        good = value >= bound if above else value <= bound
        sign = ">=" if above else "<="
        print(f"{what}: {value:.2f} {unit} (bound {sign} {bound:.2f}) {'' if good else 'MISSED'}")
        if not good:
            missed.append(what)

    # The first study of a fresh store makes its tables and the base model; it is not measured.
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sweep("warm", rows=40, trials=1)
        one, each = sweep("one", rows=40, trials=4)
        held("overhead of a trial on one device", one, 3.0)
        fresh = import_time()
        for executor in ("ray", "submitit"):
            if importlib.util.find_spec(executor) is None:
                print(f"{executor} is not installed: not measured")
                continue
            words = (f"sweep.executor={executor}", "sweep.cpus=1")
            elsewhere, _ = sweep(executor, rows=40, trials=3, words=words)
            held(f"overhead of a trial that {executor} starts", elsewhere, 2 * fresh + 5)
        serial = wall("serial", workers=1, rows=400, trials=4)
        parallel = wall("parallel", workers=2, rows=400, trials=4)
        if len(os.sched_getaffinity(0)) > 1:
            held("two workers against one", serial / parallel, 1.6, "x", above=True)
        if not quick:
            ranks = ", trainer=ddp, trainer.batch_size=16"
            several, _ = sweep("ranks", rows=40, trials=2, more=ranks)
            held("overhead of a trial of two ranks", several, fresh + 2)
    large(2_000 if quick else 10_000, held)
    print(f"(a trial itself took {each:.2f} s)")
    return bool(missed)


def run(name: str, *words: str) -> tuple[float, Path]:
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "tbr_lightning.sweep", f"study={name}.yaml", *words],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - start, Path(".tbr/runs/studies.db")


def write(name: str, rows: int, trials: int, more: str) -> None:
    Path(f"{name}.yaml").write_text(STUDY.format(rows=rows, trials=trials, more=more))


def sweep(
    name: str, *, rows: int, trials: int, more: str = "", words: Sequence[str] = ()
) -> tuple[float, float]:
    """Run a study; return the overhead of a trial and what a trial itself took, in seconds.

    The overhead is the time from each trial's start to the next one's, less the training and
    evaluation of it, which every trial notes for itself. With MLflow's run of the trial and the
    study's own page it is all that a person waits for beside the work.
    """
    write(name, rows, trials, more)
    run(name, "sweep.workers=1", "sweep.reuse=false", *words)
    found = trials_of(name)
    work = [sum(one["seconds"] for one in trial.user_attrs["runs"]) for trial in found]
    starts = [trial.datetime_start.timestamp() for trial in found]
    ends = [trial.datetime_complete.timestamp() for trial in found]
    # The last trial has no next one: to its end.
    spans = [later - start for start, later in zip(starts, [*starts[1:], ends[-1]], strict=True)]
    # The first start waits for the stack to be imported.
    rest = slice(1, None) if len(found) > 1 else slice(None)
    overheads = [span - took for span, took in zip(spans, work, strict=True)][rest]
    return sum(overheads) / len(overheads), sum(work) / len(work)


def wall(name: str, *, workers: int, rows: int, trials: int) -> float:
    """Return the seconds from the first trial's start to the last one's end."""
    write(name, rows, trials, ", trainer.threads=1")
    run(name, f"sweep.workers={workers}", "sweep.reuse=false")
    found = trials_of(name)
    first = min(trial.datetime_start for trial in found)
    return (max(trial.datetime_complete for trial in found) - first).total_seconds()


def trials_of(name: str) -> list:
    import optuna

    storage = "sqlite:///.tbr/runs/studies.db"
    (key,) = (n for n in optuna.get_all_study_names(storage) if n.rpartition("-")[0] == name)
    return optuna.load_study(study_name=key, storage=storage).get_trials()


def import_time() -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import tbr_lightning.tuning.preload"], check=True)
    return time.monotonic() - start


def large(trials: int, held) -> None:
    """Ask for a point in a study of many trials, and show its state."""
    from tbr_lightning.processes import identity_of
    from tbr_lightning.tuning import scheduling
    from tbr_lightning.tuning.scheduling import Budget
    from tbr_lightning.tuning.storage import open_study
    from tbr_lightning.tuning.study import read_study
    from tbr_lightning.tuning.view import View

    study = read_study("large", "large.yaml", LARGE)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/large.db"
        fill(open_study(study, url), study, trials)
        opened = open_study(study, url)
        view = View(study, opened, 20_000, 1)
        held(f"{trials} trials read and shown", timed(view.look), 8.0)
        held("shown again", timed(view.look), 1.0)
        for _ in range(2):
            seconds = timed(
                lambda: scheduling.claim(opened, study, Budget(20_000), identity_of(), range(10**6))
            )
        held("next point asked for", seconds, 1.0)


def fill(opened, study, trials: int) -> None:
    import optuna

    from tbr_lightning.tuning.space import active

    draws = random.Random(0)
    distributions = active(study.space, {})
    numbers = {f"metric_{index}": 0.5 for index in range(30)}
    made = [
        optuna.create_trial(
            params={
                "a": draws.choice("xyz"),
                "b": draws.choice([100, 150, 200]),
                "lr": draws.uniform(1e-4, 1e-3),
            },
            distributions=distributions,
            values=[draws.random(), draws.random()],
            user_attrs={"metrics": numbers, "constraints": [], "seconds": 1.0, "draw": index},
        )
        for index in range(trials)
    ]
    opened.study.add_trials(made)


def timed(what) -> float:
    start = time.monotonic()
    what()
    return time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
