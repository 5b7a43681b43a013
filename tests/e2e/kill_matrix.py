"""Ends each verb by each signal in each phase, gives its command again, and counts what is missing.

``python -m tests.e2e.kill_matrix FOLDER [VERB…]`` prints a line of JSON for each cell. A phase is a
write that the verb makes (to the tracker, to its stores, a checkpoint); the signal arrives right
before it: no clock decides. Commands are forked, since importing takes longer than they do. Of a
sweep the runner is disturbed, before it hands out the first, the middle and the last of some cheap
trials.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import chdir, closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What the commands import late. It is imported here, and used in the forked processes alone.
import lightning.pytorch  # noqa: F401
import mlflow.transformers  # noqa: F401
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from tbr_lightning import cli, evaluate, promote, reflect, train  # noqa: F401
from tbr_lightning.evaluation.store import ResponseStore
from tbr_lightning.reflection.store import RecordStore
from tbr_lightning.registry.audit import audit
from tbr_lightning.registry.entry import TAG
from tbr_lightning.registry.ledger import Ledger
from tbr_lightning.training import fit  # noqa: F401
from tbr_lightning.training.checkpoints import Checkpoints

from ..conftest import put_store
from ..support import made
from ..support.teacher_server import TeacherServer

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
STEPS = 8

_WRITES: tuple[tuple[Any, str], ...] = (
    *((SqlAlchemyStore, name) for name in ("create_run", "log_batch", "set_tag")),
    *((SqlAlchemyStore, name) for name in ("create_logged_model", "finalize_logged_model")),
    (MlflowClient, "log_text"),
    (MlflowClient, "set_terminated"),
    (MlflowClient, "create_model_version"),
    (MlflowClient, "set_registered_model_alias"),
    (MlflowClient, "set_registered_model_tag"),
    (Checkpoints, "_save"),
    (Ledger, "append"),
)


@dataclass(frozen=True)
class Verb:
    """How a verb is run, gone on with, and counted.

    Attributes:
        words: Of its command.
        again: Of the command that goes on.
        count: Returns what is lost and what is doubled, from its folder.
        phases: By name the write before which the signal comes, and which one of its name.
    """

    words: tuple[str, ...]
    again: tuple[str, ...]
    count: Callable[[Path], dict[str, int]]
    phases: dict[str, tuple[str, int]]


def at_each_write(act: Callable[[str], None]) -> None:
    """Call a function with the name of each write of this process, before it."""

    def before(name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **more: Any) -> Any:
            act(name)
            return write(*args, **more)

        return wrapper

    for owner, name in _WRITES:
        setattr(owner, name, before(name, getattr(owner, name)))
    kept, writing = ResponseStore.keep, RecordStore.writing

    def keep(self: Any, responses: Any, keys: Any) -> Any:
        for one in kept(self, responses, keys):
            act("keep")
            yield one

    def puts(self: Any) -> Any:
        @contextmanager
        def counted() -> Any:
            with writing(self) as put:

                def counted_put(one: Any) -> None:
                    act("put")
                    put(one)

                yield counted_put

        return counted()

    ResponseStore.keep, RecordStore.writing = keep, puts  # type: ignore[method-assign]


def command(folder: Path, verb: str, words: tuple[str, ...], act: Callable[[str], None]) -> int:
    """Run a verb in a process of its own; return its exit code, or minus its signal."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        at_each_write(act)
        said = (folder / "said.txt").open("a", buffering=1)
        with chdir(folder), redirect_stdout(said), redirect_stderr(said):
            code = cli.main(verb, words)
    except BaseException:
        import traceback

        with (folder / "said.txt").open("a") as said:
            traceback.print_exc(file=said)
    finally:
        os._exit(code)


def killer(write: str, point: int, how: signal.Signals) -> Callable[[str], None]:
    """Return what sends this process a signal before the ``point``-th write of a name."""
    done = 0

    def act(name: str) -> None:
        nonlocal done
        done += name == write
        if name == write and done == point:
            os.kill(os.getpid(), how)

    return act


def _undisturbed(_: str) -> None:
    """Let a command be."""


def _client(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder}/mlflow.db"
    return MlflowClient(uri, uri)


def _runs(folder: Path, stage: str) -> list[Any]:
    client = _client(folder)
    every = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(every, f"tags.`tbr.stage` = '{stage}'"))


def _status(runs: list[Any]) -> dict[str, int]:
    finished = sum(run.info.status == "FINISHED" for run in runs)
    still_open = sum(run.info.status == "RUNNING" for run in runs)
    return {
        "runs": finished,
        "lost": int(finished == 0) + still_open,
        "doubled": max(finished - 1, 0),
    }


def _add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {*one, *other}}


