"""How soon the command line answers: the first optimizer step, the help, an error in the config.

    python benchmarks/start_up.py [--repeats 3]

The first step's time is read from the log in MLflow; what importing the libraries alone takes
(torch, transformers, Lightning, MLflow, PEFT) is subtracted. Caches are warm, and repetitions of
everything run in turn. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBRARIES = "import torch, transformers, lightning, mlflow, peft"
TRAIN = [
    "model=tiny",
    "model.init=random",
    "data=microworld",
    "reflection=external",
    "trainer.max_steps=1",
    "trainer.checkpoint=false",
]


def seconds(folder: Path, *words: str, code: int = 0) -> float:
    """Return the time that a Python process takes, which must end with ``code``."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    taken = time.monotonic() - start
    if done.returncode != code:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return taken


def first_step(folder: Path) -> float:
    """Return the time from the command to the first optimizer step."""
    start = time.time()
    seconds(folder, "-m", "tbr_lightning.train", *TRAIN)
    query = "select max(timestamp) from metrics where key = 'train/loss' and step = 1"
    with sqlite3.connect(folder / "mlflow.db") as store:
        (logged,) = store.execute(query).fetchone()
    return float(logged) / 1000 - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    names = ("libraries", "step", "verbs", "help", "error")
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ.setdefault("TBR_CACHE", str(folder / "cache"))
        first_step(folder)  # fills the caches
        for _ in range(args.repeats):
            found["libraries"].append(seconds(folder, "-c", LIBRARIES))
            found["step"].append(first_step(folder))
            found["verbs"].append(seconds(folder, "-m", "tbr_lightning", "--help"))
            found["help"].append(seconds(folder, "-m", "tbr_lightning.train", "--help"))
            wrong = ("-m", "tbr_lightning.train", "model=tini")
            found["error"].append(seconds(folder, *wrong, code=2))
    middle = {name: statistics.median(values) for name, values in found.items()}
    pairs = zip(found["step"], found["libraries"], strict=True)
    more = statistics.median(step - libraries for step, libraries in pairs)
    print(f"first step after {middle['step']:.1f} s, libraries alone {middle['libraries']:.1f} s")
    goals = {
        f"the first step at most 3 s after the libraries ({more:.1f} s)": more <= 3,
        f"the verbs within 1 s ({middle['verbs']:.2f} s)": middle["verbs"] <= 1,
        f"help within 1 s ({middle['help']:.2f} s)": middle["help"] <= 1,
        f"an error in the config within 1 s ({middle['error']:.2f} s)": middle["error"] <= 1,
    }
    for goal, met in goals.items():
        print(f"{'met   ' if met else 'MISSED'} {goal}")
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
