"""What ties an evaluation to its model files and answers: digests, signed by the evaluator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.evaluation.contamination import OVERLAP
from tbr_lightning.evaluation.evaluation_result import RESPONSES
from tbr_lightning.evaluation.general import CHOICES
from tbr_lightning.outages import OutageError, outage
from tbr_lightning.tracking import signing
from tbr_lightning.tracking.run import Run

SIGNATURE, DIGEST = "tbr.evidence", "tbr.artifacts_digest"
"""Tags of an evaluation's run; the digest is of all files of the model, an adapter's base too."""

SIGNED = (RESPONSES, CHOICES, OVERLAP)
"""Artifacts that the signature covers; that one of them is missing is signed too."""

SIGNED_EARLIER = (RESPONSES, CHOICES)
"""Those that signatures of earlier versions cover."""


@dataclass(frozen=True)
class Subject:
    """What an evaluation is of.

    Attributes:
        model_id: ID of the model in MLflow.
        digest: Digest of the model's files, as they were when they were loaded.
        key: Key of prompts, judge and settings, see :mod:`tbr_lightning.evaluation.comparison_key`.
    """

    model_id: str
    digest: str
    key: str


def attest(run: Run, subject: Subject, paths: PathsConfig) -> None:
    """Sign an evaluation whose answers are logged.

    Args:
        run: Run of the evaluation.
        subject: What it is of.
        paths: Paths, which say where the key is.
    """
    run.set_tags({DIGEST: subject.digest})
    statement = _statement(run, subject, _texts(run), SIGNED)
    run.set_tags({SIGNATURE: signing.keys_of(paths).sign(statement)})


def attested(run: Run, subject: Subject, paths: PathsConfig) -> Mapping[str, str] | None:
    """Return the artifacts of an evaluation that are as a trusted key signed them.

    They are returned, since what is read again later may be another text.

    Args:
        run: Run of the evaluation.
        subject: What it must be of.
        paths: Paths, which say where the keys are.

    Returns:
        Text by file; without :data:`OVERLAP` where the model's rows are not known, or an earlier
        version signed. ``None`` where no trusted key signed this subject with these artifacts.
    """
    keys, signature, texts = signing.keys_of(paths), run.tags().get(SIGNATURE, ""), _texts(run)
    for files in (SIGNED, SIGNED_EARLIER):
        if keys.problem(_statement(run, subject, texts, files), signature) is None:
            return {file: text for file, text in texts.items() if file in files}
    return None


def _statement(run: Run, subject: Subject, texts: Mapping[str, str], files: Sequence[str]) -> bytes:
    hashes = {
        file: hashlib.sha256(texts[file].encode()).hexdigest() if file in texts else ""
        for file in files
    }
    facts = {
        "run": run.id,
        "model": subject.model_id,
        "artifacts": subject.digest,
        "key": subject.key,
        "answers": hashes,
    }
    return json.dumps(facts, sort_keys=True).encode()


def _texts(run: Run) -> dict[str, str]:
    found = {}
    for file in SIGNED:
        try:
            found[file] = run.text(file)
        except (MlflowException, OSError) as error:
            if told := outage(error):  # else what is signed would seem to be gone
                raise OutageError(told) from error
    return found
