"""TRL's trainers on the model and rows that `fits.py` prepared; not a benchmark by itself.

`settings` lists every way to set TRL up that may be fastest on a CPU, `trl_search` tries them all
in one process, `trl` and `trl_dpo` measure one of them in a process of its own.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from fits import BATCH, WARMUP, held_out_loss, peak_mib

QUIET = {"logging_strategy": "no", "save_strategy": "no"}
FLOAT32 = {"bf16": False, "gradient_checkpointing": False}


def settings(facts: dict[str, Any], *, units: bool, pairs: bool) -> dict[str, dict[str, Any]]:
    """Return TRL's settings by name.

    Args:
        facts: What `prepare` returned.
        units: Whether bfloat16 is worth trying.
        pairs: Whether for `DPOTrainer`, which has neither padding-free nor packed batches.
    """
    grouped = {"train_sampling_strategy": "group_by_length"}
    before = {"precompute_ref_log_probs": True}
    # A packed line is about as long as 8 rows, so that a step sees as many tokens as ours.
    line = max(round(BATCH * facts["tokens"] / facts["rows"]), facts["longest"])
    forms: dict[str, dict[str, Any]] = {
        "padded": {},
        "grouped by length": grouped,
        "padding-free": {"padding_free": True, "max_length": None},
        "packed": {"packing": True, "max_length": line, "per_device_train_batch_size": 1},
    }
    if pairs:
        forms = {
            "reference before": before,
            "reference before, grouped by length": {**before, **grouped},
            "reference beside": {},
        }
    precisions: dict[str, dict[str, Any]] = {"float32": {"bf16": False}}
    if units:
        precisions["bfloat16"] = {"bf16": True}
        if facts["lora"]:
            precisions["bfloat16, base too"] = {"bf16": True, "weights": "bfloat16"}
    kept = {"": False, ", checkpointing": True}
    return {
        f"{precision}, {form}{name}": {
            **QUIET,
            **options,
            **shape,
            "gradient_checkpointing": kept[name],
        }
        for (precision, options), (form, shape), name in product(
            precisions.items(), forms.items(), kept
        )
    }


def trainer(
    folder: Path,
    made: str,
    options: dict[str, Any],
    *,
    kind: str,
    steps: int,
    seed: int,
    order: Any,
) -> Any:
    """Return TRL's trainer of a kind, ``trl`` or ``trl_dpo``, ready to train."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = json.loads((folder / "facts.json").read_text())
    rows = json.loads((folder / "rows.json").read_text())
    if order is not None:
        rows = [rows[i] for i in order]
    given = {"per_device_train_batch_size": BATCH, **options}
    weights = getattr(torch, given.pop("weights", "float32"))
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=weights)
    if (given.get("padding_free") or given.get("packing")) and not keeps_rows_apart(model):
        raise RuntimeError("rows that are packed see each other here")
    if kind == "trl":
        from trl import SFTConfig as Config
        from trl import SFTTrainer as Trainer

        given["completion_only_loss"] = True
    else:
        from trl import DPOConfig as Config
        from trl import DPOTrainer

        class Trainer(DPOTrainer):  # TRL tokenises texts only
            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        given |= {"max_length": None, "beta": 0.1}
    config = Config(
        output_dir=made,
        use_cpu=True,
        seed=seed,
        max_steps=steps,
        learning_rate=facts["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=round(steps * WARMUP),
        disable_tqdm=True,
        report_to="none",
        **given,
    )
    return Trainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=LoraConfig(**facts["lora"]) if facts["lora"] else None,
    )


def keeps_rows_apart(model: Any) -> bool:
    """Whether a row after another in one line gets the logits that it gets alone."""
    import torch

    first, second = torch.arange(5, 17), torch.arange(20, 29)
    places = torch.cat([torch.arange(len(first)), torch.arange(len(second))])
    line = torch.cat([first, second])[None]
    model.train()  # no cache, as in training
    with torch.no_grad():
        packed = model(input_ids=line, position_ids=places[None], use_cache=False).logits
        alone = model(input_ids=second[None], use_cache=False).logits
    apart = (packed[0, len(first) :] - alone[0]).abs().max() / alone.abs().max()
    return bool(apart < (1e-3 if model.dtype == torch.float32 else 5e-2))


def trained(
    folder: Path,
    steps: int,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    order: list[int] | None = None,
    *,
    kind: str = "trl",
    evaluate: bool = False,
) -> dict[str, Any]:
    """Train on the same ids; what TRL does before its first step is not timed, as in ours."""
    with tempfile.TemporaryDirectory() as made:
        peer = trainer(folder, made, options or {}, kind=kind, steps=steps, seed=seed, order=order)
        start, worked = time.monotonic(), time.process_time()
        peer.train()
        seconds, worked = time.monotonic() - start, time.process_time() - worked
        result = {
            "seconds": seconds,
            "cpu_seconds": worked,
            "steps": peer.state.global_step,
            # The number that TRL logs as `num_tokens`; there is no log where logging is off.
            "tokens": int(peer._total_train_tokens),
            "dtype": "bfloat16" if peer.args.bf16 else "float32",
            "peak_mib": peak_mib(),
            "losses": [entry["loss"] for entry in peer.state.log_history if "loss" in entry],
        }
        if evaluate:
            result["held_out"] = held_out_loss(peer.model, folder)
        return result


def search(
    folder: Path, kind: str, steps: int, rounds: int, settings: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the tokens per second of each setting, the best of some rounds, or its error."""
    found: dict[str, Any] = {}
    trained(folder, 1, options=next(iter(settings.values())), kind=kind)  # warms
    for _ in range(rounds):
        for name, options in settings.items():
            if isinstance(found.get(name), str):
                continue
            try:
                done = trained(folder, steps, options=options, kind=kind)
                found[name] = max(done["tokens"] / done["seconds"], found.get(name, 0.0))
            except (RuntimeError, ValueError, TypeError, ImportError) as error:
                found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            gc.collect()
    return found


def dpo(folder: Path, steps: int, **how: Any) -> dict[str, Any]:
    """Train by direct preference optimisation; ours computes its reference untimed, too."""
    return trained(folder, steps, kind="trl_dpo", **how)


TASKS = {"trl": trained, "trl_dpo": dpo, "trl_search": search}

if __name__ == "__main__":
    task, where, given = sys.argv[1:]
    print(json.dumps(TASKS[task](Path(where), **json.loads(given))))