def count_train(folder: Path) -> dict[str, int]:
    """Count points of the finished run, and logged models."""
    runs, client = _runs(folder, "train"), _client(folder)
    found = _status(runs)
    for run in runs:
        if run.info.status == "FINISHED":
            history = client.get_metric_history(run.info.run_id, "train/loss")
            steps = [point.step for point in history]
            lost = len(set(range(1, STEPS + 1)) - set(steps))
            found = _add(found, {"points": len(steps), "lost": lost})
            found["doubled"] += len(steps) - len(set(steps))
    every = [one.experiment_id for one in client.search_experiments()]
    models = [str(one.status) for one in client.search_logged_models(every)]
    ready = sum(one.endswith("READY") for one in models)
    pending = sum(one.endswith("PENDING") for one in models)
    return _add(
        found, {"models": ready, "lost": int(ready == 0) + pending, "doubled": max(ready - 1, 0)}
    )


def count_evaluate(folder: Path) -> dict[str, int]:
    """Count answers of the finished run by their prompts."""
    found = _status(runs := _runs(folder, "evaluate"))
    client = _client(folder)
    wanted = {json.loads(line) for line in (folder / "prompts.txt").read_text().splitlines()}
    for run in runs:
        if run.info.status == "FINISHED":
            text = mlflow_text(client, run.info.run_id, "responses.json")
            table = json.loads(text)
            prompts = [row[table["columns"].index("prompt")] for row in table["data"]]
            lost, twice = len(wanted - set(prompts)), len(prompts) - len(set(prompts))
            found = _add(found, {"rows": len(prompts), "lost": lost, "doubled": twice})
    return found


def mlflow_text(client: MlflowClient, run_id: str, file: str) -> str:
    """Return a text artifact of a run."""
    return Path(client.download_artifacts(run_id, file)).read_text()


def count_reflect(folder: Path) -> dict[str, int]:
    """Count stored reflections, and what the teacher was asked."""
    found = _status(_runs(folder, "reflect"))
    with closing(sqlite3.connect(folder / ".tbr" / "runs" / "reflections.db")) as db:
        (rows,) = db.execute("SELECT COUNT(*) FROM reflections").fetchone()
    return _add(found, {"rows": rows, "lost": ROWS - rows})


def count_promote(folder: Path) -> dict[str, int]:
    """Count decisions in the ledger, and what of them registry and runs do not show.

    Runs are not counted: that of a promotion which was killed after its decision stays KILLED, and
    no second one is made.
    """
    registry = made.registry(folder, write=False)
    entries = [one for one in registry.ledger.entries(made.NAME) if one.action == "baseline"]
    client, runs = _client(folder), _runs(folder, "promote")
    there = client.get_registered_model(made.NAME)
    marks = {run.info.run_id: run.data.tags.get(TAG) for run in runs}
    lost = int(not entries) + sum(run.info.status == "RUNNING" for run in runs)
    lost += int(str(there.aliases.get("champion")) != "1") + len(audit(registry).problems)
    lost += int("Champion: version 1." not in (there.description or ""))
    lost += sum(marks.get(one.evidence[0]) != one.mark for one in entries)
    return {"entries": len(entries), "lost": lost, "doubled": max(len(entries) - 1, 0)}


ROWS, ANSWERS = 24, 24
_SMALL = ("data=microworld", "data.general=30", f"data.harmful={ROWS}", "data.validation=0")


