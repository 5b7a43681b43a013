"""Every training path that wants a GPU, each tried and measured on one, in about ten minutes.

    python benchmarks/gpu.py [--only WORD] [--seconds 540] [--json FILE]

Prints for each path whether it ran, tokens a second, model FLOPs as a share of the measured matrix
peak, and peak memory. Weights are random (the architectures are the published ones), rows are made
here, so nothing is downloaded. Exit code 1 if a path failed, 2 without a CUDA device.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SMALL = [
    "model=smollm2_135m",
    "model.init=random",
    "model.tokenizer=bytes",
    "model.max_length=2048",
    "trainer.batch_size=8",
]
SEVEN_B = [
    "model=mistral",
    "model.init=random",
    "model.tokenizer=bytes",
    "model.max_length=2048",
]
LORA = ["adapter=lora", "adapter.export=adapter"]


@dataclass
class Way:
    """One way to train: its name, its overrides, and how many optimizer steps it takes."""

    name: str
    overrides: list[str] = field(default_factory=list)
    steps: int = 12


PATHS = [
    Way("135M full, bf16-mixed", [*SMALL]),
    Way("135M full, bf16-true", [*SMALL, "trainer.precision=bf16-true"]),
    Way("135M lora", [*SMALL, *LORA]),
    Way(
        "7B lora, 2048 tokens",
        [*SEVEN_B, *LORA, "trainer.batch_size=4", "trainer.gradient_checkpointing=true"],
        steps=6,
    ),
    Way(
        "7B lora, liger, 2048 tokens",
        [
            *SEVEN_B,
            *LORA,
            "trainer.batch_size=4",
            "trainer.gradient_checkpointing=true",
            "trainer.liger=true",
        ],
        steps=6,
    ),
    Way(
        "7B full, bf16-true, 2048 tokens",
        [
            *SEVEN_B,
            "trainer.batch_size=2",
            "trainer.precision=bf16-true",
            "trainer.gradient_checkpointing=true",
        ],
        steps=6,
    ),
    Way("135M full, gradient checkpointing", [*SMALL, "trainer.gradient_checkpointing=true"]),
    Way("135M full, compile", [*SMALL, "trainer.compile=true"]),
    Way("135M full, liger", [*SMALL, "trainer.liger=true"]),
    Way("135M full, ZeRO 2", [*SMALL, "trainer=deepspeed_zero2", "trainer.devices=1"]),
    Way("135M lora, ZeRO 3", [*SMALL, *LORA, "trainer=deepspeed_zero3", "trainer.devices=1"]),
    Way("135M full, FSDP", [*SMALL, "trainer=fsdp", "trainer.devices=1"]),
    Way("135M qlora", [*SMALL, "adapter=qlora"]),
    Way("135M full, flex attention, packed", [*SMALL, "model.attention=flex_attention"]),
]


def main() -> int:
    """Try the paths in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="paths whose name holds this word")
    parser.add_argument("--seconds", type=float, default=540, help="start no path after so many")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: this machine has no CUDA device", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}; peak is of a bf16 matrix product", flush=True)
    print(f"{'path':38}{'tokens/s':>10}{'of peak':>9}{'GiB':>7}{'s':>7}  note", flush=True)
    start, found = time.monotonic(), []
    for path in PATHS:
        if args.only not in path.name:
            continue
        if time.monotonic() - start > args.seconds:
            found.append({"path": path.name, "note": "not started: time was up"})
            print(f"{path.name:38} not started: time was up", flush=True)
            continue
        row = measured(path)
        found.append(row)
        print(
            f"{path.name:38}{row.get('tokens', 0):10.0f}{row.get('share', 0):9.1%}"
            f"{row.get('gib', 0):7.1f}{row['seconds']:7.1f}  {row['note']}",
            flush=True,
        )
        if args.json:
            text = json.dumps({"device": name, "torch": torch.__version__, "paths": found})
            args.json.write_text(text, encoding="utf-8")
    return int(any(row["note"] != "ran" for row in found))


def measured(path: Way) -> dict[str, Any]:
    """Train by one path, in a folder of its own, and return its figures."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = Path.cwd()
    row: dict[str, Any] = {"path": path.name, "note": "ran"}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            row |= trained(path, Path(folder))
        except (Exception, SystemExit) as error:
            row["note"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            traceback.print_exc(limit=-4)
        finally:
            os.chdir(before)
    row["seconds"] = time.monotonic() - start
    row["gib"] = torch.cuda.max_memory_allocated() / 2**30
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    gc.collect()
    torch.cuda.empty_cache()
    return row


def trained(path: Way, folder: Path) -> dict[str, float]:
    """Return tokens a second and the share of the peak, the median over windows of steps."""
    from mlflow.tracking import MlflowClient

    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.training import pipeline

    words = " ".join(path.overrides)
    length = 2040 if SEVEN_B[0] in words else 500
    batch = next(int(w.split("=")[1]) for w in path.overrides if "batch_size" in w)
    rows(folder / "rows.json", path.steps * batch, length)
    config = compose_verb(
        "train",
        [
            *([] if "trainer=" in words else ["trainer=gpu"]),
            *path.overrides,
            "data=files",
            f"data.general={folder / 'rows.json'}",
            "reflection=none",
            "trainer.accumulate=1",
            "trainer.log_every=2",
            "trainer.checkpoint=false",
            f"trainer.max_steps={path.steps}",
            f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
            f"paths.cache={folder / 'cache'}",
            f"paths.runs={folder / 'runs'}",
        ],
    ).config
    result = pipeline.run(config)

    def last(metric: str) -> float:
        # The first windows hold what is done once: compilation, memory, caches.
        history = MlflowClient().get_metric_history(result.run_id, metric)
        values = sorted(point.value for point in history[len(history) // 2 :])
        return values[len(values) // 2]

    return {"tokens": last("train/tokens_per_second"), "share": last("train/flop_utilisation")}


def rows(file: Path, count: int, length: int) -> None:
    """Write rows of some ``length`` bytes, hence tokens, most of them in the answer."""
    draw = random.Random(0)
    words = [f"w{number}" for number in range(2000)]

    def text(size: int) -> str:
        made = ""
        while len(made) < size:
            made += draw.choice(words) + " "
        return made[:size].strip()

    made = [
        {"instruction": f"{number} {text(60)}", "output": text(length - 120)}
        for number in range(count)
    ]
    file.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
