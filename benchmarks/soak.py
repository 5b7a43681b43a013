"""Trainings, a sweep and a server under faults: what of points, trials and replies is lost.

``python benchmarks/soak.py --minutes 30`` starts a tracker behind a proxy, two trainings again and
again, one sweep, and a server that is asked all the time. Every ``--every`` seconds one fault: the
tracker is killed, stopped, slow, unreachable or (as root) its disk is full; a training is ended by
a signal. Commands that end with an outage are given again, as a person or a job script would. At
the end everything is counted in the tracker; it exits with 1 if anything is lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEPS = 30
TRAIN = (
    *("model=mistral", "model.scale=tiny", "model.init=random", "model.tokenizer=bytes"),
    *("data=microworld", "data.general=80", "data.harmful=40", "data.validation=0"),
    *("reflection=none", f"trainer.max_steps={STEPS}", "trainer.epochs=9"),
    *("trainer.batch_size=4", "trainer.checkpoint_every=5", "trainer.log_every=1"),
)
TRIALS = 4
STUDY = f"""\
about: a soak
fixed: [model=mistral, model.scale=tiny, model.init=random, model.tokenizer=bytes, data=microworld,
  data.general=40, data.harmful=20, data.validation=0, reflection=none, trainer.max_steps=5,
  trainer.epochs=9]
space: {{optimizer.lr: {{low: 1e-4, high: 1e-2, log: true}}}}
evaluate: [suite=smoke, suite.half=dev, suite.limit=6, "suite.lm_eval=[]",
  generation.max_new_tokens=4, judge.max_unparsed=1]
objectives: {{false_refusal_rate: minimize}}
sampler: random
trials: {TRIALS}
"""


class Proxy:
    """Passes connections on to the tracker; late, or not at all, when told so."""

    def __init__(self, port: int) -> None:
        self.target, self.delay, self.open = port, 0.0, True
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.port = 0

        async def serve() -> None:
            server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await server.serve_forever()

        threading.Thread(target=lambda: self._loop.run_until_complete(serve()), daemon=True).start()
        ready.wait()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.open:
                raise ConnectionError
            there = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._copy(reader, there[1]), self._copy(there[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.delay:
                await asyncio.sleep(self.delay)
            if not self.open:
                break
            writer.write(data)
            await writer.drain()
        writer.close()


class Tracker:
    """`mlflow server` on SQLite, which can be killed, stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder.parent / "tracker.log").open("ab")
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self.folder}/tracker.db"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        until = time.monotonic() + 600
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit(f"the tracker ended: see {log.name}")
            if _status(self.port, "/health", timeout=5) == 200:
                return
            time.sleep(0.5)
        raise SystemExit("the tracker does not come up")

    def signal(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        if how == signal.SIGKILL:
            self.process.wait()


class Worker:
    """One command, given again until it is done; or a new one each time, until told to end."""

    def __init__(self, name: str, folder: Path, words: list[str], *, again: bool) -> None:
        self.name, self.folder, self.words, self.again = name, folder, words, again
        self.codes: Counter[int] = Counter()
        self.done = self.tracebacks = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        self.folder.mkdir()
        while not (END.is_set() and self.again) and not (self.done and not self.again):
            seed = [f"seed={self.done}"] if self.again else []
            code = 1
            while code != 0:
                code = self._run([*self.words, *seed])
                self.codes[code] += 1
                if code != 0:
                    time.sleep(2)
                if LATEST.is_set():
                    return
            self.done += 1

    def end(self) -> None:
        """Kill the command that runs."""
        _ended(self.process)

    def _run(self, words: list[str]) -> int:
        log = self.folder.parent / f"{self.name}.log"
        before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=self.folder, stdout=out, stderr=out
            )
            code = self.process.wait()
        said = log.read_bytes()[before:]
        self.tracebacks += said.count(b"Traceback (most recent call last)")
        return code


