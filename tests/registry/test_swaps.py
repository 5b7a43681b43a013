"""Files and answers that change between one step of a promotion and the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import attestation, contamination, prompt_logging, suites
from tbr_lightning.evaluation import pipeline as evaluations
from tbr_lightning.evaluation.attestation import SIGNATURE, SIGNED_EARLIER, Subject
from tbr_lightning.evaluation.contamination import HASHES, OVERLAP, ROWS_KEPT, Overlap
from tbr_lightning.evaluation.evaluation_result import RESPONSES
from tbr_lightning.evaluation.respond import EvaluatedModel
from tbr_lightning.models.digest import RECORDED, model_digest, record
from tbr_lightning.models.logged import LoggedModel, find_model
from tbr_lightning.registry import alias_moves, aliases, evidence, pipeline
from tbr_lightning.tracking import signing
from tbr_lightning.tracking.run import Run

from ..conftest import put_store
from ..support import made
from ..support.made import LENIENT, AskedAnewError

SEEN = {"smoke": Overlap(10, 300)}  # 3.3 percent, the ceiling is 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    put_store(tmp_path)
    made.without_evaluating(monkeypatch)
    return tmp_path


def model(folder: Path, weights: str) -> LoggedModel:
    """A model whose training run has recorded the digest of its files."""
    logged = made.model(folder, weights)
    record(logged)
    return find_model(logged.uri)


def promote(
    folder: Path,
    logged: LoggedModel,
    *words: str,
    tell: Callable[[str], None] = lambda _: None,
) -> pipeline.PromoteResult:
    return pipeline.run(made.config(folder, logged.uri, *(words or LENIENT)), tell)


def becomes(logged: LoggedModel, weights: str) -> None:
    """Overwrite a model's weights, and what the tracker says of them."""
    made.weights_file(logged).write_text(weights)
    record(logged)


def test_files_that_are_swapped_while_the_candidate_is_gated_are_not_promoted(
    folder: Path,
) -> None:
    """The good files are evaluated, the bad ones would be what the entry names and is served."""
    candidate = model(folder, "good")
    made.evaluation(folder, candidate, made.answers())
    becomes(candidate, "bad")
    bad = find_model(candidate.uri)
    swapped: list[str] = []

    def between(_: str) -> None:
        if not swapped:
            becomes(candidate, "good")
            # Who may write the tracker writes what the command has already read of it, too.
            bad.tags[RECORDED] = find_model(candidate.uri).tags[RECORDED]  # type: ignore[index]
        swapped.append("")

    with pytest.raises(UserError, match=r"were changed|are not those"):
        promote(folder, bad, tell=between)
    assert swapped
    there = aliases.registered(made.NAME)
    assert there is None or not there.aliases


def test_a_champion_whose_files_were_swapped_is_not_compared_with(folder: Path) -> None:
    """A weak champion is easy to beat; its tags in the tracker follow, the ledger does not."""
    champion, candidate = model(folder, "champion"), model(folder, "candidate")
    made.evaluation(folder, champion, made.answers())
    promote(folder, champion)
    becomes(champion, "weak")
    made.evaluation(folder, champion, made.answers(refused=90))
    made.evaluation(folder, candidate, made.answers(refused=20))
    with pytest.raises(UserError, match=r"the files of the champion.*expected was"):
        promote(folder, candidate, "gate.max_false_refusal=1")


def test_answers_that_are_changed_before_they_are_read_are_no_evidence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = model(folder, "bad")

    def evaluated(*_: Any) -> Any:
        run_id = made.evaluation(folder, candidate, made.answers(refused=90))
        text = Run(run_id).text(RESPONSES)
        Run(run_id).log_text(text.replace("full_refusal", "full_compliance"), RESPONSES)
        return type("Result", (), {"run_id": run_id})

    monkeypatch.setattr(evidence.pipeline, "run", evaluated)
    with pytest.raises(UserError, match="was changed after it was signed"):
        promote(folder, candidate)


def test_files_changed_after_training_are_not_put_forward(folder: Path) -> None:
    winner = model(folder, "winner")
    made.weights_file(winner).write_text("another")
    with pytest.raises(UserError, match="are not those that its training run logged"):
        alias_moves.challenge(
            made.NAME, winner, made.tracking(folder), made.paths(folder), why="a study"
        )
    assert aliases.registered(made.NAME) is None


