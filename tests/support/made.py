"""A real MLflow store with made models and evaluations: nothing is trained or generated."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.config.verbs import PromoteConfig
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.evaluation import suites
from tbr_lightning.evaluation.attestation import Subject, attest
from tbr_lightning.evaluation.comparison_key import evaluation_key
from tbr_lightning.evaluation.contamination import OVERLAP, Overlap, as_text
from tbr_lightning.evaluation.judged_response import Judged, table_rows
from tbr_lightning.models.digest import model_digest
from tbr_lightning.models.logged import LoggedModel, find_model
from tbr_lightning.registry import alias_moves, evidence
from tbr_lightning.registry.alias_sync import Registry, open_registry, recover
from tbr_lightning.registry.entry import weights_of
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.signing import Keys, keys_of
from tbr_lightning.tracking.store import connect

NAME = "made"
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def tracking(folder: Path, ledger: str | None = None) -> TrackingConfig:
    return TrackingConfig(
        uri=f"sqlite:///{folder}/mlflow.db",
        artifacts=f"{folder}/artifacts",
        experiment=NAME,  # an own one, whose artifacts lie in this folder
        ledger=ledger,
    )


def paths(folder: Path) -> PathsConfig:
    return PathsConfig(cache=f"{folder}/cache", runs=f"{folder}/runs")


def keys(folder: Path) -> Keys:
    return keys_of(paths(folder))


def registry(folder: Path, ledger: str | None = None, *, write: bool = True) -> Registry:
    return open_registry(NAME, tracking(folder, ledger), paths(folder), write=write)


def contents(folder: Path) -> dict[str, str]:
    """Return what stands in a folder: the rows of databases, and hashes of other files."""
    found = {}
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        if file.suffix == ".db":
            with closing(sqlite3.connect(file)) as db:
                content = "\n".join(db.iterdump()).encode()
        else:
            content = file.read_bytes()
        found[str(file.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def model(folder: Path, weights: str, base: Path | None = None) -> LoggedModel:
    """Log a model whose files have the form, and none of the size, of a real one.

    With a ``base`` it is an adapter on what is in that folder.
    """
    experiment = connect(tracking(folder))
    client = MlflowClient()
    run = client.create_run(experiment)
    made = client.create_logged_model(experiment, source_run_id=run.info.run_id)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "components" / "tokenizer").mkdir(parents=True)
        (root / "model").mkdir()
        flavors = {} if base is None else {"transformers": {"local_base_model_path": str(base)}}
        (root / "MLmodel").write_text(json.dumps({"flavors": flavors}))
        if base is not None:
            (root / "peft").mkdir()
            (root / "peft" / "adapter_model.safetensors").write_text(weights)
        (root / "components" / "tokenizer" / "tokenizer.json").write_text("{}")
        (root / "model" / "config.json").write_text(json.dumps({"tbr": ThinkFormat().as_dict()}))
        (root / "model" / "model.safetensors").write_text(weights)
        client.log_model_artifacts(made.model_id, temporary)
    client.finalize_logged_model(made.model_id, "READY")
    client.set_terminated(run.info.run_id)
    return find_model(f"models:/{made.model_id}")


def weights_file(logged: LoggedModel) -> Path:
    where = MlflowClient().get_logged_model(logged.model_id).artifact_location
    return Path(where.removeprefix("file://")) / "model" / "model.safetensors"


def config(folder: Path, uri: str, *overrides: str, ledger: str | None = None) -> PromoteConfig:
    words = [f"model='{uri}'", f"name={NAME}", "suite.lm_eval=[]", *overrides]
    made = compose_verb("promote", words).config
    return replace(made, tracking=tracking(folder, ledger), paths=paths(folder))


def words(folder: Path) -> tuple[str, ...]:
    """Return the words of ``promote`` for the candidate whose URI stands in the folder's file."""
    there, kept = tracking(folder), paths(folder)
    file = folder / "candidate"
    uri = file.read_text() if file.exists() else ""
    return (
        f"model={uri}",
        f"name={NAME}",
        "suite.lm_eval=[]",
        "baseline=true",
        f"tracking.uri={there.uri}",
        f"tracking.artifacts={there.artifacts}",
        f"tracking.experiment={there.experiment}",
        f"paths.cache={kept.cache}",
        f"paths.runs={kept.runs}",
    )


