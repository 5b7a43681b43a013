"""One measurement in a process of its own, so that peak memory is the measured program's alone.

Used by `sft_against_trl.py`, `dpo_against_trl.py`, `batching.py` and `logging_cost.py`; not a
benchmark by itself. The model is a random Llama (6 layers, width 256, vocabulary 8,000) on rows of
Alpaca, which are read from $TBR_SHARED_DATA or ../shared/data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT = 200
RATE, WARMUP = 1e-3, 0.03
MODEL = [
    "model=tiny",
    "model.init=random",
    "model.tokenizer=train",
    "model.vocab_size=8000",
    "model.architecture.hidden_size=256",
    "model.architecture.intermediate_size=688",
    "model.architecture.num_hidden_layers=6",
    "data=files",
    "reflection=none",
    "trainer.batch_size=8",
    f"optimizer.lr={RATE}",
    f"optimizer.warmup={WARMUP}",
]


def alpaca() -> Path:
    """Return the file of the rows, or end with the reason."""
    for place in (os.environ.get("TBR_SHARED_DATA"), ROOT.parent / "shared" / "data"):
        if place and (found := Path(place) / "alpaca" / "random_9k.json").is_file():
            return found
    print("no rows: put alpaca/random_9k.json into ../shared/data or name its folder in")
    print("TBR_SHARED_DATA")
    sys.exit(2)


def asked(task: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Run one of this file's tasks in a new process and return what it found."""
    words = [sys.executable, __file__, task, str(folder), json.dumps(options)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        sys.exit(f"{task} {options} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment() -> dict[str, str]:
    """Return the environment of every measurement, ours or a peer's.

    Threads that spin while they wait would measure the neighbours on a shared machine.
    """
    return {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cpu",
    }


def peak_mib() -> float:
    """Return the largest resident set of this process so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:  # no Linux: this one counts what the parent held while it forked, too
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def prepare(
    folder: Path, rows: int, *, smallest: bool = False, pairs: bool = False
) -> dict[str, Any]:
    """Write model, tokenizer and tokenised rows; for the peer the same ids and masks as JSON.

    The dispreferred response of a pair is the response of the row after it.
    """
    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.data.example import Example
    from tbr_lightning.data.table import Examples
    from tbr_lightning.data.tokens import TokenRows, tokenise
    from tbr_lightning.models.backbone import load_backbone

    found = [row for row in json.loads(alpaca().read_text()) if row["output"].strip()]
    made = [
        Example(f"{r['instruction']}\n{r['input']}".strip(), r["output"], "general", "alpaca")
        for r in found[: 2000 + HELD_OUT]
    ]
    if pairs:
        lent = [row.response for row in (*made[1:], made[0])]
        made = [replace(row, rejected=text) for row, text in zip(made, lent, strict=True)]
        made = [row for row in made if row.rejected != row.response]
    config = compose_verb("train", [*MODEL, *(["objective=dpo"] if pairs else [])]).config
    if smallest:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        config.model.architecture |= sizes
        made = [row for row in made if len(row.prompt) + len(row.response) < 200]
    backbone = load_backbone(
        config.model, data="files", rows=Examples.of(made), cache=folder, seed=0
    )
    backbone.model.save_pretrained(folder / "base")
    backbone.tokenizer.save_pretrained(folder / "base")

    def tokens(name: str, part: list[Example]) -> TokenRows:
        done = tokenise(
            Examples.of(part),
            {},
            backbone.tokenizer,
            backbone.think_format,
            max_length=config.model.max_length,
            cache=folder / "cache",
            sequences=config.objective.sequences,
            per_row=config.objective.sequences_per_row,
            form=config.objective.form,
        )
        (folder / name).symlink_to(done.folder, target_is_directory=True)
        return done

    training, held_out = tokens("rows", made[:rows]), tokens("held_out", made[-HELD_OUT:])
    if pairs:
        sides = [(training[2 * i], training[2 * i + 1]) for i in range(training.data_rows)]
        plain = [
            {
                "prompt_ids": good.ids[: good.trigger].tolist(),
                "chosen_ids": good.ids[good.trigger :].tolist(),
                "rejected_ids": bad.ids[bad.trigger :].tolist(),
                "length": len(good.ids) + len(bad.ids),
            }
            for good, bad in sides
        ]
    else:
        plain = [
            {"input_ids": row.ids.tolist(), "completion_mask": [int(s > 0) for s in row.spans]}
            for row in training
        ]
    (folder / "rows.json").write_text(json.dumps(plain))
    return {
        "rows": training.data_rows,
        "tokens": int(training.lengths.sum()),
        "held_out": len(held_out),
        "parameters": sum(p.numel() for p in backbone.model.parameters()),
    }


def ours(
    folder: Path,
    steps: int,
    seed: int = 0,
    words: tuple[str, ...] = (),
    *,
    evaluate: bool = False,
    logging: bool = False,
) -> dict[str, Any]:
    """Train through the project's own ``fit``, with a local MLflow store."""
    from tbr_lightning import cli

    cli.quiet()
    from mlflow import MlflowClient

    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.models.backbone import load_folder
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.training.fit import Job, fit

    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        own = [
            f"seed={seed}",
            f"trainer.max_steps={steps}",
            f"tracking.uri=sqlite:///{place / 'mlflow.db'}",
            f"tracking.artifacts={place / 'artifacts'}",
            f"paths.runs={place / 'runs'}",
            f"paths.cache={place / 'cache'}",
        ]
        config = compose_verb("train", [*MODEL, *own, *words]).config
        backbone = load_folder(folder / "base", origin="benchmark", thinks=False)
        spent = _clocked() if logging else None
        worked = time.process_time()
        with start_run("train", "benchmark", config, config.tracking) as opened:
            fitted = fit(
                Job(
                    config=config,
                    run_id=opened.id,
                    what="benchmark",
                    folder=place / "runs",
                    rows=(folder / "rows").resolve(),
                    validation=None,
                    tokenizer=folder / "base",
                ),
                backbone,
            )
        worked, peak = time.process_time() - worked, peak_mib()
        losses = MlflowClient().get_metric_history(opened.id, "train/loss")
        result = {
            "seconds": fitted.done.seconds,
            "cpu_seconds": worked,
            "tokens": _tokens_seen(config, folder, fitted.done.steps),
            "peak_mib": peak,
            "losses": [metric.value for metric in losses],
        }
        if spent is not None:
            result["logging_seconds"] = spent[0]
        if evaluate:
            result["held_out"] = held_out_loss(fitted.model, folder)
        return result


def _tokens_seen(config: Any, folder: Path, steps: int) -> int:
    batches = _batches(config, folder)
    plans = (batches.plan(epoch) for epoch in range(config.trainer.epochs))
    wanted = [step for plan in plans for step in plan][:steps]
    lengths = batches.rows.lengths.reshape(-1, config.objective.sequences_per_row).sum(axis=1)
    return sum(int(lengths[i]) for step in wanted for part in step for i in part)


def _batches(config: Any, folder: Path) -> Any:
    from tbr_lightning.data.tokens import TokenRows
    from tbr_lightning.training.batches import TrainBatches

    return TrainBatches(
        TokenRows((folder / "rows").resolve()),
        config.objective,
        batch_size=config.trainer.batch_size,
        accumulate=1,
        pad_id=0,
        seed=config.seed,
    )


def _clocked() -> list[float]:
    """Count the seconds inside the metric buffer."""
    from tbr_lightning.tracking.metrics import MetricBuffer

    spent, depth = [0.0], [0]

    def clocked(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            depth[0] += 1
            start = time.perf_counter()
            try:
                return inner(*args)
            finally:
                depth[0] -= 1
                if depth[0] == 0:  # else the caller's clock has it
                    spent[0] += time.perf_counter() - start

        return call

    for name in ("add", "flush"):
        setattr(MetricBuffer, name, clocked(getattr(MetricBuffer, name)))
    return spent


def order(folder: Path) -> dict[str, Any]:
    """Return our rows in the order in which an epoch takes them."""
    from tbr_lightning.config.compose import compose_verb

    plan = _batches(compose_verb("train", MODEL).config, folder).plan(0)
    return {"order": [i for step in plan for part in step for i in part]}


def trl(
    folder: Path,
    steps: int,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    order: list[int] | None = None,
    *,
    evaluate: bool = False,
) -> dict[str, Any]:
    """Train through TRL's ``SFTTrainer`` on the same ids, loss on the completion only."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = json.loads((folder / "rows.json").read_text())
    if order is not None:
        rows = [rows[i] for i in order]
    given = {"per_device_train_batch_size": 8, **(options or {})}
    with tempfile.TemporaryDirectory() as made:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder / "base"),
            args=SFTConfig(
                output_dir=made,
                use_cpu=True,
                seed=seed,
                max_steps=steps,
                learning_rate=RATE,
                lr_scheduler_type="cosine",
                warmup_steps=round(steps * WARMUP),
                completion_only_loss=True,
                disable_tqdm=True,
                **given,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        )
        start, worked = time.monotonic(), time.process_time()
        trainer.train()
        seconds, worked = time.monotonic() - start, time.process_time() - worked
        result = {
            "seconds": seconds,
            "cpu_seconds": worked,
            # The number that TRL logs as `num_tokens`; there is no log where logging is off.
            "tokens": trainer._total_train_tokens,
            "peak_mib": peak_mib(),
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        }
        if evaluate:
            result["held_out"] = held_out_loss(trainer.model, folder)
        return result


def trl_dpo(
    folder: Path, steps: int, seed: int = 0, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train through TRL's ``DPOTrainer`` on the same ids; a reference computed before is not timed.

    Ours computes its reference before the timed steps, too.
    """
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):  # TRL tokenises texts only
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = json.loads((folder / "rows.json").read_text())
    given = {"per_device_train_batch_size": 8, **(options or {})}
    with tempfile.TemporaryDirectory() as made:
        trainer = Tokenised(
            model=AutoModelForCausalLM.from_pretrained(folder / "base"),
            args=DPOConfig(
                output_dir=made,
                use_cpu=True,
                seed=seed,
                max_steps=steps,
                max_length=None,
                beta=0.1,
                learning_rate=RATE,
                lr_scheduler_type="cosine",
                warmup_steps=round(steps * WARMUP),
                disable_tqdm=True,
                report_to="none",
                **given,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        )
        start, worked = time.monotonic(), time.process_time()
        trainer.train()
        seconds, worked = time.monotonic() - start, time.process_time() - worked
        return {
            "seconds": seconds,
            "cpu_seconds": worked,
            "tokens": trainer._total_train_tokens,
            "peak_mib": peak_mib(),
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        }


def held_out_loss(model: Any, folder: Path) -> float:
    """Return the mean loss of a supervised token of the rows that nobody trained on."""
    import torch

    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.data.tokens import TokenRows
    from tbr_lightning.objectives.objective import StepWeights

    rows = TokenRows((folder / "held_out").resolve())
    objective = compose_verb("train", MODEL).config.objective
    by_length = sorted(range(len(rows)), key=lambda i: int(rows.lengths[i]))
    loss = weight = 0.0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            some = by_length[start : start + 8]
            batch = objective.collate(rows, some, 0, form="bucketed", step=StepWeights(1.0))
            loss += float(objective.loss(model, batch).total)
            weight += float(batch.weights.sum())
    return loss / weight


TASKS = {"prepare": prepare, "ours": ours, "order": order, "trl": trl, "trl_dpo": trl_dpo}

if __name__ == "__main__":
    task, where, settings = sys.argv[1:]
    print(json.dumps(TASKS[task](Path(where), **json.loads(settings))))