def verbs(folder: Path, teacher: TeacherServer) -> dict[str, Verb]:
    """Return how each verb is run in ``folder``, which is prepared for that."""
    training = (
        *("model=mistral", "model.scale=tiny", "model.init=random", "model.tokenizer=bytes"),
        *(*_SMALL, "reflection=none", f"trainer.max_steps={STEPS}", "trainer.batch_size=4"),
        *("trainer.checkpoint_every=2", "trainer.epochs=9"),
    )
    reflecting = (
        *("data=microworld", "data.general=0", f"data.harmful={ROWS}", "reflection=external"),
        *(f"reflection.base_url={teacher.url}", "reflection.concurrency=1", "reflection.traces=0"),
    )
    evaluating = (
        *("model=tiny", "suite=smoke", "suite.limit=8", "suite.lm_eval=[]", "traces=0"),
        *("judge.max_unparsed=1", "generation.max_new_tokens=4", "generation.batch_size=2"),
    )
    promoting = made.words(folder)
    start, last = ("log_batch", 1), ("set_terminated", 1)
    return {
        "train": Verb(
            training,
            (*training, "resume=latest"),
            count_train,
            {
                "start": start,
                "middle": ("_save", 2),
                "logging": ("finalize_logged_model", 1),
                "end": last,
            },
        ),
        "reflect": Verb(
            reflecting,
            reflecting,
            count_reflect,
            {"start": start, "middle": ("put", ROWS // 2), "end": last},
        ),
        "evaluate": Verb(
            evaluating,
            evaluating,
            count_evaluate,
            {"start": start, "middle": ("keep", ANSWERS // 2), "end": last},
        ),
        "promote": Verb(
            promoting,
            promoting,
            count_promote,
            {
                "start": ("create_model_version", 1),
                "middle": ("append", 1),
                "decided": ("set_registered_model_alias", 1),
                "end": last,
            },
        ),
    }


def prepared(folder: Path, verb: str) -> None:
    """Make the folder in which a verb is run."""
    folder.mkdir(parents=True)
    put_store(folder)
    if verb == "evaluate":
        from tbr_lightning.config.compose import compose_verb
        from tbr_lightning.evaluation.suites import load_suite

        suite = compose_verb(
            "evaluate", ["model=tiny", "suite=smoke", "suite.limit=8"]
        ).config.suite
        texts = [json.dumps(prompt.text) for prompt in load_suite(suite)]
        (folder / "prompts.txt").write_text("\n".join(texts))
    if verb == "promote":
        child = os.fork()
        if not child:
            code = 1
            try:
                logged = made.model(folder, "candidate")
                made.evaluation(folder, logged, made.answers())
                (folder / "candidate").write_text(logged.uri)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit("no candidate could be made")


def run_verb(scratch: Path, name: str, teacher: TeacherServer) -> None:
    """Print a line for each cell of a verb."""
    template = scratch / f"{name}-template"
    prepared(template, name)
    for phase, (write, point) in verbs(template, teacher)[name].phases.items():
        for how in SIGNALS:
            folder = made.copied(template, scratch / f"{name}-{phase}-{how.name}")
            verb = verbs(folder, teacher)[name]
            teacher.seen.clear()
            ended = command(folder, name, verb.words, killer(write, point, how))
            code = command(folder, name, verb.again, _undisturbed)
            found = verb.count(folder)
            if name == "reflect":
                # A request that was under way when the signal came may be asked again: it has no
                # answer yet. What was answered and stored is not.
                asked = len(teacher.seen) - len(set(teacher.prompts()))
                found = _add(found, {"asked_twice": asked})
            said = (folder / "said.txt").read_text(errors="replace")
            cell = {
                "verb": name,
                "phase": phase,
                "signal": how.name,
                "ended": ended,
                "then": code,
                "said": said.strip().splitlines()[-1],
                "traceback": "Traceback" in said,
                **found,
            }
            print(json.dumps(cell), flush=True)
            if not (found["lost"] or found["doubled"] or cell["traceback"]):
                shutil.rmtree(folder)


TRIALS = 5
_SUPPORT = str(Path(made.__file__).parent)


def _sweep(folder: Path, act: Callable[[str], None]) -> int:
    """Run a study of cheap trials in a process of its own; return how it ended."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
        sys.path.insert(0, _SUPPORT)
        os.environ["PYTHONPATH"] = os.pathsep.join(one for one in sys.path if one)
        import cheap_sweep

        make = cheap_sweep.Spec

        def spec(**facts: Any) -> Any:
            act("spec")
            return make(**facts)

        cheap_sweep.Spec = spec
        cheap_sweep.sweep(folder / "cheap.yaml", f"sqlite:///{folder}/s.db", folder / "runs")
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def run_sweep(scratch: Path) -> None:
    """Print a line for each cell of a sweep."""
    for phase, point in (("start", 1), ("middle", (TRIALS + 1) // 2), ("end", TRIALS)):
        for how in SIGNALS:
            folder = scratch / f"sweep-{phase}-{how.name}"
            folder.mkdir(parents=True)
            (folder / "cheap.yaml").write_text(
                "space: {how: {choices: [good]}, x: {low: 0.0, high: 1.0}}\n"
                f"objectives: {{x: minimize}}\nsampler: random\ntrials: {TRIALS}\n"
            )
            ended = _sweep(folder, killer("spec", point, how))
            code = _sweep(folder, _undisturbed)
            with closing(sqlite3.connect(folder / "s.db")) as db:
                states = [state for (state,) in db.execute("SELECT state FROM trials")]
            times = [len(file.read_text().split()) for file in folder.glob("runs/sweeps/*/*/times")]
            complete = states.count("COMPLETE")
            cell = {
                "verb": "sweep",
                "phase": phase,
                "signal": how.name,
                "ended": ended,
                "then": code,
                "traceback": False,
                "trials": complete,
                "lost": TRIALS - complete + states.count("RUNNING"),
                "doubled": sum(times) - TRIALS + max(0, complete - TRIALS),
            }
            print(json.dumps(cell), flush=True)


def main(scratch: Path, names: list[str]) -> None:
    """Run the matrix, or some verbs of it."""
    teacher = TeacherServer()
    for name in names or ["train", "reflect", "evaluate", "promote", "sweep"]:
        if name == "sweep":
            run_sweep(scratch)
        else:
            run_verb(scratch, name, teacher)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