def answers(refused: int = 0, complied: int = 0, wrong: int = 0, **more: Any) -> list[Judged]:
    """Answer the smoke suite: the first ``refused`` look-alikes are refused, and so on."""
    suite = compose_verb("promote", []).config.suite
    seen: dict[str, int] = {}
    rows = []
    for prompt in suites.load_suite(suite):
        number = seen[prompt.kind] = seen.get(prompt.kind, 0) + 1
        refuses = number <= refused if prompt.kind == "look_alike" else prompt.kind == "harmful"
        if prompt.kind == "harmful" and number <= complied:
            refuses = False
        rows.append(
            replace(
                Judged.unseen(prompt, f"made for {prompt.text} as asked"),
                label="full_refusal" if refuses else "full_compliance",
                because="made",
                right=number > wrong if prompt.kind == "general" else None,
                **more,
            )
        )
    return rows


def evaluation(
    folder: Path,
    logged: LoggedModel,
    rows: Iterable[Judged],
    *overrides: str,
    overlap: Mapping[str, Overlap] | None = None,
    **tags: str,
) -> str:
    """Log a run that looks as ``evaluate`` leaves it, and return its id.

    With ``overlap`` it says which prompts the model was trained on.
    """
    words = [f"model='{logged.uri}'", "suite=smoke", "suite.lm_eval=[]", *overrides]
    settings = replace(
        compose_verb("evaluate", words).config, tracking=tracking(folder), paths=paths(folder)
    )
    digest = suites.digest(suites.load_suite(settings.suite))
    limit = settings.generation.max_new_tokens or ThinkFormat().max_new_tokens
    key = evaluation_key(
        digest, settings.judge, settings.generation, limit, repeats=settings.repeats
    )
    facts = {
        "tbr.subject": logged.model_id,
        "tbr.suite_digest": digest,
        "tbr.evaluation_key": key,
        **tags,
    }
    with start_run("evaluate", "made", settings, settings.tracking, facts) as opened:
        opened.log_table(table_rows(list(rows)), "responses.json")
        if overlap is not None:
            opened.log_text(as_text(overlap), OVERLAP)
        subject = Subject(logged.model_id, model_digest(logged), facts["tbr.evaluation_key"])
        attest(opened, subject, settings.paths)
    return opened.id


def crown(where: Registry, logged: LoggedModel, action: str = "promote") -> str:
    """Register a model and decide on it as the verb does, without a gate."""
    version = alias_moves.register(where, logged)
    standing = recover(where)
    weights = weights_of(version, model_digest(logged), logged.model_id)
    draft = alias_moves.decision(
        standing, action, version, why="made", evidence=["r"], weights=weights
    )
    alias_moves.commit(where, draft, standing)
    return version


def history(folder: Path) -> None:
    """Make a registry: version 1 was champion, version 2 is, version 3 was refused."""
    where = registry(folder)
    for weights, action in (("one", "baseline"), ("two", "promote"), ("three", "refuse")):
        crown(where, model(folder, weights), action)


def copied(source: Path, target: Path) -> Path:
    """Copy a folder with store, ledger and artifacts to another place, where it works the same."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    with closing(sqlite3.connect(target / "mlflow.db")) as db:
        for table, column in _PLACES:
            db.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", [str(source), str(target)]
            )
        db.commit()
    return target


LENIENT = ("gate.max_false_refusal=1", "baseline=true")


class AskedAnewError(Exception):
    """The model would be asked, as it should be."""


def without_evaluating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an evaluation that the gate would make be no more than being told of."""

    def anew(*_: Any) -> Any:
        raise AskedAnewError

    monkeypatch.setattr(evidence.pipeline, "run", anew)
