"""A suite as an MLflow GenAI dataset: prompts with what is expected of the answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.genai import datasets

from tbr_lightning.tracking.run import Run

DATASET = "tbr.dataset"
"""Tag of an evaluation's run: the id of its dataset."""

_WHOLE = "tbr.records"  # tag of a dataset: how many records it has, once all of them are there


def log_genai_dataset(
    run: Run,
    experiment_id: str,
    name: str,
    *,
    digest: str,
    records: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
) -> str | None:
    """Make the dataset of these prompts unless it is there, and link it to a run as an input.

    Args:
        run: The evaluation.
        experiment_id: Experiment whose tab *Datasets* shows it.
        name: Name of the suite and its half.
        digest: Digest of the prompts; the same prompts are one dataset, whatever runs use it.
        records: Each with ``inputs``, ``expectations`` and ``tags``, as MLflow has them.
        tags: Tags of the dataset, by which it is searched.

    Returns:
        The dataset's id, or ``None`` where the store keeps no datasets; that is said.
    """
    full = f"{name}-{digest}"
    try:
        there = datasets.search_datasets(
            experiment_ids=[experiment_id],
            filter_string=f"name = '{full}'",
            order_by=["created_time ASC"],
        )
        found = there[0] if there else datasets.create_dataset(full, experiment_id, dict(tags))
        if (found.tags or {}).get(_WHOLE) != str(len(records)):
            found.merge_records([dict(record) for record in records])
            datasets.set_dataset_tags(found.dataset_id, {_WHOLE: str(len(records))})
            found = datasets.get_dataset(dataset_id=found.dataset_id)  # with its new digest
        run.log_input(found, "evaluation", {})
    except (MlflowException, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        print(
            f"the suite is not an MLflow GenAI dataset, since the store does not take it ({first})",
            file=sys.stderr,
        )
        return None
    run.set_tags({DATASET: str(found.dataset_id)})
    return str(found.dataset_id)
