"""From rows to checked reflections in a run of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.config.verbs import ReflectConfig, TrainConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.precision import computed_in, convert, name_of
from tbr_lightning.preflight import check

if TYPE_CHECKING:
    from tbr_lightning.data.example import Example
    from tbr_lightning.models.backbone import Backbone
    from tbr_lightning.reflection.collect import Collected
    from tbr_lightning.reflection.record import Reflection
    from tbr_lightning.reflection.store import RecordStore
    from tbr_lightning.reflection.teachers import Teacher
    from tbr_lightning.tracking.run import Run


@dataclass(frozen=True)
class ReflectResult:
    """Result of a reflection run: its MLflow run and the reflections."""

    run_id: str
    collected: Collected
    seconds: float


def teacher_of(
    config: ReflectionConfig, data: Any, backbone: Backbone | None, seed: int
) -> Teacher:
    """Return the teacher that a config names."""
    from tbr_lightning.reflection import teachers

    if config.endpoint.base_url is None and (own := data.teacher(config.teacher, seed)) is not None:
        found: Teacher = own
        return found
    if config.teacher == "recorded":
        if config.run_id:
            return teachers.run_teacher(config.run_id)
        return teachers.recorded_teacher(config.path) if config.path else teachers.own_teacher()
    if config.teacher == "internal":
        from tbr_lightning.evaluation.store import weights_identity

        assert backbone is not None
        # A name stays when the weights behind it change, or the type that they are computed in.
        digest = weights_identity(backbone)[:12]
        return teachers.internal_teacher(config, backbone, f"{backbone.origin}/{digest}")
    return teachers.endpoint_teacher(config)


def connect_for_prompt(config: ReflectConfig | TrainConfig) -> None:
    """Connect to the store that holds the teacher's prompt, where it is in the prompt registry."""
    from tbr_lightning.tracking.prompts import in_registry
    from tbr_lightning.tracking.store import connect

    if in_registry(config.reflection.prompt):
        connect(config.tracking)


def store_of(config: ReflectConfig | TrainConfig) -> RecordStore[Reflection]:
    """Return the store of all reflections; it is not a cache: a teacher may have been paid."""
    from tbr_lightning.reflection.store import reflection_store

    return reflection_store(store_file(config))


def store_file(config: ReflectConfig | TrainConfig) -> Path:
    """Return the path of the store, whether it exists or not."""
    return Path(config.paths.runs) / "reflections.db"


def markers_of(config: ReflectConfig | TrainConfig) -> tuple[str, str]:
    """Return the markers of the model's think block, which no rationale may hold."""
    return config.model.think_open.strip(), config.model.think_close.strip()


def collect_in_run(
    config: ReflectConfig | TrainConfig,
    rows: Sequence[Example],
    teacher: Teacher,
    store: RecordStore[Reflection],
) -> ReflectResult:
    """Collect reflections in an MLflow run of stage ``reflect``."""
    from tbr_lightning.reflection.collect import collect, missing
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.tracking.prompts import log_prompt

    name = f"reflect {config.reflection.teacher} seed {config.seed}"
    tags = {"tbr.teacher": teacher.name, "tbr.prompt_hash": teacher.prompt_hash}
    with start_run("reflect", name, config, config.tracking, tags) as run:
        run.log_examples(rows, f"{config.data.name}-to-reflect", "reflection")
        if teacher.prompt:
            run.log_text(teacher.prompt, "prompt.txt")
            kind = config.reflection.teacher
            log_prompt(run, "teacher", f"tbr-teacher-{kind}", teacher.prompt)
        start = time.monotonic()
        try:
            collected = collect(
                rows,
                teacher,
                store,
                run.id,
                attempts=config.reflection.attempts,
                markers=markers_of(config),
                unstated=config.reflection.unstated,
            )
        except UserError as error:
            kept = len(rows) - len(missing(rows, teacher, store))
            raise UserError(f"{error} ({kept} of {len(rows)} reflections are kept)") from error
        seconds = time.monotonic() - start
        counts = collected.counts(config.reflection)
        run.log_metrics({**counts, "seconds": seconds})
        _log_reflections(run, rows, collected)
    return ReflectResult(run.id, collected, seconds)


def _log_reflections(run: Run, rows: Sequence[Example], collected: Collected) -> None:
    """Log accepted reflections and rejects as tables, and the accepted ones as a data set."""
    from tbr_lightning.tracking.run import REFLECTIONS

    prompts = {example.id: example for example in rows}
    table = [
        {
            "prompt": prompts[key].prompt,
            "kind": prompts[key].kind,
            "reflection": item.draft.text,
            "conclusion": item.draft.conclusion or "",
            "reject": item.reject or "",
            "teacher": item.teacher,
            "id": key,
        }
        for key, item in collected.reflections.items()
    ]
    accepted = [row for row in table if not row["reject"]]
    rejected = [row for row in table if row["reject"]]
    run.log_table(accepted or [{"id": ""}], REFLECTIONS)
    if rejected:
        run.log_table(rejected, "rejected.json")
    if accepted:
        run.log_dataset(accepted, "reflections", "reflection")


def run(config: ReflectConfig) -> ReflectResult:
    """Write the reflections of a data set."""
    from tbr_lightning.data.sources import load
    from tbr_lightning.reflection.collect import wanted

    if config.reflection.teacher == "none":
        raise UserError("reflection=none writes nothing: use internal, external or recorded")
    check(config.model, config.data, config.reflection, None)
    examples = load(config.data, config.seed, Path(config.paths.cache))
    rows = wanted(examples, config.reflection)
    if not rows:
        kinds = ", ".join(config.reflection.kinds)
        raise UserError(f"reflection.kinds=[{kinds}]: the data has no such row: choose other kinds")
    backbone = None
    if config.reflection.teacher == "internal":
        from tbr_lightning.models.backbone import load_backbone

        backbone = load_backbone(
            config.model,
            data=config.data.name,
            rows=examples,
            cache=Path(config.paths.cache),
            seed=config.seed,
        )
        convert(backbone.model, computed_in(name_of(backbone.model.dtype)))
    connect_for_prompt(config)
    teacher = teacher_of(config.reflection, config.data, backbone, config.seed)
    return collect_in_run(config, rows, teacher, store_of(config))


def summary(counts: dict[str, float], seconds: float) -> str:
    """Return one line with rows, accepted, rejected by reason, tokens, cost and seconds."""
    rejected = [
        f"{n:.0f} {name.partition('/')[2]}"
        for name, n in counts.items()
        if name.startswith("rejected/") and n
    ]
    return (
        f"reflections: {counts['rows']:.0f} rows, {counts['accepted']:.0f} accepted, "
        f"rejected: {', '.join(rejected) or 'none'}; asked for {counts['asked']:.0f} now; "
        f"{counts['prompt_tokens']:.0f} + {counts['completion_tokens']:.0f} tokens, "
        f"cost {counts['cost']:.4f}; {seconds:.1f} s"
    )