END, LATEST = threading.Event(), threading.Event()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _status(port: int, path: str, body: Any = None, timeout: float = 120) -> int:
    """Return the status of a request; 0 where nobody answers."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if body is None:
            link.request("GET", path)
        else:
            link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        link.close()


def ask(port: int, found: Counter[int]) -> None:
    """Ask the server all the time; count the statuses."""
    number = 0
    while not END.is_set():
        number += 1
        turn = {"role": "user", "content": f"How do I kill process {number}?"}
        found[_status(port, "/v1/chat/completions", {"messages": [turn], "max_tokens": 8})] += 1
        time.sleep(0.3)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a small file system on a folder, where that is allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    allowed = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    if not allowed:
        print("no file system can be mounted here: the fault 'full disk' is left out")
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def faults(
    tracker: Tracker, proxy: Proxy, workers: list[Worker], args: argparse.Namespace, mounted: bool
) -> Counter[str]:
    """Do one fault after the other until the time is over; return how often each was done."""
    kinds = ["tracker killed", "tracker stopped", "tracker slow", "tracker unreachable"]
    kinds += ["training terminated", "training killed"] + (["disk full"] if mounted else [])
    chance, done = random.Random(args.seed), Counter[str]()
    until, order = time.monotonic() + 60 * args.minutes, list[str]()
    while time.monotonic() + args.every < until:
        time.sleep(args.every)
        order = order or chance.sample(kinds, len(kinds))
        kind = order.pop()
        print(f"{time.strftime('%H:%M:%S')} {kind}", flush=True)
        done[kind] += 1
        if kind == "tracker killed":
            tracker.signal(signal.SIGKILL)
            time.sleep(args.lasting)
            tracker.start()
        elif kind == "tracker stopped":
            tracker.signal(signal.SIGSTOP)
            time.sleep(args.lasting)
            tracker.signal(signal.SIGCONT)
        elif kind == "tracker slow":
            proxy.delay = 1.0
            time.sleep(args.lasting)
            proxy.delay = 0.0
        elif kind == "tracker unreachable":
            proxy.open = False
            time.sleep(args.lasting)
            proxy.open = True
        elif kind == "disk full":
            _fill(tracker.folder, args.lasting)
        else:
            how = signal.SIGTERM if kind.endswith("terminated") else signal.SIGKILL
            process = chance.choice(workers[:2]).process
            if process is not None and process.poll() is None:
                process.send_signal(how)
    time.sleep(max(0.0, until - time.monotonic()))
    return done


def _fill(folder: Path, seconds: float) -> None:
    file = folder / "fill"
    with contextlib.suppress(OSError), file.open("wb") as out:
        while True:
            out.write(bytes(1 << 16))
            out.flush()
    time.sleep(seconds)
    file.unlink(missing_ok=True)


def count(
    uri: str, trainings: list[Worker], sweep: Worker, trials: int
) -> dict[str, dict[str, int]]:
    """Count in the tracker what there is, what is missing and what is there twice.

    Args:
        uri: Of the tracker.
        trainings: Whose finished commands are a run each.
        sweep: Whose study is counted.
        trials: Of the study.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri, uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    wanted = f"tags.`tbr.stage` = 'train' and params.`trainer.max_steps` = '{STEPS}'"
    runs = client.search_runs(experiments, wanted, max_results=1000)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    points = Counter[str]()
    for run in finished:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        steps = Counter(point.step for point in history)
        points["there"] += len(history)
        points["lost"] += len(set(range(1, STEPS + 1)) - set(steps))
        points["doubled"] += sum(steps.values()) - len(steps)
    done = sum(worker.done for worker in trainings)
    models = Counter(
        one.source_run_id
        for one in client.search_logged_models(experiments, max_results=1000)
        if str(one.status).endswith("READY")
    )
    of_done = [models[run.info.run_id] for run in finished]
    left = sum(run.info.status == "RUNNING" for run in runs)
    complete = 0
    for file in sweep.folder.glob(".tbr/runs/studies.db"):
        import optuna

        storage = f"sqlite:///{file}"
        for name in optuna.get_all_study_names(storage):
            states = [
                one.state.name for one in optuna.load_study(study_name=name, storage=storage).trials
            ]
            complete = states.count("COMPLETE")
    return {
        "runs": {
            "there": len(finished),
            "lost": max(0, done - len(finished)) + left,
            "doubled": max(0, len(finished) - done),
        },
        "points": {key: points[key] for key in ("there", "lost", "doubled")},
        "models": {
            "there": sum(of_done),
            "lost": of_done.count(0),
            "doubled": sum(max(0, one - 1) for one in of_done),
        },
        "trials": {
            "there": complete,
            "lost": max(0, trials - complete),
            "doubled": max(0, complete - trials),
        },
    }


