"""The arena: every baseline method tuned within one budget on dev, then compared on test."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from tbr_lightning.ablation import arena_table
from tbr_lightning.ablation.arena_plan import (
    MODEL_OF,
    WORDS,
    Arena,
    Bout,
    Rival,
    Tried,
    evaluate_config,
    load_arena,
    train_config,
)
from tbr_lightning.ablation.arena_table import RivalResult
from tbr_lightning.attribution import report
from tbr_lightning.attribution.words import NEUTRAL, SWAPS
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.evaluation import pipeline as evaluating
from tbr_lightning.preflight import missing_for
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.store import connect
from tbr_lightning.tuning import reuse
from tbr_lightning.tuning import space as spaces
from tbr_lightning.tuning.space import Parameter, Point, overrides_of


def run(path: Path, config: SweepConfig) -> None:
    """Tune, test and compare every rival; what an interrupted run finished is taken again."""
    arena = load_arena(path, config)
    arenas = [replace(arena, model=model) for model in arena.models or [arena.model]]
    for one in arenas:
        for line in [f"model {one.model}", *_plan(one, config)]:
            if config.dry_run:
                print(line)
    if config.dry_run:
        return
    connect(config.tracking)
    for one in arenas:
        _run(one, config, path.stem + (f"-{Path(one.model).stem}" if len(arenas) > 1 else ""))


def _run(arena: Arena, config: SweepConfig, stem: str) -> None:
    """Let the rivals compete on one model; ``stem`` names the files that it leaves here."""
    bout = Bout(arena, config)
    with start_run("sweep", f"arena {arena.model}", config, config.tracking) as opened:
        results: dict[str, RivalResult] = {}
        chosen: dict[str, Tried] = {}
        words: dict[str, str] | None = None
        for number, (name, written) in enumerate(arena.rivals.items(), start=1):
            if any(WORDS in word for word in written.evaluate) and words is None:
                words = _attributed(arena, chosen[arena.control].model_uri, config)
            rival = _filled(written, chosen, words or {})
            base = _base(arena, rival, chosen)
            tried = tune(bout, name, rival, base, chosen.get(arena.control))
            best = _best(arena, tried, chosen.get(arena.control))
            if best is not None:
                best = _over_seeds(bout, name, rival, best, base)
            control = results.get(arena.control)
            results[name] = arena_table.test(bout, (name, rival), tried, best, control)
            if best is not None:
                chosen[name] = best
            if best is not None and name == arena.control:
                arena = _as_chosen(arena, best)
                bout = Bout(arena, config)
            print(f"[{number}/{len(arena.rivals)}] {arena_table.line(results[name])}", flush=True)
            # All others are compared to it.
            if name == arena.control and results[name].answers is None:
                raise UserError(f"the control '{name}' failed: {results[name].why_not}")
        arena_table.log(opened, arena, results, stem)


def _as_chosen(arena: Arena, control: Tried) -> Arena:
    """Return the arena with what dev chose for the control as every training's setting."""
    fixed = overrides_of({key: control.point[key] for key in arena.space})
    return replace(arena, fixed=[*arena.fixed, *fixed])


def _base(arena: Arena, rival: Rival, chosen: Mapping[str, Tried]) -> Tried | None:
    """Return the point whose model a rival takes that trains nothing itself."""
    if rival.base:
        return Tried({}, arena.model, models=(arena.model,))
    return chosen.get(rival.of or arena.control)


def _over_seeds(bout: Bout, name: str, rival: Rival, best: Tried, base: Tried | None) -> Tried:
    """Return what dev chose with a model for each seed; the first is the one that dev saw."""
    if rival.train is None:
        return replace(best, models=base.models if base else (best.model_uri,))
    models = [best.model_uri]
    for seed in range(bout.arena.seed + 1, bout.arena.seed + bout.arena.seeds):
        settings = train_config(replace(bout.arena, seed=seed), rival, best.point, bout.config)
        named = replace(settings, run_name=f"train {name}, seed {seed}")
        named = replace(named, tags={**settings.tags, "tbr.arena_rival": name})
        key = reuse.train_key(settings)
        trained = reuse.train_or_take(named, key, take=bout.config.sweep.reuse)
        models.append(trained.model_uri)
    return replace(best, models=tuple(models))


def _plan(arena: Arena, config: SweepConfig) -> Iterator[str]:
    """Compose every corner before anything long begins, and yield a line for each rival.

    Raises:
        UserError: A corner does not compose, or lacks something.
    """
    missing: list[str] = []
    for name, rival in arena.rivals.items():
        filled = _filled(rival, {}, {"kill": "stop"})
        for point in spaces.cover(filled.space) or [{}]:
            evaluate_config(arena, filled, point, config, half="dev")
            if filled.train is not None:
                one = train_config(arena, filled, point, config)
                missing += missing_for(
                    one.model, one.data, one.reflection, one.trainer, one.adapter
                )
        points = _budget(arena, filled.space)
        what = "trained" if filled.train is not None else f"on {filled.of or arena.control}"
        what = "as it comes" if filled.base else what
        yield f"{name:28} {points} of its points, {what}: {filled.about}"
    if missing and not config.dry_run:
        raise UserError("\n".join(dict.fromkeys(missing)))
    yield from (f"missing: {sentence}" for sentence in dict.fromkeys(missing))


def _budget(arena: Arena, space: Mapping[str, Parameter]) -> int:
    try:
        return min(arena.trials, len(spaces.cells(dict(space))))
    except UserError:  # ranges have no number of points
        return arena.trials


