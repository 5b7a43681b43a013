"""The evaluations that the gate compares: named, found in the store, or made.

Two are compared only if prompts, judge and decoding agree; otherwise the difference is reported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlflow import entities
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.config.verbs import EvaluateConfig, PromoteConfig
from tbr_lightning.credentials import hidden
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import contamination, general, pipeline, suites
from tbr_lightning.evaluation.attestation import Subject, attested
from tbr_lightning.evaluation.comparison_key import (
    NO_EFFECT_ON_ANSWERS,
    cue_of,
    evaluation_key,
    token_limit,
)
from tbr_lightning.evaluation.evaluation_result import RESPONSES
from tbr_lightning.evaluation.judged_response import Judged, from_table
from tbr_lightning.evaluation.judges.loading import NO_EFFECT_ON_VERDICTS
from tbr_lightning.evaluation.questions import identity, prepare
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.models.digest import check_unchanged
from tbr_lightning.models.hf_folder import hf_folder
from tbr_lightning.models.logged import LoggedModel
from tbr_lightning.models.precision import computed_in
from tbr_lightning.outages import refused
from tbr_lightning.registry.answers import Answers
from tbr_lightning.registry.sample_size import Sizes
from tbr_lightning.tracking.open_run import flatten
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.search import find_run


@dataclass(frozen=True)
class Evidence:
    """One model's evaluation.

    Attributes:
        run_id: ID of the evaluation's run.
        model: The evaluated model.
        answers: Answers of the model.
    """

    run_id: str
    model: LoggedModel
    answers: Answers

    @property
    def rows(self) -> Sequence[Judged]:
        """The judged answers."""
        return self.answers.rows


@dataclass(frozen=True)
class Exam:
    """The prompts, questions and settings of both models' evaluations.

    Attributes:
        config: Config of the command.
        prompts: The prompts.
        digest: Digest of the prompts.
        sizes: Numbers of prompts and questions.
        questions: Identities of the questions about general ability, by task, each with the
            accuracy of guessing (``None`` for a task without options).
    """

    config: PromoteConfig
    prompts: Sequence[Prompt]
    digest: str
    sizes: Sizes
    questions: dict[str, dict[str, float | None]]


def exam_of(config: PromoteConfig) -> Exam:
    """Return what the suite asks; nothing is generated.

    Raises:
        UserError: The suite lacks something.
    """
    prompts = suites.load_suite(config.suite)
    questions: dict[str, dict[str, float | None]] = {}
    for one in prepare(config.suite):
        questions.setdefault(one.task, {})[one.id] = one.chance
    counts: dict[str, dict[str, int]] = {"look_alike": {}, "harmful": {}, "general": {}}
    for prompt in prompts:
        of_kind = counts[prompt.kind]
        of_kind[prompt.benchmark] = of_kind.get(prompt.benchmark, 0) + 1
    counts["general"] |= {task: len(asked) for task, asked in questions.items()}
    sizes = Sizes(**counts, chances=general.chances(questions))
    return Exam(config, prompts, suites.digest(prompts), sizes, questions)


def evidence_for(
    exam: Exam, model: LoggedModel, given: str | None, what: str, *, expected: str | None = None
) -> Evidence:
    """Return a model's evaluation with exactly these prompts, judge and settings.

    Args:
        exam: Prompts and settings that it must have been evaluated with.
        model: The model.
        given: Id of the run to take; ``None`` to look for one, and make it if there is none.
        what: ``candidate`` or ``champion``.
        expected: Digest of the files that the decision is about; ``None`` for those that are there.

    Raises:
        UserError: The given run is another model's, or differs in prompts, judge or decoding; the
            model's files are other ones than expected.
    """
    config = exam.config
    digest = check_unchanged(model)
    if expected not in (None, digest):
        raise UserError(
            f"the files of the {what}, {model.uri}, were changed: their digest is {digest[:16]}…, "
            f"expected was {str(expected)[:16]}…: restore them"
        )
    saved = _saved(model, config, digest)
    think_format = ThinkFormat.saved(SimpleNamespace(**saved))
    limit = token_limit(think_format, config.generation)
    dtype = _dtype(saved, config)
    cue = cue_of(think_format, config.generation)
    key = evaluation_key(exam.digest, config.judge, config.generation, limit, dtype=dtype, cue=cue)
    subject = Subject(model.model_id, digest, key)
    if given is not None:
        _check_given(exam, model, given, what, key=key, dtype=dtype)
        signed = attested(Run(given), subject, config.paths)
        if signed is None:
            raise UserError(
                f"{what}_evaluation={given} has no valid signature of this machine's key for these "
                "files: leave it out to have the model evaluated"
            )
        return _read(exam, model, think_format, given, signed) or _no_choices(given, what)
    tags = {"tbr.stage": "evaluate", "tbr.subject": model.model_id, "tbr.evaluation_key": key}
    found = find_run(tags)
    if found is not None:
        signed = attested(Run(found), subject, config.paths)
        if signed is None:
            print(
                f"promote: run {found} is not signed by this machine's key as an evaluation of "
                f"these files, or was changed since: {model.uri} is evaluated anew",
                file=sys.stderr,
            )
        elif (there := _read(exam, model, think_format, found, signed)) is not None:
            return there
    made = pipeline.run(
        EvaluateConfig(
            model_uri=model.uri,
            suite=config.suite,
            # Too many unreadable answers are for the gate to refuse; a judge that fails is not.
            judge=replace(config.judge, max_unparsed=1.0),
            generation=config.generation,
            tracking=config.tracking,
            paths=config.paths,
            threads=config.threads,
            traces=0,
            genai_dataset=False,
            reuse=False,
        )
    )
    # Signed for the files that were loaded, which need not be those that were there before.
    signed = attested(Run(made.run_id), subject, config.paths)
    if signed is None:
        raise UserError(
            f"run {made.run_id} was changed after it was signed, or the files of {model.uri} while "
            "they were evaluated: find out who writes to the store, and promote again"
        )
    return _read(exam, model, think_format, made.run_id, signed) or _no_choices(made.run_id, what)


def check_same_limit(exam: Exam, models: Sequence[LoggedModel]) -> None:
    """Refuse two models whose answers may have different token limits.

    Raises:
        UserError: They were exported with different limits and ``generation`` gives none.
    """
    saved = [SimpleNamespace(**_saved(model, exam.config)) for model in models]
    limits = [ThinkFormat.saved(one).max_new_tokens for one in saved]
    if exam.config.generation.max_new_tokens is None and len(set(limits)) > 1:
        raise UserError(
            f"the candidate was exported with a limit of {limits[0]} tokens and the champion with "
            f"{limits[1]}: give both generation.max_new_tokens={max(limits)}"
        )


def _saved(model: LoggedModel, config: PromoteConfig, digest: str | None = None) -> dict[str, Any]:
    folder = hf_folder(model, Path(config.paths.cache) / "models", digest)
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def _dtype(saved: Mapping[str, Any], config: PromoteConfig) -> str:
    """Return the type in which a model computes here."""
    own = saved.get("dtype") or saved.get("torch_dtype") or "float32"
    return computed_in(own, config.generation.dtype)


def _read(
    exam: Exam,
    model: LoggedModel,
    think_format: ThinkFormat,
    run_id: str,
    signed: Mapping[str, str],
) -> Evidence | None:
    """Return an evaluation, or ``None`` where its questions about general ability differ.

    Args:
        exam: Prompts and settings.
        model: The model.
        think_format: Its think format.
        run_id: ID of the evaluation's run.
        signed: Its signed artifacts.
    """
    rows = from_table(signed[RESPONSES])
    choices: dict[str, dict[str, bool]] = {task: {} for task in exam.questions}
    asked: dict[str, set[str]] = {task: set() for task in exam.questions}
    if exam.questions:
        if general.CHOICES not in signed:
            return None
        table = json.loads(signed[general.CHOICES])
        for values in table["data"]:
            row = dict(zip(table["columns"], values, strict=True))
            task, how = row["task"], row.get("how")
            name = identity(task, row["question"], row["options"], how)
            if name in exam.questions.get(task, {}):
                asked[task].add(name)
                if row["right"] is not None:  # it is longer than the context
                    choices[task][name] = bool(row["right"])
        if asked != {task: set(known) for task, known in exam.questions.items()}:
            return None
    markers = (think_format.think_open.strip(), think_format.think_close.strip())
    seen = _contamination(exam, model, signed.get(contamination.OVERLAP))
    return Evidence(run_id, model, Answers(rows, choices, markers, seen, exam.sizes.chances))


def _contamination(exam: Exam, model: LoggedModel, signed: str | None) -> float | None:
    """Return the largest share of a benchmark's prompts that a model was trained on.

    It is the larger of what the evaluation has signed and what the training run's rows say now, so
    that neither can be taken away later; ``None`` where neither is known.

    Raises:
        UserError: The rows were known once, and the gate's ceiling cannot be checked any more.
    """
    found = [] if signed is None else [contamination.of_text(signed)]
    try:
        now = contamination.of_model(model, exam.prompts)
    except contamination.LostRowsError as error:
        if not found and exam.config.gate.max_contamination < 1:
            raise UserError(
                f"{error}, or decide without that rule: gate.max_contamination=1"
            ) from error
        now = None
    found += [] if now is None else [now]
    return max((contamination.metrics(one)["contamination"] for one in found), default=None)


def _no_choices(run_id: str, what: str) -> Evidence:
    raise UserError(
        f"{what}_evaluation={run_id} did not ask the questions about general ability of this "
        "suite: evaluate again with the same suite.lm_eval and suite.limit, or leave it out"
    )


def _check_given(
    exam: Exam, model: LoggedModel, run_id: str, what: str, *, key: str, dtype: str
) -> None:
    field = f"{what}_evaluation={run_id}"
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise refused(
            error, f"{field} is not in this store: give the id of an evaluation"
        ) from error
    tags = run.data.tags
    if tags.get("tbr.stage") != "evaluate" or "tbr.evaluation_key" not in tags:
        raise UserError(f"{field} is not an evaluation of one model: give a run of evaluate")
    if run.info.status != "FINISHED":
        raise UserError(f"{field} has status {run.info.status}: give one that is finished")
    if tags.get("tbr.subject") != model.model_id:
        raise UserError(f"{field} is of {tags.get('tbr.subject')}, not of {model.model_id}")
    if tags["tbr.evaluation_key"] == key:
        return
    raise UserError(
        f"{field} cannot be compared, since it differs in {_differences(exam, run, dtype)}: "
        "evaluate again with these settings, give them to promote, or leave it out"
    )


def _differences(exam: Exam, run: entities.Run, dtype: str) -> str:
    """Return in words how an evaluation differs from what the gate asks."""
    there, config = run.data.params, exam.config
    found = []
    if run.data.tags.get("tbr.suite_digest") != exam.digest:
        found.append(
            f"the prompts (suite {there.get('suite.name')}, half {there.get('suite.half')}, limit "
            f"{there.get('suite.limit')}; here {config.suite.name}, {config.suite.half}, "
            f"{config.suite.limit})"
        )
    computed = run.data.tags.get("tbr.dtype", "float32")
    if computed != dtype:
        found.append(f"generation.dtype (computed in {computed}, here {dtype})")
    # The judge's name is clearer than the class that its target names.
    without = {
        "judge": NO_EFFECT_ON_VERDICTS - {"prompt", "path", "endpoint"} | {"_target_"},
        "generation": NO_EFFECT_ON_ANSWERS,
    }
    for group, no_effect in without.items():
        for key, value in flatten(asdict(getattr(config, group)), f"{group}.").items():
            _, name, *inner = key.split(".")
            if name in no_effect or (name == "endpoint" and inner[0] not in ("base_url", "model")):
                continue
            # A param of None, or one that an earlier version did not have, may be left out.
            if there.get(key, hidden(str(value))) != hidden(str(value)):
                found.append(f"{key} ({there.get(key)}, here {value})")
    if there.get("repeats", "1") != "1":
        found.append(f"repeats ({there['repeats']} answers to a prompt, here 1)")
    return ", ".join(found) or (
        "the judge's version, prompt or labels, the limit of tokens, or the sentence that asks for "
        "a reflection"
    )
