"""What ties an evaluation to its model files and answers: digests, signed by the evaluator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from mlflow.exceptions import MlflowException

from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.tracking import signing
from tbr_lightning.tracking.run import Run

SIGNATURE, DIGEST = "tbr.evidence", "tbr.artifacts_digest"
"""Tags of an evaluation's run; the digest is of all files of the model, an adapter's base too."""


def attest(run: Run, model_id: str, digest: str, files: Sequence[str], paths: PathsConfig) -> None:
    """Sign an evaluation whose answers are logged.

    Args:
        run: Run of the evaluation.
        model_id: ID of the model in MLflow.
        digest: Digest of the model's files, as they were when they were loaded.
        files: Artifacts that hold the answers; missing ones count too.
        paths: Paths, which say where the key is.
    """
    run.set_tags({DIGEST: digest})
    statement = _statement(run, model_id, digest, files)
    run.set_tags({SIGNATURE: signing.keys_of(paths).sign(statement)})


def is_attested(
    run: Run, model_id: str, digest: str, files: Sequence[str], paths: PathsConfig
) -> bool:
    """Return whether an evaluation is of these files, and is as a trusted key signed it."""
    signature = run.tags().get(SIGNATURE, "")
    statement = _statement(run, model_id, digest, files)
    return signing.keys_of(paths).problem(statement, signature) is None


def _statement(run: Run, model_id: str, digest: str, files: Sequence[str]) -> bytes:
    facts = {
        "run": run.id,
        "model": model_id,
        "artifacts": digest,
        "key": run.tags().get("tbr.evaluation_key", ""),
        "answers": {file: _hash(run, file) for file in files},
    }
    return json.dumps(facts, sort_keys=True).encode()


def _hash(run: Run, file: str) -> str:
    try:
        return hashlib.sha256(run.text(file).encode()).hexdigest()
    except (MlflowException, OSError):
        return ""
