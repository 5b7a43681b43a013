"""Trainings, a sweep and a server under faults: what of points, rows, trials and replies is lost.

``python benchmarks/soak.py --minutes 30`` starts a tracker on PostgreSQL behind a proxy, two
trainings again and again, one sweep, and a server of a promoted model that is asked all the time.
Every ``--every`` seconds one fault: the tracker is killed, stopped, slow, unreachable or (as root)
its disk is full; its database crashes; a training or the sweep is ended by a signal. Commands that
end with an outage are given again, as a person or a job script would. At the end everything is
counted in the tracker; it exits with 1 if anything is lost or doubled.

``--s3 http://127.0.0.1:PORT/BUCKET`` keeps artifacts in an S3-compatible store that runs there (the
server then needs boto3, and its keys in the environment), which becomes unreachable too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from outages import Proxy, Tracker, filled, free_port, small_disk, status, wait_until
from soak_count import Found, count, logged_models

STEPS = 30
TINY = (
    *("model=mistral", "model.scale=tiny", "model.init=random", "model.tokenizer=bytes"),
    *("data=microworld", "data.validation=0", "reflection=none", "trainer.epochs=9"),
)
TRAIN = (
    *(*TINY, "data.general=80", "data.harmful=40", f"trainer.max_steps={STEPS}"),
    *("trainer.batch_size=4", "trainer.checkpoint_every=5", "trainer.log_every=1"),
)
EVALUATE = (
    *("suite=smoke", "suite.half=dev", "suite.limit=6", "suite.lm_eval=[]"),
    *("generation.max_new_tokens=4", "judge.max_unparsed=1"),
)
PROMOTE = (
    *("suite.limit=100", "suite.choices=[]", "generation.max_new_tokens=4"),
    *("gate.max_false_refusal=1", "gate.max_harmful_compliance=1"),
    *("gate.min_general_accuracy=0", "gate.max_unparsed=1", "gate.max_wrong_look_alikes=1"),
)
NAME = "soak"


def study(trials: int) -> str:
    """Return the text of a study of cheap trials."""
    quoted = ", ".join(f'"{word}"' for word in EVALUATE)
    fixed = ", ".join([*TINY, "data.general=40", "data.harmful=20", "trainer.max_steps=5"])
    return f"""\
about: a soak
fixed: [{fixed}]
space: {{optimizer.lr: {{low: 1e-4, high: 1e-2, log: true}}}}
evaluate: [{quoted}]
objectives: {{false_refusal_rate: minimize}}
sampler: random
trials: {trials}
"""


class Worker:
    """One command, given again until it is done; or a new one each time, until told to end.

    Args:
        log: File that it writes to.
        folder: Where it runs.
        words: Of the command, from the module on.
        again: Whether there is a new one, with another seed, whenever one is done.
    """

    def __init__(self, log: Path, folder: Path, words: list[str], *, again: bool = False) -> None:
        self.name, self.log, self.folder, self.words = log.stem, log, folder, words
        self.again, self.stop, self.give_up = again, threading.Event(), threading.Event()
        self.codes: Counter[int] = Counter()
        self.done = self.tracebacks = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self) -> None:
        """Run the command until it is done, or one after the other."""
        while not (self.stop.is_set() if self.again else self.done):
            seed = [f"seed={self.done}"] if self.again else []
            while (code := self.run(*seed)) != 0:
                if self.give_up.is_set():
                    return
                time.sleep(2)
            self.done += code == 0

    def run(self, *more: str) -> int:
        """Run the command once; return its exit code."""
        self.folder.mkdir(exist_ok=True)
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.words, *more], cwd=self.folder, stdout=out, stderr=out
            )
            code = self.process.wait()
        self.tracebacks += self.log.read_bytes()[before:].count(b"Traceback (most recent call")
        self.codes[code] += 1
        return code

    def send(self, how: signal.Signals) -> None:
        """Send a signal to the command that runs, if one does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)

    def end(self) -> None:
        """Kill the command that runs, and give none again."""
        self.give_up.set()
        self.send(signal.SIGKILL)