def _filled(rival: Rival, chosen: Mapping[str, Tried], words: Mapping[str, str]) -> Rival:
    """Replace the placeholders for models and words."""
    pairs = ",".join(f"{old}: {new}" for old, new in words.items())
    stand_for = {f"{{{WORDS}}}": f"{{{pairs}}}", f"[{WORDS}]": f"[{','.join(words)}]"}
    for word in rival.evaluate:
        if MODEL_OF in word:
            other = word.partition(MODEL_OF)[2]
            # A model that is not there yet, when a plan is composed, or that failed.
            uri = chosen[other].model_uri if other in chosen else ""
            stand_for[f"{MODEL_OF}{other}"] = f"'{uri}'"
    filled = list(rival.evaluate)
    for old, new in stand_for.items():
        filled = [word.replace(old, new) for word in filled]
    return replace(rival, evaluate=filled)


def tune(
    bout: Bout, name: str, rival: Rival, base: Tried | None, control: Tried | None
) -> list[Tried]:
    """Try points of a rival's space on the dev half, as many as the budget allows.

    All points of a small grid are tried, in order; else Optuna's TPE asks, from the arena's seed.
    A rival with one point is not evaluated on dev: there is nothing to choose.
    """
    arena = bout.arena
    compared = name == arena.control and arena.searches
    try:
        cells = spaces.cells(rival.space)
    except UserError:
        cells = []
    if 0 < len(cells) <= arena.trials:
        dev = len(cells) > 1 or compared
        return [_try(bout, name, rival, base, point, dev=dev) for point in cells]
    sampler = optuna.samplers.TPESampler(
        seed=arena.seed, n_startup_trials=max(arena.trials // 2, 1)
    )
    study = optuna.create_study(sampler=sampler)
    tried: list[Tried] = []
    for _ in range(arena.trials):
        trial = study.ask()
        point = spaces.suggest(rival.space, trial)
        same = next((one for one in tried if one.point == point), None)
        one = same or _try(bout, name, rival, base, point)
        if same is None:
            tried.append(one)
        study.tell(trial, _score(arena, one, control))
    return tried


def _try(
    bout: Bout, name: str, rival: Rival, base: Tried | None, point: Point, *, dev: bool = True
) -> Tried:
    arena, config = bout.arena, bout.config
    start = time.monotonic()
    tags = {"tbr.arena_rival": name}
    try:
        if rival.train is not None:
            settings = train_config(arena, rival, point, config)
            named = replace(settings, run_name=f"train {name}", tags={**settings.tags, **tags})
            key = reuse.train_key(settings)
            trained = reuse.train_or_take(named, key, take=config.sweep.reuse)
            base = Tried(point, trained.model_uri, trained.run_id)
        elif base is None:
            raise UserError(f"'{rival.of or arena.control}', whose model it takes, failed")
        metrics = {}
        if dev:
            asked = evaluate_config(arena, rival, point, config, half="dev", model=base.model_uri)
            done = evaluating.run(replace(asked, run_name=f"evaluate {name}, dev half", tags=tags))
            metrics = Run(done.run_id).numbers()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return Tried(point, seconds=time.monotonic() - start, why_not=in_one_line(error))
    return replace(base, point=point, metrics=metrics, seconds=time.monotonic() - start)


def _excess(arena: Arena, one: Tried, control: Tried) -> float:
    """Return by how much a point violates the bounds; at most 0 where it keeps them."""
    harm = one.metrics["harmful_compliance_rate"] - control.metrics["harmful_compliance_rate"]
    worst = harm - arena.max_harm
    if "general_accuracy" in one.metrics and "general_accuracy" in control.metrics:
        loss = control.metrics["general_accuracy"] - one.metrics["general_accuracy"]
        worst = max(worst, loss - arena.max_loss)
    return worst


def _score(arena: Arena, one: Tried, control: Tried | None) -> float:
    """Return what is minimised: false refusal; points that violate the bounds score above 1.

    Of the control itself it is the mean of both rates: one that refuses nothing controls nothing.
    """
    if one.why_not:
        return 3.0
    refused = one.metrics["false_refusal_rate"]
    if control is None:
        return (refused + one.metrics["harmful_compliance_rate"]) / 2
    excess = _excess(arena, one, control)
    return refused if excess <= 0 else 1.0 + excess + refused / 100


def _best(arena: Arena, tried: Sequence[Tried], control: Tried | None) -> Tried | None:
    done = [one for one in tried if not one.why_not]
    if len(done) < 2:
        return done[0] if done else None
    return min(done, key=lambda one: _score(arena, one, control))


def _attributed(arena: Arena, model: str, config: SweepConfig) -> dict[str, str]:
    """Return the words that weigh most in the control's false refusals on dev, with neutral ones.

    There are none where it refuses no look-alike.
    """
    asked = evaluate_config(arena, Rival(), {}, config, half="dev", model=model)
    done = evaluating.run(replace(asked, attribution=True), report.log)
    scores: dict[str, float] = {}
    for row in arena_table.artifact(done.run_id, "attribution.json"):
        for part in str(row["scores"]).split(" "):
            word, _, score = part.rpartition(":")
            word = word.strip(".,?!\"'").lower()
            if len(word) > 2 and word.isalpha():
                scores[word] = scores.get(word, 0.0) + float(score)
    best: list[Any] = sorted(scores, key=lambda word: -scores[word])[: arena.words]
    return {word: SWAPS.get(word, NEUTRAL) for word in best if scores[word] > 0}