def _metric(run: Run) -> None:
    run.log_metrics({"contamination": 0.0})


def _tags(run: Run) -> None:
    run.set_tags({"tbr.contamination": "none of the prompts", "contamination": "0"})


@pytest.mark.parametrize("edit", [_metric, _tags], ids=lambda edit: edit.__name__.strip("_"))
def test_tags_and_metrics_hide_no_row_that_was_trained_on(
    folder: Path, edit: Callable[[Run], None]
) -> None:
    candidate = model(folder, "knows the answers")
    run_id = made.evaluation(folder, candidate, made.answers(), overlap=SEEN)
    edit(Run(run_id))
    result = promote(folder, candidate)
    assert [rule.name for rule in result.verdict.rules if not rule.passed] == ["contamination"]


def _lower(run: Run) -> None:
    run.log_text(contamination.as_text({"smoke": Overlap(0, 300)}), OVERLAP)


def _gone(run: Run) -> None:
    where = MlflowClient().get_run(run.id).info.artifact_uri.removeprefix("file://")
    (Path(where) / OVERLAP).unlink()


@pytest.mark.parametrize("edit", [_lower, _gone], ids=lambda edit: edit.__name__.strip("_"))
def test_what_is_signed_of_the_rows_is_neither_changed_nor_taken_away(
    folder: Path, edit: Callable[[Run], None]
) -> None:
    candidate = model(folder, "knows the answers")
    edit(Run(made.evaluation(folder, candidate, made.answers(), overlap=SEEN)))
    with pytest.raises(AskedAnewError):
        promote(folder, candidate)


def _keep_rows(logged: LoggedModel, requests: list[str]) -> LoggedModel:
    run = Run(logged.run_id)
    run.log_bytes(contamination.training_hashes(requests), HASHES)
    tags = {ROWS_KEPT: contamination.kept_by(run)}
    MlflowClient().set_logged_model_tags(logged.model_id, tags)
    return find_model(logged.uri)


def test_an_evaluation_that_an_earlier_version_signed_is_read(folder: Path) -> None:
    """Its signature says nothing of the rows; those that the training run kept do."""
    candidate = model(folder, "knows the answers")
    run = Run(made.evaluation(folder, candidate, made.answers()))
    key = run.tags()["tbr.evaluation_key"]
    subject = Subject(candidate.model_id, model_digest(candidate), key)
    old = attestation._statement(run, subject, attestation._texts(run), SIGNED_EARLIER)
    run.set_tags({SIGNATURE: signing.keys_of(made.paths(folder)).sign(old)})
    _lower(run)  # nobody signed that
    prompts = suites.load_suite(made.config(folder, candidate.uri).suite)
    candidate = _keep_rows(candidate, [one.text for one in prompts[:40]])
    result = promote(folder, candidate)
    assert run.id in result.entry.evidence
    (failed,) = [rule for rule in result.verdict.rules if not rule.passed]
    assert failed.name == "contamination"
    assert failed.value > 0.02


def test_rows_that_are_kept_no_more_are_told_and_refused(folder: Path) -> None:
    candidate = _keep_rows(model(folder, "w"), ["What is a lock?"])
    made.evaluation(folder, candidate, made.answers())
    Run(candidate.run_id).log_bytes(contamination.training_hashes([]), HASHES)
    with pytest.raises(UserError, match=f"{HASHES} of run {candidate.run_id} was changed"):
        promote(folder, candidate)
    assert promote(folder, candidate, *LENIENT, "gate.max_contamination=1").verdict.promoted


def test_a_made_up_evaluation_is_not_taken_by_evaluate_either(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = model(folder, "w")
    run = Run(made.evaluation(folder, candidate, made.answers(), **{prompt_logging.TAG: "asked"}))
    config = replace(
        compose_verb("evaluate", ["model=models:/m-1", "suite=smoke"]).config,
        tracking=made.tracking(folder),
        paths=made.paths(folder),
    )
    weights: Any = None
    subject = EvaluatedModel(weights, candidate, candidate.tags[RECORDED])
    run.set_tags({SIGNATURE: ""})
    key = run.tags()["tbr.evaluation_key"]
    assert evaluations._earlier(config, subject, "asked", key, 64, tell=print) is None
    assert f"run {run.id} is not signed by this machine's key" in capsys.readouterr().err