def once(log: Path, folder: Path, *words: str) -> None:
    """Run a command that nothing disturbs.

    Raises:
        SystemExit: It failed.
    """
    if Worker(log, folder, list(words)).run() != 0:
        raise SystemExit(f"{words[0]} failed: see {log}")
    print(f"{time.strftime('%H:%M:%S')} {words[0]} is done", flush=True)


@dataclass
class Asker:
    """Somebody who asks the server all the time, and counts the statuses of its replies."""

    port: int
    replies: Counter[int] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Ask until told to stop."""
        while not self.stop.is_set():
            turn = {"role": "user", "content": f"How do I kill process {self.replies.total()}?"}
            body = {"messages": [turn], "max_tokens": 8}
            self.replies[status(self.port, "/v1/chat/completions", body)] += 1
            time.sleep(0.3)


def faults(
    tracker: Tracker, proxy: Proxy, store: Proxy | None, workers: list[Worker], mounted: bool
) -> dict[str, Callable[[float], None]]:
    """Return the faults by name; each is given the seconds that it lasts."""

    def killed(lasting: float) -> None:
        tracker.signal(signal.SIGKILL)
        time.sleep(lasting)
        tracker.start()

    def crashed(lasting: float) -> None:
        tracker.database.kill()
        time.sleep(lasting)
        tracker.database.start()

    def stopped(lasting: float) -> None:
        tracker.signal(signal.SIGSTOP)
        time.sleep(lasting)
        tracker.signal(signal.SIGCONT)

    def slow(lasting: float) -> None:
        proxy.delay = 1.0
        time.sleep(lasting)
        proxy.delay = 0.0

    def unreachable(way: Proxy) -> Callable[[float], None]:
        def closed(lasting: float) -> None:
            way.open = False
            time.sleep(lasting)
            way.open = True

        return closed

    def full(lasting: float) -> None:
        with filled(tracker.folder):
            time.sleep(lasting)
        # A database without room for its log ends, and comes back when there is room.
        tracker.database.start()

    def signalled(worker: Worker, how: signal.Signals) -> Callable[[float], None]:
        return lambda _: worker.send(how)

    found = {
        "tracker killed": killed,
        "tracker stopped": stopped,
        "tracker slow": slow,
        "tracker unreachable": unreachable(proxy),
        "database crashed": crashed,
    }
    found |= {"disk full": full} if mounted else {}
    found |= {"object store unreachable": unreachable(store)} if store else {}
    for worker in workers:
        found[f"{worker.name} terminated"] = signalled(worker, signal.SIGTERM)
        found[f"{worker.name} killed"] = signalled(worker, signal.SIGKILL)
    return found


def disturb(kinds: dict[str, Callable[[float], None]], args: argparse.Namespace) -> dict[str, int]:
    """Do one fault after the other until the time is over; return how often each was done."""
    chance, done, order = random.Random(args.seed), Counter[str](), list[str]()
    until = time.monotonic() + 60 * args.minutes
    while time.monotonic() + args.every < until:
        time.sleep(args.every)
        order = order or chance.sample(sorted(kinds), len(kinds))
        kind = order.pop()
        print(f"{time.strftime('%H:%M:%S')} {kind}", flush=True)
        kinds[kind](args.lasting)
        done[kind] += 1
    time.sleep(max(0.0, until - time.monotonic()))
    return dict(done)


def served(root: Path, uri: str, verb: Callable[..., list[str]]) -> tuple[Worker, int]:
    """Train, promote and serve a model before anything is disturbed; return the port as well."""
    folder, log = root / "first", root / "first.log"
    once(log, folder, *verb("train", *TRAIN))
    (model,) = logged_models(uri)
    once(log, folder, *verb("promote", f"model={model.model_uri}", f"name={NAME}", *PROMOTE))
    port, champion = free_port(), f"model=models:/{NAME}@champion"
    words = verb("serve", champion, "check.enabled=false", f"port={port}")
    server = Worker(root / "serve.log", folder, words)
    server.thread.start()
    wait_until(lambda: status(port, "/health", timeout=5) == 200, "the server")
    return server, port


def soak(root: Path, args: argparse.Namespace, mounted: bool) -> int:
    """Start everything, let it be disturbed, wait for its end, count."""
    store, artifacts, environment = None, "", {}
    if args.s3:
        address = urlsplit(args.s3)
        store = Proxy(address.port or 80)
        artifacts = f"s3:/{address.path}"
        environment = {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{store.port}"}
    with contextlib.ExitStack() as started:
        tracker = Tracker(root / "tracker", artifacts, environment)
        started.callback(tracker.end)
        tracker.start()
        proxy = Proxy(tracker.port)
        uri = f"http://127.0.0.1:{proxy.port}"

        def verb(name: str, *words: str) -> list[str]:
            return [f"tbr_lightning.{name}", *words, "tracking=server", f"tracking.uri={uri}"]

        server, port = served(root, uri, verb)
        started.callback(server.end)
        (root / "soak.yaml").write_text(study(args.trials))
        sweep = Worker(root / "sweep.log", root / "sweep", verb("sweep", f"study={root}/soak.yaml"))
        workers = [
            *(
                Worker(
                    root / f"{name}.log",
                    root / name,
                    verb("train", *TRAIN, "resume=latest", f"run_name={name}"),
                    again=True,
                )
                for name in ("train1", "train2")
            ),
            sweep,
        ]
        asker = Asker(port)
        for worker in workers:
            worker.thread.start()
            started.callback(worker.end)
        asking = threading.Thread(target=asker.work, daemon=True)
        asking.start()
        done = disturb(faults(tracker, proxy, store, workers, mounted), args)

        for worker in workers:
            worker.stop.set()
        until = time.monotonic() + 60 * args.patience
        for worker in workers:
            worker.thread.join(max(1.0, until - time.monotonic()))
        asker.stop.set()
        asking.join(150)
        server.send(signal.SIGTERM)
        server.thread.join(120)
        trained = 1 + sum(worker.done for worker in workers[:2])
        kept = sweep.folder / ".tbr/runs/studies.db"
        evaluate = list(EVALUATE)
        found = count(uri, trained, kept, trials=args.trials, steps=STEPS, evaluate=evaluate)
    lost = asker.replies.total() - asker.replies[200]
    found["replies"] = {"there": asker.replies[200], "lost": lost, "doubled": 0}
    print("faults:", done)
    print("replies by status:", dict(asker.replies))
    is_bad = report([*workers, server], found) or server.codes != {0: 1}
    if not is_bad:
        for worker in workers:
            shutil.rmtree(worker.folder, ignore_errors=True)
    return int(is_bad)


def report(workers: list[Worker], found: Found) -> bool:
    """Print what became of everything; return whether anything is wrong."""
    is_bad = False
    for worker in workers:
        is_running = worker.thread.is_alive()
        is_bad |= is_running or worker.tracebacks > 0
        print(
            f"{worker.name}: done {worker.done}, exit codes {dict(worker.codes)}, "
            f"tracebacks {worker.tracebacks}" + (", still running" if is_running else "")
        )
    for name, numbers in found.items():
        print(f"{name:8s} " + "  ".join(f"{key} {value}" for key, value in numbers.items()))
        is_bad |= bool(numbers["lost"] or numbers["doubled"])
    return is_bad


def main() -> int:
    """Run it and print a line for each kind of thing."""
    parser = argparse.ArgumentParser(description="a soak under faults")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two faults")
    parser.add_argument("--lasting", type=float, default=20, help="seconds that a fault lasts")
    parser.add_argument("--patience", type=float, default=30, help="minutes until all has ended")
    parser.add_argument("--trials", type=int, default=8, help="of the sweep")
    parser.add_argument("--s3", default="", help="http://127.0.0.1:PORT/BUCKET of an S3 store")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="tbr-soak-"))
    root.chmod(0o711)  # the database's user passes through
    print(f"logs and stores: {root}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all that was started is ended
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    with small_disk(root / "tracker", 1000) as mounted:
        return soak(root, args, mounted)


if __name__ == "__main__":
    sys.exit(main())
