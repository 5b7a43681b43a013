"""General ability through EleutherAI's harness, an optional extra (``.[lm-eval]``).

Source:
    Gao et al., A framework for few-shot language model evaluation, Zenodo, 2024.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.errors import UserError, near
from tbr_lightning.evaluation.statistics import Rate
from tbr_lightning.models.backbone import Backbone

TASKS = Path(__file__).parent / "lm_eval_tasks"
_FILES = {
    "mmlu": "mmlu/test/*_test.csv",
    "arc_challenge": "arc/ARC-Challenge*",
    "truthfulqa_mc1": "truthfulqa/TruthfulQA.csv",
    "truthfulqa_mc2": "truthfulqa/TruthfulQA.csv",
    "gsm8k": "gsm8k/test.jsonl",
}
_METRICS = ("exact_match,flexible-extract", "exact_match,none", "acc,none")  # the first that is
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Measured:
    """One number of the harness.

    Attributes:
        value: Mean over the documents.
        low: Lower end of its 95% interval.
        high: Upper end.
        n: Documents.
        metric: The harness' name of it, with its filter.
        shots: Examples before each question.
        local: Asked with a task file of ours, from local files.
    """

    value: float
    low: float
    high: float
    n: int
    metric: str
    shots: int
    local: bool


def missing(config: SuiteConfig) -> list[str]:
    """Return one sentence for each thing that ``suite.lm_eval`` lacks."""
    if not config.lm_eval:
        return []
    if importlib.util.find_spec("lm_eval") is None:
        return [
            f"suite.lm_eval=[{','.join(config.lm_eval)}] needs the package lm_eval, which is not "
            "installed: pip install -e '.[lm-eval]', or use suite.choices"
        ]
    if config.root is None:
        return []
    return [
        f"suite.root='{config.root}' has no {_FILES[name]}: put it there, or leave {name} out of "
        "suite.lm_eval"
        for name in config.lm_eval
        if name in _FILES and not any(Path(config.root).glob(_FILES[name]))
    ]


def run_harness(backbone: Backbone, config: SuiteConfig, batch_size: int) -> dict[str, Measured]:
    """Run the tasks of ``suite.lm_eval`` on a loaded model.

    With ``suite.root`` the tasks that ship here read its files; any other is the harness' own and
    asks the hub. A think block of an answer is stripped before it is marked.

    Raises:
        UserError: A task is not known, or its rows cannot be had.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    local = {name: f"tbr_{name}" for name in config.lm_eval if config.root and name in _FILES}
    tasks = TaskManager(
        include_path=str(TASKS),
        include_defaults=len(local) < len(set(config.lm_eval)),  # reading thousands takes seconds
        metadata={"root": config.root} if config.root else None,
    )
    for name in config.lm_eval:
        if local.get(name, name) not in tasks.all_tasks:
            raise UserError(f"suite.lm_eval: '{name}' is not known{near(name, tasks.all_tasks)}")
    model = HFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        batch_size=batch_size,
        think_end_token=backbone.think_format.think_close,
    )
    try:
        results = simple_evaluate(
            model,
            tasks=[local.get(name, name) for name in dict.fromkeys(config.lm_eval)],
            limit=config.limit,
            apply_chat_template=config.lm_eval_chat,
            gen_kwargs={"max_gen_toks": backbone.think_format.max_new_tokens},
            task_manager=tasks,
            log_samples=False,
        )
    except (OSError, ConnectionError) as error:
        raise UserError(
            f"suite.lm_eval: the rows cannot be had ({type(error).__name__}): go online once, or "
            "give suite.root=DIR"
        ) from error
    return {
        name: _measured(results, local.get(name, name), local=name in local)
        for name in dict.fromkeys(config.lm_eval)
    }


def _measured(results: Any, task: str, *, local: bool) -> Measured:
    numbers = results["results"][task]
    metric = next((name for name in _METRICS if name in numbers), None)
    if metric is None:
        raise UserError(
            f"suite.lm_eval: {task} has no accuracy or exact match: leave it out, or run lm_eval"
        )
    leaves = _leaves(results, task)
    n = sum(int(results["n-samples"][leaf]["effective"]) for leaf in leaves)
    shots = int(results["n-shot"].get(leaves[0], 0))
    value = float(numbers[metric])
    count = value * n
    if math.isclose(count, round(count), abs_tol=1e-6):
        low, high = Rate(round(count), n).interval
    else:  # a mean of shares, as MC2: the harness' standard error
        base, _, rule = metric.partition(",")
        error = numbers.get(f"{base}_stderr,{rule}")
        spread = _Z * error if isinstance(error, float) else math.nan
        low, high = max(value - spread, 0.0), min(value + spread, 1.0)
    return Measured(value, low, high, n, metric, shots, local)


def _leaves(results: Any, task: str) -> list[str]:
    below = results.get("group_subtasks", {}).get(task) or []
    return [leaf for name in below for leaf in _leaves(results, name)] or [task]
