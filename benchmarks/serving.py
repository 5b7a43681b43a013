"""Our server against the engine behind it alone, and against ``mlflow models serve``.

    python benchmarks/serving.py [--clients 32] [--requests 320] [--rounds 3] [--stream]
    python benchmarks/serving.py --model models:/tbr-microworld@champion --folder .

All three serve the same micro-world model on this machine and stay up; rounds of requests go to
them in turn, each client asking its next question as soon as it has an answer. The bare engine is
``transformers serve --continuous-batching`` with the cache that we give it (left to itself it takes
most of the machine's memory); ``--own-cache`` leaves it to itself. Without ``--model`` a model is
trained first, which takes half a minute. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

BARE, MLFLOW = 0.9, 10.0  # of their completed requests a second
TOKENS = 96


@dataclass
class Peer:
    """A server and what it showed."""

    name: str
    url: str
    body: Callable[[str], dict[str, Any]]
    requests: int
    process: subprocess.Popen[bytes]
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0
    failed: int = 0
    answers: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.seconds, n=20)[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=320, help="a round; MLflow gets a tenth")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", action="store_true", help="stream; leaves MLflow out")
    parser.add_argument("--own-cache", action="store_true", help="size of the bare engine's cache")
    parser.add_argument("--model", help="models:/… in the store of --folder")
    parser.add_argument("--folder", type=Path, default=Path())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder.resolve() if args.model else Path(made)
        uri = args.model or train(folder)
        peers: list[Peer] = []
        try:
            start(peers, folder, uri, args)
            asyncio.run(measure(peers, args))
        finally:
            for peer in peers:
                with suppress(ProcessLookupError):
                    os.killpg(peer.process.pid, signal.SIGTERM)
            for peer in peers:
                peer.process.wait(30)
    return report(peers)


def train(folder: Path) -> str:
    print("training a model …", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "tbr_lightning.train", "reflection=external"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return re.search(r"models:/m-[0-9a-f]{32}", done.stdout)[0]


def start(peers: list[Peer], folder: Path, uri: str, args: argparse.Namespace) -> None:
    """Start the servers, one after the other, and wait until each answers."""
    # As the server sets it for its engine: threads that spin would make the others look slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    from tbr_lightning.models.hf_folder import hf_folder
    from tbr_lightning.models.logged import find_model
    from tbr_lightning.serving.transformers_engine import cache_words

    model = find_model(uri)
    weights = hf_folder(model, folder / ".tbr" / "cache" / "models")
    sized = cache_words(json.loads((weights / "config.json").read_text()))

    def chat(name: str) -> Callable[[str], dict[str, Any]]:
        return lambda text: {
            "model": name,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": TOKENS,
            "stream": args.stream,
        }

    def up(name: str, words: list[str], where: Path, path: str, health: str, **more: Any) -> None:
        port = free_port()
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *(word.format(port=port) for word in words)],
            cwd=where,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        peers.append(Peer(name, url + path, process=process, **more))
        while not answers(url + health):
            if process.poll() is not None or time.monotonic() - begun > 300:
                raise SystemExit(f"{name} does not come up: {' '.join(words)}")
            time.sleep(0.2)
        print(f"{name} is up after {time.monotonic() - begun:.0f} s", flush=True)

    path = "/v1/chat/completions"
    transformers = "from transformers.cli.transformers import main; main()"
    bare = ["serve", weights.name, "--continuous-batching", "--port", "{port}"]
    up(
        "tbr_lightning.serve",
        ["-m", "tbr_lightning.serve", f"model={uri}", "port={port}"],
        folder,
        path,
        "/health",
        body=chat(model.model_id),
        requests=args.requests,
    )
    up(
        "transformers serve",
        ["-c", transformers, *bare, *([] if args.own_cache else sized)],
        weights.parent,
        path,
        "/health",
        body=chat(weights.name),
        requests=args.requests,
    )
    if args.stream:
        return
    words = ["-m", "mlflow", "models", "serve", "-m", model.uri, "--env-manager", "local"]
    up(
        "mlflow models serve",
        [*words, "--port", "{port}"],
        folder,
        "/invocations",
        "/ping",
        body=lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS},
        requests=max(args.clients, args.requests // 10),
    )


async def measure(peers: list[Peer], args: argparse.Namespace) -> None:
    from tbr_lightning.microworld.prompts import evaluation_prompts

    prompts = [prompt.text for prompt in evaluation_prompts("dev")]
    for number in range(args.rounds + 1):
        for peer in peers:
            # The first round, a short one, warms up.
            count = peer.requests if number else args.clients
            await burst(peer, prompts, count, args, counts=number > 0)
            if number:
                print(f"round {number}: {peer.name} {peer.rates[-1]:.1f} requests/s", flush=True)


async def burst(
    peer: Peer, prompts: list[str], count: int, args: argparse.Namespace, *, counts: bool
) -> None:
    """Ask ``count`` questions by so many clients at once."""
    questions = iter([prompts[n % len(prompts)] for n in range(count)])
    done = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client() -> None:
            nonlocal done
            for text in questions:
                begun = time.perf_counter()
                try:
                    async with session.post(peer.url, json=peer.body(text)) as reply:
                        raw, fine = await reply.read(), reply.status == 200
                except aiohttp.ClientError:
                    fine = False
                if not fine:
                    peer.failed += 1
                    continue
                done += 1
                if counts:
                    peer.seconds.append(time.perf_counter() - begun)
                if not args.stream:
                    found = json.loads(raw)
                    found = found[0] if isinstance(found, list) else found
                    peer.answers[text] = found["choices"][0]["message"]["content"]

        begun, before = time.perf_counter(), processor_seconds(peer)
        await asyncio.gather(*(client() for _ in range(args.clients)))
    if counts:
        peer.cpu += processor_seconds(peer) - before
        peer.rates.append(done / (time.perf_counter() - begun))


def report(peers: list[Peer]) -> int:
    print(f"\n{'':22}{'requests/s':>12}{'p50 s':>8}{'p95 s':>8}{'CPU ms':>8}{'failed':>8}")
    for peer in peers:
        middle = statistics.median(peer.seconds)
        cpu = 1000 * peer.cpu / len(peer.seconds)
        print(
            f"{peer.name:22}{peer.rate:12.1f}{middle:8.2f}{peer.p95:8.2f}{cpu:8.1f}{peer.failed:8}"
        )
    ours, bare, *others = peers
    if ours.answers:
        same = sum(ours.answers[text] == bare.answers.get(text) for text in ours.answers)
        print(f"the same answers as the bare engine: {same} of {len(ours.answers)}")
    goals = [
        (
            f"{ours.rate / bare.rate:.2f}x of the bare engine's requests/s",
            BARE,
            ours.rate / bare.rate,
        ),
        (
            f"{bare.p95 / ours.p95:.2f}x of the bare engine's speed at p95",
            BARE,
            bare.p95 / ours.p95,
        ),
    ]
    for other in others:
        rate, late = ours.rate / other.rate, other.p95 / ours.p95
        goals.append((f"{rate:.1f}x of {other.name}'s requests/s", MLFLOW, rate))
        goals.append((f"{late:.1f}x of {other.name}'s speed at p95", MLFLOW, late))
    missed = ours.failed > 0
    for text, goal, value in goals:
        missed = missed or value < goal
        print(f"{'met' if value >= goal else 'MISSED'}: {text} (goal {goal:g})")
    return int(missed)


def processor_seconds(peer: Peer) -> float:
    """Return the CPU time of a server and its children, which other work changes less."""
    server = psutil.Process(peer.process.pid)
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
