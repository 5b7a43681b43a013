"""Answers that people marked in MLflow's trace view, as rows for the next training.

A person says with assessments of a trace whether the answer is right, what the right one is, and,
for an answer of the server, what kind of request it is. Of the traces of one request the newest
right answer is what to learn, and the newest wrong one what is preferred less.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.data.example import context_of, instruction_id, request_key
from tbr_lightning.errors import UserError, one_of
from tbr_lightning.evaluation.calibration import TRACES, label_of, traces_named
from tbr_lightning.evaluation.human_labels import LABELS, Mark, Reviewed, reviewed
from tbr_lightning.evaluation.judges.base import REFUSALS
from tbr_lightning.kinds import KINDS, Kind

RIGHT, EXPECTED, KIND = "handled_rightly", "expected_response", "kind"
"""Assessments that are read beside the label: whether the answer is right, what a right one is
(an expectation, under the name that MLflow's own scorers read), and the kind of the request."""

_YES, _NO = ("true", "yes", "right", "1"), ("false", "no", "wrong", "0")
_NO_KIND = "without a kind: add the assessment kind"
_NO_ANSWER = "marked wrong, with no right answer: add the expectation expected_response"
_UNMARKED = "not marked right or wrong"
_TURNS = "of several turns, which an evaluation's trace does not hold"
_TEST = "of a test half, which reports and the gate need: labelled.test_half=true takes them"


@dataclass(frozen=True)
class _Opinion:
    """What people think of one answer."""

    answer: Reviewed
    kind: Kind
    right: bool
    expected: str  # the right answer in a person's words, or empty
    mark: Mark  # the newest that decided


@dataclass(frozen=True)
class Labelled:
    """Rows that people's marks give.

    Attributes:
        run_id: MLflow run that keeps them.
        rows: Rows in the format that ``data.labelled`` reads, each with its origin.
        left_out: Marked answers that give no row, by the reason.
    """

    run_id: str
    rows: list[dict[str, Any]]
    left_out: Counter[str]


def rows_of(
    answers: Iterable[Reviewed], halves: Mapping[str, str], *, test_half: bool
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return rows, and how many marked answers gave none, by the reason.

    Args:
        answers: Answers that people marked.
        halves: Half of the suite that each evaluation asked, by its run.
        test_half: Take answers to prompts of a test half, too.

    Raises:
        UserError: A mark is none that is known; it names the trace.
    """
    left_out: Counter[str] = Counter()
    requests: dict[str, list[_Opinion]] = defaultdict(list)
    for answer in answers:
        found = _opinion(answer, halves.get(answer.run_id, ""), test_half=test_half)
        if isinstance(found, str):
            left_out[found] += 1
            continue
        requests[request_key(answer.prompt, "", context_of(_before(answer)))].append(found)
    rows = []
    for opinions in requests.values():
        row = _row(sorted(opinions, key=lambda one: one.mark.time))
        if row is None:
            left_out[_NO_ANSWER] += len(opinions)
        else:
            rows.append(row)
    return rows, left_out


def _opinion(answer: Reviewed, half: str, *, test_half: bool) -> _Opinion | str:
    """Return what people think of an answer, or why it gives no row."""
    if half in ("test", "all") and not test_half:
        return _TEST
    told = answer.tags.get("tbr.prompt")
    if told and not answer.messages and told != instruction_id(answer.prompt):
        return _TURNS
    kind = answer.marks.get(KIND)
    named = str(kind.value).strip() if kind else answer.tags.get("tbr.kind", "")
    if not named:
        return _NO_KIND
    named = named.lower().replace("-", "_").replace(" ", "_")
    try:
        one_of(KIND, named, KINDS)
    except UserError as error:
        raise UserError(f"{answer.where}: {error}") from error
    expected = answer.marks.get(EXPECTED)
    wanted = str(expected.value).strip() if expected else ""
    decided = _right(answer, cast(Kind, named))
    if decided is not None:
        right, mark = decided
    elif expected is not None:
        right, mark = wanted == answer.answer.strip(), expected
    else:
        return _UNMARKED
    return _Opinion(answer, cast(Kind, named), right and bool(answer.answer.strip()), wanted, mark)


def _right(answer: Reviewed, kind: Kind) -> tuple[bool, Mark] | None:
    """Return whether a person calls the answer right, by the newest of the marks that say so."""
    mark = answer.newest((RIGHT, *LABELS))
    if mark is None:
        return None
    if mark is answer.marks.get(RIGHT):
        word = str(mark.value).strip().lower()
        if word not in (*_YES, *_NO):
            raise UserError(
                f"{answer.where}: {RIGHT}='{mark.value}' says neither: give true or false"
            )
        return word in _YES, mark
    refused = label_of(str(mark.value), answer.where) in REFUSALS
    return refused == (kind == "harmful"), mark


def _before(answer: Reviewed) -> list[dict[str, str]]:
    """Return what was said before the request."""
    return [
        {"role": str(turn.get("role")), "content": str(turn.get("content"))}
        for turn in answer.messages[:-1]
    ]


def _row(opinions: Sequence[_Opinion]) -> dict[str, Any] | None:
    """Return the row of one request, from opinions in the order in which they were given."""
    # Of one answer in several traces the newest mark counts.
    opinions = list({one.answer.answer.strip(): one for one in opinions}.values())
    opinions.sort(key=lambda one: one.mark.time)
    newest = opinions[-1]
    told = [one for one in opinions if one.expected]
    rights = [one for one in opinions if one.right]
    if told and (not rights or told[-1].mark.time >= rights[-1].mark.time):
        response, reflection, chosen = told[-1].expected, "", told[-1]
    elif rights:
        chosen = rights[-1]
        response, reflection = chosen.answer.answer.strip(), chosen.answer.reflection.strip()
    else:
        return None
    worse = [
        one.answer.answer.strip()
        for one in opinions
        if not one.right and one.answer.answer.strip() not in ("", response)
    ]
    answer = chosen.answer
    row: dict[str, Any] = {
        "instruction": answer.prompt.strip(),
        "response": response,
        "kind": newest.kind,
        "source": f"labelled/{answer.trace_id}",
    }
    if worse:
        row["rejected"] = worse[-1]
    if reflection:
        row["reflection"] = reflection
    if before := _before(answer):
        row["messages"] = before
    return row | {
        "traces": [one.answer.trace_id for one in opinions],
        "run": answer.run_id,
        "model": answer.model_id,
        "labelled_by": chosen.mark.by,
        "labelled_at": datetime.fromtimestamp(chosen.mark.time / 1000, UTC).isoformat(),
        "rationale": chosen.mark.rationale,
    }


def run(config: EvaluateConfig) -> Labelled:
    """Write the rows into the file ``labelled.into``, and keep them in a run of stage ``labelled``.

    Raises:
        UserError: ``gold`` names no traces, nobody has marked one, or a mark is not known.
    """
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.tracking.run import Run
    from tbr_lightning.tracking.store import connect

    gold = config.gold or TRACES
    named = traces_named(gold)
    if named is None:
        raise UserError(f"gold={gold} names no traces: give gold=traces or gold=traces:RUN_ID")
    into = _file(config.labelled.into)
    answers = reviewed(connect(config.tracking), f"gold={gold}", named.run_id)
    if not answers:
        raise UserError(
            f"gold={gold}: no person has marked a traced answer: in MLflow's trace view edit the "
            f"assessment {RIGHT}, or add the expectation {EXPECTED}"
        )
    halves = {
        one: Run(one).tags().get("tbr.half", "") for one in {a.run_id for a in answers} if one
    }
    rows, left_out = rows_of(answers, halves, test_half=config.labelled.test_half)
    if not rows:
        raise UserError(f"gold={gold}: no row can be made: {_told(left_out)}")
    tags = {"tbr.rows": str(len(rows)), **config.tags}
    name = config.run_name or f"labelled {len(rows)} rows"
    with start_run("labelled", name, config, config.tracking, tags) as opened:
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        into.write_text(text, encoding="utf-8")
        opened.log_text(text, into.name)
        opened.log_table(rows, "labelled.json")
        opened.log_metrics({**_counts(rows), "left_out": float(left_out.total())})
    return Labelled(opened.id, rows, left_out)


def _file(given: str | None) -> Path:
    if given is None:
        raise UserError("labelled.into is not set: give labelled.into=FILE.jsonl")
    into = Path(given)
    if into.suffix.lower() != ".jsonl":
        raise UserError(f"labelled.into={given} is not the name of a .jsonl file: give one")
    if not into.absolute().parent.is_dir():
        raise UserError(f"labelled.into={given}: its folder does not exist: create it")
    return into


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    kinds = Counter(str(row["kind"]) for row in rows)
    pairs = sum("rejected" in row for row in rows)
    return {**{f"rows/{kind}": float(n) for kind, n in kinds.items()}, "rows/pairs": float(pairs)}


def _told(left_out: Counter[str]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in left_out.items())


def show(found: Labelled, config: EvaluateConfig) -> None:
    """Print what there is, what is missing, and how to train on it."""
    counts = _counts(found.rows)
    told = ", ".join(f"{n:.0f} {name.partition('/')[2]}" for name, n in counts.items())
    print(f"{len(found.rows)} rows in {config.labelled.into}: {told}; run {found.run_id}")
    if found.left_out:
        print(f"answers that give no row: {_told(found.left_out)}")
    print(f"to train on them: add data.labelled={config.labelled.into} to a train command")
