"""One measurement in a process of its own, so that peak memory is the measured program's alone.

Used by the benchmarks of training; not a benchmark by itself. `prepare` writes a model and rows
into a folder, `ours` trains on them; the tasks of TRL are in `trl_fits.py`. The small model is a
random Llama (6 layers, width 256, vocabulary 8,000), in bfloat16 where the processor has units; a
real one is named by its folder or GGUF file.
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

import machine
import rows as source

HELD_OUT = 200
BATCH, RATE, WARMUP = 8, 1e-3, 0.03
COMMON = [
    "data=files",
    "reflection=none",
    "trainer=cpu",
    f"trainer.batch_size={BATCH}",
    f"optimizer.lr={RATE}",
    f"optimizer.warmup={WARMUP}",
]
SMALL = [
    "model=tiny",
    "model.init=random",
    "model.tokenizer=train",
    "model.vocab_size=8000",
    "model.dtype=bfloat16",
    "model.architecture.hidden_size=256",
    "model.architecture.intermediate_size=688",
    "model.architecture.num_hidden_layers=6",
    "model.max_length=512",
]
SMALLEST = [
    "model.architecture.hidden_size=32",
    "model.architecture.intermediate_size=64",
    "model.architecture.num_hidden_layers=2",
]
PEERS = ("trl", "trl_dpo", "trl_search")


def asked(task: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Run a task in a new process and return what it found, or end with what it wrote."""
    file = Path(__file__).with_name("trl_fits.py" if task in PEERS else "fits.py")
    return _run([str(file), task, str(folder), json.dumps(options)], f"{task} {options}")


def this_machine() -> machine.Machine:
    """Measure the machine in a process with the threads of every measurement."""
    script = str(Path(machine.__file__))
    return machine.Machine(**_run([script, "--json"], "the machine's rates"))


