"""A logged model as one folder that transformers reads, made once in the cache."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from tbr_lightning.data.cache import contents_key, write_whole
from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import FilesDigest, base_digest, folder_digest, logged_base
from tbr_lightning.models.logged import LAYOUT, LoggedModel
from tbr_lightning.outages import unreadable


def hf_folder(model: LoggedModel, into: Path, digest: str | None = None) -> Path:
    """Return one Hugging Face folder (weights and tokenizer) of a logged model.

    It is made once in ``into`` and used again; an adapter is merged into its base.

    Args:
        model: The logged model.
        into: Parent folder of such folders.
        digest: Digest of the model's files as they are now; a folder made of others, or changed
            since, is made anew. ``None`` takes an existing folder.

    Raises:
        UserError: The model's files are gone from the artifact store, or were changed meanwhile.
        OutageError: The store does not answer.
    """
    target, made_of = into / model.model_id, into / f"{model.model_id}.json"
    if target.is_dir():
        if digest is None or _is_made_of(target, made_of, digest):
            return target
        shutil.rmtree(target)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as temporary:
        try:
            got = Path(mlflow.artifacts.download_artifacts(model.uri, dst_path=temporary))
            own = "" if digest is None else folder_digest(got)
            base = logged_base(got)
            if base is not None:
                _merge(got, base)
            # What was read, and not what was there a moment before it was.
            if digest is not None and FilesDigest(own, _base_digest(base)).whole != digest:
                raise UserError(
                    f"the files of {model.uri} were changed while they were read: restore them, "
                    "and give the command again"
                )
            shutil.copytree(got / "components" / "tokenizer", got / "model", dirs_exist_ok=True)
        except (MlflowException, OSError) as error:
            raise unreadable(model.uri, error, "restore them, or train it again") from error
        try:
            (got / "model").rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise
    if digest is not None:
        write_whole(made_of, json.dumps([digest, contents_key(str(target))]))
    return target


def _is_made_of(folder: Path, made_of: Path, digest: str) -> bool:
    try:
        kept = json.loads(made_of.read_text())
    except (OSError, ValueError):
        return False
    return bool(kept == [digest, contents_key(str(folder))])


def _base_digest(base: Path | None) -> str:
    return "" if base is None else base_digest(base)


def _merge(artifacts: Path, base: Path) -> None:
    """Merge the adapter among a logged model's artifacts into its base, as ``model``."""
    from tbr_lightning.models.export import LAYOUT as LAYOUT_FILE
    from tbr_lightning.models.export import merge_into

    described = mlflow.models.Model.load(artifacts)
    adapter = artifacts / "peft"
    shutil.copytree(artifacts / "components" / "tokenizer", adapter, dirs_exist_ok=True)
    (adapter / LAYOUT_FILE).write_text(json.dumps(described.metadata[LAYOUT]))
    merge_into(adapter, artifacts / "model", base=base)
