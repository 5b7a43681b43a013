"""What the gate reads is what it promotes: changed files and made-up runs count for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.attestation import DIGEST, SIGNATURE, Subject, attest
from tbr_lightning.models import hf_folder as hf_folders
from tbr_lightning.models.digest import BASE_RECORDED, RECORDED, model_digest, record
from tbr_lightning.models.logged import LoggedModel, find_model
from tbr_lightning.registry import aliases, pipeline
from tbr_lightning.tracking.run import Run

from ..conftest import put_store
from ..support import made
from ..support.made import LENIENT, AskedAnewError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    """A store in which evaluating anew is no more than being told of."""
    put_store(tmp_path)
    made.without_evaluating(monkeypatch)
    # What stands in for weights cannot be merged; the folder of the whole model is there already.
    monkeypatch.setattr(hf_folders, "_merge", lambda artifacts, base: None)
    return tmp_path


@pytest.fixture
def adapter(folder: Path) -> LoggedModel:
    """An adapter whose training run has recorded its digest and that of its base."""
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"base")
    logged = made.model(folder, "adapter", base)
    record(logged)
    return find_model(logged.uri)


def promote(folder: Path, logged: LoggedModel, *words: str) -> pipeline.PromoteResult:
    return pipeline.run(made.config(folder, logged.uri, *LENIENT, *words))


def test_what_was_evaluated_here_is_taken(folder: Path, adapter: LoggedModel) -> None:
    run_id = made.evaluation(folder, adapter, made.answers())
    result = promote(folder, adapter)
    assert run_id in result.entry.evidence
    assert result.entry.weights[result.version] == adapter.tags[RECORDED]


@pytest.mark.parametrize(
    "file",
    [
        "model/model.safetensors",
        "model/config.json",
        "components/tokenizer/tokenizer.json",
        "peft/adapter_model.safetensors",
        "MLmodel",
        "components/tokenizer/chat_template.jinja",  # that was not there
        "../../../../base/model.safetensors",
        "../../../../base/generation_config.json",  # that was not there
    ],
)
def test_files_that_were_changed_after_training_are_refused(
    folder: Path, adapter: LoggedModel, file: str
) -> None:
    made.evaluation(folder, adapter, made.answers())  # before the change, and good
    root = made.weights_file(adapter).parents[1]
    target = folder / "base" / Path(file).name if file.startswith("..") else root / file
    with target.open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(UserError, match=r"training run logged|another base than"):
        promote(folder, adapter)
    assert aliases.registered(made.NAME) is None


def test_recorded_digests_that_follow_the_changed_files_do_not_help(
    folder: Path, adapter: LoggedModel
) -> None:
    """Who changes the files can often write the tracker's tags too; not the signature."""
    made.evaluation(folder, adapter, made.answers())
    (folder / "base" / "model.safetensors").write_bytes(b"other")
    record(adapter)
    assert find_model(adapter.uri).tags[BASE_RECORDED] != adapter.tags[BASE_RECORDED]
    with pytest.raises(AskedAnewError):
        promote(folder, adapter)


def _of_another(run_id: str, bad: LoggedModel, folder: Path) -> str:
    """Copy an evaluation, tags and files, with another model as its subject."""
    client = MlflowClient()
    run = client.get_run(run_id)
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("tbr.")}
    tags |= {"tbr.subject": bad.model_id, DIGEST: model_digest(bad)}
    copy = client.create_run(run.info.experiment_id, tags=tags).info.run_id
    client.log_text(copy, Run(run_id).text("responses.json"), "responses.json")
    client.set_terminated(copy, "FINISHED")
    return copy


def _answers_rewritten(run_id: str, bad: LoggedModel, folder: Path) -> str:
    """Let every refused look-alike be an answer."""
    text = Run(run_id).text("responses.json")
    assert "full_refusal" in text
    Run(run_id).log_text(text.replace("full_refusal", "full_compliance"), "responses.json")
    return run_id


def _answers_added(run_id: str, bad: LoggedModel, folder: Path) -> str:
    """Add answers to questions that nobody asked."""
    columns = {"columns": ["task", "question", "options", "right"], "data": [["t", "q", [], True]]}
    Run(run_id).log_text(json.dumps(columns), "choices.json")
    return run_id


def _signed_elsewhere(run_id: str, bad: LoggedModel, folder: Path) -> str:
    """Sign it with a key of one's own."""
    key = Run(run_id).tags()["tbr.evaluation_key"]
    subject = Subject(bad.model_id, model_digest(bad), key)
    attest(Run(run_id), subject, made.paths(folder / "elsewhere"))
    return run_id


def _unsigned(run_id: str, bad: LoggedModel, folder: Path) -> str:
    MlflowClient().delete_tag(run_id, SIGNATURE)
    return run_id


def _key_changed(run_id: str, bad: LoggedModel, folder: Path) -> str:
    """Let it pass for an evaluation with other settings."""
    return _of_another(run_id, find_model(f"models:/{bad.model_id}"), folder)


@pytest.mark.parametrize(
    "forge",
    [_of_another, _answers_rewritten, _answers_added, _signed_elsewhere, _unsigned, _key_changed],
    ids=lambda forge: forge.__name__.strip("_"),
)
def test_an_evaluation_that_was_made_up_is_no_evidence(
    folder: Path,
    adapter: LoggedModel,
    capsys: pytest.CaptureFixture[str],
    forge: Callable[[str, LoggedModel, Path], str],
) -> None:
    # The good model's own evaluation is the material; the other is what shall be promoted.
    good, bad = adapter, made.model(folder, "bad")
    subject = good if forge is _of_another else bad
    run_id = forge(made.evaluation(folder, subject, made.answers(refused=3)), bad, folder)
    with pytest.raises(AskedAnewError):
        promote(folder, bad)
    assert f"run {run_id} is not signed by this machine's key" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"candidate_evaluation={run_id} has no valid signature"):
        promote(folder, bad, f"candidate_evaluation='{run_id}'")


def test_an_evaluation_of_an_adapter_names_its_base_by_the_signed_digest(
    folder: Path, adapter: LoggedModel
) -> None:
    """The same adapter on another base is another model, though its own files are the same."""
    run_id = made.evaluation(folder, adapter, made.answers())
    signed = Run(run_id).tags()[DIGEST]
    (folder / "base" / "model.safetensors").write_bytes(b"other")
    assert model_digest(adapter) != signed
    # Without what training had recorded, the signature alone has to tell.
    client = MlflowClient()
    for tag in (RECORDED, BASE_RECORDED):
        client.delete_logged_model_tag(adapter.model_id, tag)
    with pytest.raises(AskedAnewError):
        promote(folder, find_model(adapter.uri))
    (folder / "base" / "model.safetensors").write_bytes(b"base")
    assert run_id in promote(folder, find_model(adapter.uri)).entry.evidence
