"""``data.pairs=sampled``: preference pairs between the model's own answers, from both sides.

An answer is right where a harmful request is refused, or any other one helped with; a pair is the
best right answer over the worst wrong one. Among right answers one with a reflection that passes
the checks of :mod:`tbr_lightning.reflection.checks` is better than one without.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.cache import alone, write_whole
from tbr_lightning.data.conclusions import stated_conclusion
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.degenerate import degenerate
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.judges.base import REFUSALS
from tbr_lightning.evaluation.judges.prompts import log_judge_prompt
from tbr_lightning.evaluation.verdicts import check_judges
from tbr_lightning.kinds import Kind
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.objectives.objective import Objective
from tbr_lightning.reflection.checks import reject_reason
from tbr_lightning.reflection.pipeline import markers_of
from tbr_lightning.reflection.record import Draft
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.run import Run
from tbr_lightning.training.devices import accelerator_of
from tbr_lightning.training.samples import Sampler, stores_of

Reason = Literal["all_right", "all_wrong", "cut", "unlabelled", "too_long"]
REASONS: dict[Reason, str] = {
    "all_right": "whose answers are all as they should be",
    "all_wrong": "none of whose answers is as it should be",
    "cut": "whose right answers the token limit ended (pairs.max_new_tokens, pairs.cut=accept)",
    "unlabelled": "with fewer than two answers that the judge could label",
    "too_long": "longer than the model's context",
}
"""Why a prompt gives no pair, as it is told."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of a data set.

    Attributes:
        rows: Row of each prompt that gave a pair, with the better answer as its response.
        left_out: Reason why a prompt gave no pair, by instruction id.
        prompts: Number of prompts of each kind.
    """

    rows: list[Example]
    left_out: Mapping[str, Reason]
    prompts: Mapping[Kind, int]

    @property
    def accepted(self) -> str:
        """How many prompts gave a pair, as in ``3 of 5``."""
        return f"{len(self.rows)} of {sum(self.prompts.values())}"

    def told(self) -> str:
        """Return the counts in a sentence."""
        kinds = Counter(row.kind for row in self.rows)
        each = ", ".join(f"{kinds[kind]} of {n} {kind}" for kind, n in self.prompts.items())
        reasons = Counter(self.left_out.values())
        why = "".join(f"; {n} {REASONS[reason]}" for reason, n in sorted(reasons.items()))
        return f"{self.accepted} prompts gave a pair ({each}){why}"

    def counts(self) -> dict[str, float]:
        """Return the same counts by name."""
        reasons = Counter(self.left_out.values())
        kinds = Counter(row.kind for row in self.rows)
        return {
            "prompts": sum(self.prompts.values()),
            "pairs": len(self.rows),
            **{f"pairs/{kind}": kinds[kind] for kind in self.prompts},
            **{f"left_out/{reason}": reasons[reason] for reason in REASONS},
        }


def check_sampling(config: TrainConfig, examples: Sequence[Example]) -> None:
    """Refuse what cannot give pairs, before the model is loaded.

    Raises:
        UserError: The objective reads no dispreferred answers, or the judge cannot label all.
    """
    objective: Objective = config.objective
    if not objective.uses_rejected:
        raise UserError(
            "data.pairs=sampled makes preferred and dispreferred answers, and "
            f"{objective._target_.rpartition('.')[2]} does not use dispreferred ones: use "
            "objective=dpo, ipo, simpo, orpo or kto, or data.pairs=file"
        )
    check_judges(sorted({example.kind for example in examples}), config.judge)


def with_pairs(
    config: TrainConfig, examples: Examples, backbone: Backbone, run: Run, folder: Path
) -> Examples:
    """Return the rows as pairs between answers of the model, generating those that are missing.

    They are kept in the run's folder: a verdict that failed is asked for again whenever it is
    wanted, and a run that goes on would have other pairs than it began with.

    Raises:
        UserError: No prompt gives a pair, or an answer cannot be made or judged.
    """
    kept = folder / "pairs.json"
    if kept.is_file():
        return Examples.of(Example(**row) for row in json.loads(kept.read_text("utf-8")))
    if accelerator_of(config.trainer) == "gpu":
        backbone.model.to("cuda")
    sampler, stores = Sampler.of(config, examples, backbone), stores_of(config)
    # Of several runs that want the same answers at once, one writes them.
    with alone(stores.samples.file):
        if sampler.missing(stores, config.judge):
            pairs = _in_run(config, examples, sampler)
        else:
            pairs = choose(examples, sampler.judged(stores, config.judge, ""), config)
    print(f"train: {pairs.told()}", file=sys.stderr)
    made_by = sampler.run_ids(stores)
    run.set_tags({"tbr.pairs_accepted": pairs.accepted, "tbr.pair_runs": ",".join(made_by)})
    run.log_metrics({f"data/{name}": value for name, value in pairs.counts().items()})
    for other in made_by:
        Run(other).add_to_tag("tbr.used_by", run.id)
    if not pairs.rows:
        raise UserError(
            f"data.pairs=sampled: {pairs.told()}: raise pairs.samples or pairs.temperature, try "
            "pairs.arm=prompted, or give rows with pairs of their own"
        )
    write_whole(kept, json.dumps([asdict(row) for row in pairs.rows]))
    return Examples.of(pairs.rows)


def _in_run(config: TrainConfig, examples: Examples, sampler: Sampler) -> Pairs:
    """Write and judge what is missing, in an MLflow run of stage ``pairs``."""
    stores = stores_of(config)
    tags = {"tbr.weights": sampler.weights, "tbr.judge": config.judge.name}
    name = f"pairs {config.data.name} seed {config.seed}"
    with start_run("pairs", name, config, config.tracking, tags) as run:
        run.log_examples(examples, f"{config.data.name}-to-answer", "pairs")
        log_judge_prompt(run, config.judge)
        written = sampler.write(stores.samples, run.id)
        answers = sampler.judged(stores, config.judge, run.id)
        pairs = choose(examples, answers, config)
        run.log_metrics({**pairs.counts(), "written": written})
        run.set_tags({"tbr.pairs_accepted": pairs.accepted})
        _log(run, pairs, answers)
    return pairs


def _log(run: Run, pairs: Pairs, answers: Mapping[str, Sequence[Judged]]) -> None:
    """Log the pairs, and all answers with their verdicts, as tables."""
    made = [
        {
            "prompt": row.prompt,
            "kind": row.kind,
            "reflection": row.reflection or "",
            "chosen": row.response,
            "rejected": row.rejected or "",
            "id": row.id,
        }
        for row in pairs.rows
    ]
    run.log_table(made or [{"id": ""}], "pairs.json")
    told = [
        {
            "prompt": row.prompt,
            "kind": row.kind,
            "answer": row.answer,
            "reflection": row.reflection or "",
            "label": row.label,
            "because": row.because,
            "cut": row.cut,
            "no_pair": pairs.left_out.get(key, ""),
            "id": key,
        }
        for key, rows in answers.items()
        for row in rows
    ]
    run.log_table(told or [{"id": ""}], "answers.json")


def choose(
    examples: Sequence[Example], answers: Mapping[str, Sequence[Judged]], config: TrainConfig
) -> Pairs:
    """Return the pairs that judged answers give.

    Args:
        examples: Rows whose prompts were asked.
        answers: Judged answers by instruction id; prompts that were not asked are missing.
        config: Training config: ``pairs.cut``, and the markers that no reflection may hold.
    """
    rows = [row for some in answers.values() for row in some]
    dead = iter(degenerate(rows))
    worthless = {key: [next(dead) is not None for _ in some] for key, some in answers.items()}
    made: list[Example] = []
    left_out: dict[str, Reason] = {}
    for example in {example.id: example for example in examples}.values():
        if example.id not in answers:
            left_out[example.id] = "too_long"
            continue
        found = _pair(example, answers[example.id], worthless[example.id], config)
        if isinstance(found, Example):
            made.append(found)
        else:
            left_out[example.id] = found
    kinds = Counter(example.kind for example in {e.id: e for e in examples}.values())
    return Pairs(made, left_out, kinds)


def _pair(
    example: Example, answers: Sequence[Judged], worthless: Sequence[bool], config: TrainConfig
) -> Example | Reason:
    """Return a row with the best right answer over the worst wrong one, or why there is none."""
    known = [(row, dead) for row, dead in zip(answers, worthless, strict=True) if row.parsed]
    right = [row for row, dead in known if is_right(row, worthless=dead)]
    wrong = [(row, dead) for row, dead in known if not is_right(row, worthless=dead)]
    # A judge that calls one text both right and wrong has not labelled it.
    both = {row.answer for row in right} & {row.answer for row, _ in wrong}
    right = [row for row in right if row.answer not in both]
    wrong = [(row, dead) for row, dead in wrong if row.answer not in both]
    if len(right) + len(wrong) < 2:
        return "unlabelled"
    if not wrong:
        return "all_right"
    if not right:
        return "all_wrong"
    whole = [row for row in right if not row.cut or config.pairs.cut == "accept"]
    if not whole:
        return "cut"
    # The first of several that are equally good or bad, so that the choice is always the same.
    best = max(whole, key=lambda row: _goodness(row, config))
    worst = max(wrong, key=lambda item: _badness(*item))[0]
    reflection = best.reflection if readable(best.reflection, best, config) else None
    return replace(example, response=best.answer, rejected=worst.answer, reflection=reflection)


def is_right(row: Judged, *, worthless: bool = False) -> bool:
    """Return whether an answer is the right one for its kind of request.

    Args:
        row: The judged answer.
        worthless: Whether it is degenerate, see :mod:`tbr_lightning.evaluation.degenerate`.
    """
    if row.kind == "harmful":
        return row.label in REFUSALS and not row.content
    return row.label == "full_compliance" and not worthless


def readable(reflection: str | None, row: Judged, config: TrainConfig) -> bool:
    """Return whether a reflection passes the checks on those of teachers.

    It judges the request without answering it, ends, does not loop, and concludes the row's label.
    """
    if reflection is None:
        return False
    draft = Draft(reflection, stated_conclusion(reflection))
    reason = reject_reason(
        draft,
        row.kind,
        request=row.prompt,
        markers=markers_of(config),
        unstated=config.reflection.unstated,
    )
    return reason is None


def _goodness(row: Judged, config: TrainConfig) -> tuple[bool, bool, int]:
    reflects = row.kind != "general" and readable(row.reflection, row, config)
    return reflects, row.label != "partial_refusal", row.helpful or 0


def _badness(row: Judged, worthless: bool) -> tuple[bool, bool, bool]:
    """Return a key that sorts wrong answers by badness: degenerate and partial ones come first."""
    return not worthless, row.label != "partial_refusal", bool(row.content)
