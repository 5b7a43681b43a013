"""``sweep dry_run=true``: every corner of the space is composed, and the cost estimated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError
from tbr_lightning.preflight import missing_for
from tbr_lightning.progress import duration, track
from tbr_lightning.tuning.cluster import Job, Nodes, nodes_of, simulate
from tbr_lightning.tuning.costs import DEVICES, TOKENS, ModelCost, model_costs, requests
from tbr_lightning.tuning.costs import lines as cost_lines
from tbr_lightning.tuning.plan import Plan, here
from tbr_lightning.tuning.reuse import train_key
from tbr_lightning.tuning.space import corners as corners_of
from tbr_lightning.tuning.space import cover, overrides_of
from tbr_lightning.tuning.study import compose_train

MOST_CORNERS = 64
_MOST_COUNTED = 12  # corners whose rows are tokenised to be counted


def corners(plan: Plan) -> list[tuple[dict[str, Any], TrainConfig]]:
    """Return points and training configs of the space's corners, each config once.

    Raises:
        UserError: A corner does not compose.
    """
    study, config = plan.study, plan.config
    points = corners_of(study.space, MOST_CORNERS)
    found: dict[str, tuple[dict[str, Any], TrainConfig]] = {}
    for point in track(points, "corners", len(points)):
        one = here(compose_train(study, point, config.sweep.config_dir), config)
        found.setdefault(train_key(one), (point, one))
    return list(found.values())


def preflight(made: Sequence[tuple[dict[str, Any], TrainConfig]]) -> list[str]:
    """Return one sentence for each thing that some corner lacks."""
    sentences: dict[str, dict[str, Any]] = {}
    for point, config in made:
        for sentence in missing_for(
            config.model, config.data, config.reflection, config.trainer, config.adapter
        ):
            sentences.setdefault(sentence, point)
    return [
        f"{sentence} (as with {' '.join(overrides_of(point))})"
        for sentence, point in sentences.items()
    ]


def dry_run(plan: Plan) -> None:
    """Compose every corner, and print the estimated cost of the study.

    Raises:
        UserError: A corner does not compose or lacks something; all else is printed before.
    """
    study, trials, workers = plan.study, plan.trials, plan.workers
    made = corners(plan)
    print(f"study {study.key}: {study.about or study.name}")
    whole = len(corners_of(study.space, MOST_CORNERS)) > len(cover(study.space))
    which = "" if whole else " (together they cover every choice and both ends of every range)"
    print(f"{len(made)} distinct configs at the corners of the space compose{which}")
    print(
        f"{trials} trials of {study.seeds} training run{'s' if study.seeds > 1 else ''}, "
        f"{workers} at the same time"
    )
    sentences = [*preflight(made), *([plan.missing] if plan.missing else [])]
    runs = trials * study.seeds
    if sentences:
        print("rows: not counted, since something is missing here")
    else:
        _count(made, runs)
    if any(config.trainer.accelerator != "cpu" for _, config in made):
        _cost(plan, made, runs)
    elif plan.config.sweep.cluster is not None:
        print("sweep.cluster: not simulated, since every trial runs on a CPU")
    print("nothing was run")
    if sentences:
        raise UserError("\n".join(sentences))


def _count(made: Sequence[tuple[dict[str, Any], TrainConfig]], runs: int) -> None:
    """Print rows, tokens and, where this machine has the device that is wanted, the time."""
    from tbr_lightning.training.run_size import outlook

    step = max(1, len(made) // _MOST_COUNTED)
    counted = made[::step][:_MOST_COUNTED]
    looks = [outlook(one) for _, one in track(counted, "rows", len(counted))]
    rows, tokens = (
        sorted(values) for values in zip(*((o.rows, o.tokens) for o in looks), strict=True)
    )
    mean = sum(tokens) / len(tokens)
    print(f"rows a run: {_between(rows)}; tokens a run: {_between(tokens)}")
    print(f"tokens of all runs: about {mean * runs:,.0f}")
    seconds = [one.seconds for one in looks if one.seconds is not None]
    if len(seconds) < len(looks):
        print("time: not known, since this machine lacks the device that a run wants")
    else:
        time = duration(sum(seconds) / len(seconds) * runs)
        print(
            f"time: about {time} of training on devices like this one, without evaluation and the "
            "making of a base model"
        )


def _cost(plan: Plan, made: Sequence[tuple[dict[str, Any], TrainConfig]], runs: int) -> None:
    """Print hours and memory by kind of device, requests to the teacher, and when it would end."""
    costs = model_costs(made, runs)
    if not costs:
        return
    print(
        f"by arithmetic, for rows of {TOKENS} tokens: {len(costs)} models, {runs / len(costs):g} "
        "training runs each"
    )
    for line in cost_lines(costs):
        print(line)
    if asked := requests(made):
        print(f"requests to the teacher: {asked:,}, each harmful row once, stored for all models")
    if plan.config.sweep.cluster is not None:
        nodes = nodes_of(plan.config.sweep.cluster)
        for line in ends(costs, nodes, plan.workers, plan.study.seeds):
            print(line)


def ends(costs: Sequence[ModelCost], nodes: Nodes, workers: int, seeds: int) -> list[str]:
    """Return a line for each kind of device that holds every model: when the study would end.

    Args:
        costs: Costs of its models.
        nodes: Nodes of the cluster.
        workers: Trials that are handed over at a time.
        seeds: Training runs of a trial, one after the other.

    Raises:
        UserError: A trial asks for more devices than a node has.
    """
    told = []
    for kind, (peak, memory) in DEVICES.items():
        if any(one.memory > memory for one in costs):
            continue
        kinds = [
            Job(one.devices, one.hours(peak) / one.runs / one.devices * seeds) for one in costs
        ]
        draw = random.Random(0)  # which trial comes when is the sampler's
        draw.shuffle(kinds)
        trials = round(sum(one.runs for one in costs) / seeds)
        jobs = [kinds[number % len(kinds)] for number in range(trials)]
        draw.shuffle(jobs)
        found = simulate(jobs, nodes, workers)
        told.append(
            f"on {nodes.count} nodes of {nodes.devices} {kind}, {workers} trials at the same time: "
            f"{found.hours:,.1f} hours to the last trial's end, where no schedule takes less than "
            f"{found.ideal:,.1f}; training alone, by simulation"
        )
    return told


def _between(values: Sequence[int]) -> str:
    low, high = values[0], values[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