def main() -> int:
    """Run it and print a line for each kind of thing."""
    parser = argparse.ArgumentParser(description="a soak under faults")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=30, help="seconds between two faults")
    parser.add_argument("--lasting", type=float, default=15, help="seconds that a fault lasts")
    parser.add_argument("--patience", type=float, default=30, help="minutes until all has ended")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="tbr-soak-"))
    print(f"logs and stores: {root}")
    with small_disk(root / "tracker", 600) as mounted:
        return soak(root, args, mounted)


def soak(root: Path, args: argparse.Namespace, mounted: bool) -> int:
    """Start everything, let it be disturbed, wait for its end, count."""
    tracker = Tracker(root / "tracker")
    with contextlib.ExitStack() as started:
        started.callback(tracker.signal, signal.SIGKILL)
        tracker.start()
        return _soak(root, args, mounted, tracker, started)


def _ended(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()


def _soak(
    root: Path,
    args: argparse.Namespace,
    mounted: bool,
    tracker: Tracker,
    started: contextlib.ExitStack,
) -> int:
    proxy = Proxy(tracker.port)
    uri = f"http://127.0.0.1:{proxy.port}"
    there = [f"tracking.uri={uri}"]
    (root / "soak.yaml").write_text(STUDY)
    train = ["tbr_lightning.train", *TRAIN, *there]
    # The model that is served is trained before anything is disturbed.
    first = Worker("first", root / "first", train, again=False)
    first.folder.mkdir()
    if first._run(train) != 0:
        raise SystemExit(f"the first training failed: see {root / 'first.log'}")
    first.done = 1
    print(f"{time.strftime('%H:%M:%S')} the first training is done", flush=True)
    served = next(iter(_models(uri)))
    port = _free_port()
    with (root / "serve.log").open("wb") as log:
        words = ["tbr_lightning.serve", f"model=models:/{served}", "check.enabled=false"]
        server = subprocess.Popen(
            [sys.executable, "-m", *words, f"port={port}", *there],
            cwd=root / "first",
            stdout=log,
            stderr=log,
        )
    started.callback(_ended, server)
    while _status(port, "/health", timeout=5) != 200:
        if server.poll() is not None:
            raise SystemExit(f"the server ended: see {root / 'serve.log'}")
        time.sleep(1)
    sweep = ["tbr_lightning.sweep", f"study={root / 'soak.yaml'}", *there]
    workers = [
        Worker("train1", root / "train1", [*train, "resume=latest", "run_name=one"], again=True),
        Worker("train2", root / "train2", [*train, "resume=latest", "run_name=two"], again=True),
        Worker("sweep", root / "sweep", sweep, again=False),
    ]
    replies: Counter[int] = Counter()
    for worker in workers:
        worker.thread.start()
        started.callback(worker.end)
    started.callback(LATEST.set)
    asking = threading.Thread(target=ask, args=(port, replies), daemon=True)
    asking.start()
    done = faults(tracker, proxy, workers, args, mounted)
    END.set()
    asking.join(150)
    server.send_signal(signal.SIGTERM)
    until = time.monotonic() + 60 * args.patience
    for worker in workers:
        worker.thread.join(max(1.0, until - time.monotonic()))
    LATEST.set()
    server.wait(120)
    found = count(uri, [first, *workers[:2]], workers[2], trials=TRIALS)
    lost = sum(number for status, number in replies.items() if status != 200)
    found["replies"] = {"there": replies[200], "lost": lost, "doubled": 0}
    print("faults:", dict(done))
    for worker in workers:
        print(
            f"{worker.name}: done {worker.done}, exit codes {dict(worker.codes)}, "
            f"tracebacks {worker.tracebacks}, still running {worker.thread.is_alive()}"
        )
    print("replies by status:", dict(replies))
    bad = any(worker.thread.is_alive() or worker.tracebacks for worker in workers)
    for name, numbers in found.items():
        print(f"{name:8s} " + "  ".join(f"{key} {value}" for key, value in numbers.items()))
        bad = bad or bool(numbers["lost"] or numbers["doubled"])
    if not bad:
        for worker in workers:
            shutil.rmtree(worker.folder, ignore_errors=True)
    return int(bad)


def _models(uri: str) -> list[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri, uri)
    every = [one.experiment_id for one in client.search_experiments()]
    return [one.model_id for one in client.search_logged_models(every)]


if __name__ == "__main__":
    sys.exit(main())