def _run(words: list[str], what: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment(), check=False
    )
    if done.returncode:
        said = "\n".join(part.strip()[-3000:] for part in (done.stdout, done.stderr) if part)
        sys.exit(f"{what} failed (exit code {done.returncode}):\n{said or 'it wrote nothing'}")
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
    folder: Path,
    rows: int,
    *,
    model: str | None = None,
    smallest: bool = False,
    pairs: bool = False,
    words: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Write model, tokenizer and tokenised rows; for the peer the same ids and masks as JSON.

    The dispreferred response of a pair is the response of the row after it.

    Args:
        folder: Receives `base`, `rows`, `held_out`, and `facts.json` with what is returned.
        rows: Training rows.
        model: Folder or GGUF file of a real model.
        smallest: Whether a random model is of two narrow layers, and its rows short.
        pairs: Whether rows are pairs for direct preference optimisation.
        words: Further overrides of the config, such as an adapter.
    """
    from tbr_lightning.data.example import Example
    from tbr_lightning.data.table import Examples
    from tbr_lightning.models.backbone import load_backbone

    found, origin = source.pairs(2000 + HELD_OUT)
    made = [Example(prompt, response, "general", "alpaca") for prompt, response in found]
    if pairs:
        lent = [row.response for row in (*made[1:], made[0])]
        made = [replace(row, rejected=text) for row, text in zip(made, lent, strict=True)]
        made = [row for row in made if row.rejected != row.response]
    if smallest:
        made = [row for row in made if len(row.prompt) + len(row.response) < 200]
    own = [*SMALL, *(SMALLEST if smallest else ())]
    if model is not None:
        place = str(Path(model).resolve())
        own = ["model=hub", f"model.path='{place}'", "model.max_length=512"]
    own += [*COMMON, *(["objective=dpo"] if pairs else []), *words]
    (folder / "words.json").write_text(json.dumps(own))
    config = composed(folder)
    backbone = load_backbone(
        config.model,
        data="files",
        rows=Examples.of(made),
        cache=folder / "cache",
        seed=0,
        dtype="float32",
    )
    backbone.model.save_pretrained(folder / "base")
    backbone.tokenizer.save_pretrained(folder / "base")
    training = _tokenised(folder, "rows", Examples.of(made[:rows]), backbone, config)
    held_out = _tokenised(folder, "held_out", Examples.of(made[-HELD_OUT:]), backbone, config)
    (folder / "rows.json").write_text(json.dumps(_plain(training, pairs=pairs)))
    facts = {
        "rows": training.data_rows,
        "tokens": int(training.lengths.sum()),
        "longest": int(training.lengths.max()),
        "held_out": len(held_out),
        "origin": origin,
        "lr": config.optimizer.lr,
        **_operations(config, backbone.model, training),
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    return facts


def composed(folder: Path, *more: str) -> Any:
    """Return the config of `train` that a folder was prepared with."""
    from tbr_lightning.config.compose import compose_verb

    words = json.loads((folder / "words.json").read_text())
    return compose_verb("train", [*words, *more]).config


def _tokenised(folder: Path, name: str, part: Any, backbone: Any, config: Any) -> Any:
    from tbr_lightning.data.tokens import tokenise

    done = tokenise(
        part,
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


def _plain(rows: Any, *, pairs: bool) -> list[dict[str, Any]]:
    if not pairs:
        return [
            {"input_ids": row.ids.tolist(), "completion_mask": [int(s > 0) for s in row.spans]}
            for row in rows
        ]
    return [
        {
            "prompt_ids": good.ids[: good.trigger].tolist(),
            "chosen_ids": good.ids[good.trigger :].tolist(),
            "rejected_ids": bad.ids[bad.trigger :].tolist(),
            "length": len(good.ids) + len(bad.ids),
        }
        for good, bad in ((rows[2 * i], rows[2 * i + 1]) for i in range(rows.data_rows))
    ]


def _operations(config: Any, model: Any, rows: Any) -> dict[str, Any]:
    """Return the parameters, and the FLOPs that training needs for a token of these rows.

    Only supervised tokens need logits, whoever computes more.
    """
    from tbr_lightning.models.adapters import with_adapter
    from tbr_lightning.models.architecture import flops_per_logits, flops_per_token

    adapted = with_adapter(model, config.adapter)
    sizes = [(p.numel(), p.requires_grad) for p in adapted.parameters()]
    parameters, trained = sum(n for n, _ in sizes), sum(n for n, wanted in sizes if wanted)
    flops = flops_per_token(
        model.config, trainable=trained, total=parameters, context=int(rows.lengths.mean())
    )
    logits = flops_per_logits(model.config, trained=config.adapter.name == "none")
    supervised = 1 - float(rows.triggers.sum() / rows.lengths.sum())
    adapter = config.adapter
    return {
        "parameters": parameters,
        "trained": trained,
        "flops_per_token": flops - logits * (1 - supervised),
        "lora": None
        if adapter.name == "none"
        else {
            "r": adapter.r,
            "lora_alpha": adapter.alpha,
            "lora_dropout": adapter.dropout,
            "target_modules": adapter.target_modules,
            "task_type": "CAUSAL_LM",
        },
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
    from tbr_lightning.processes import quiet

    quiet()
    from mlflow import MlflowClient

    from tbr_lightning.models.backbone import load_folder
    from tbr_lightning.models.precision import name_of
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.training.fit import Job, fit
    from tbr_lightning.training.precision import precision_of, training_dtype
    from tbr_lightning.training.speed import compute_dtype

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
        config = composed(folder, *own, *words)
        backbone = load_folder(
            folder / "base", origin="benchmark", thinks=False, dtype=training_dtype(config)
        )
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
            "steps": fitted.done.steps,
            "tokens": _tokens_seen(config, folder, fitted.done.steps),
            "dtype": name_of(compute_dtype(precision_of(config))),
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
    from tbr_lightning.tracking.metric_spool import MetricBuffer

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
    plan = _batches(composed(folder), folder).plan(0)
    return {"order": [i for step in plan for part in step for i in part]}


def held_out_loss(model: Any, folder: Path) -> float:
    """Return the mean loss of a supervised token of the rows that nobody trained on."""
    import torch

    from tbr_lightning.data.tokens import TokenRows
    from tbr_lightning.objectives.batch import StepWeights

    rows = TokenRows((folder / "held_out").resolve())
    objective = composed(folder).objective
    by_length = sorted(range(len(rows)), key=lambda i: int(rows.lengths[i]))
    loss = weight = 0.0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            some = by_length[start : start + BATCH]
            batch = objective.collate(rows, some, 0, form="bucketed", step=StepWeights(1.0))
            loss += float(objective.loss(model, batch).total)
            weight += float(batch.weights.sum())
    return loss / weight


TASKS = {"prepare": prepare, "ours": ours, "order": order}

if __name__ == "__main__":
    task, where, settings = sys.argv[1:]
    print(json.dumps(TASKS[task](Path(where), **json.loads(settings))))
