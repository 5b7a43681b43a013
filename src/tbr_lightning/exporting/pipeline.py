"""From the name of a model to its files for other programs."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tbr_lightning.config.export import ExportConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.exporting.source import Source

CARD = "README.md"
MODELFILE = "Modelfile"


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        run_id: ID of the MLflow run that records what went where.
        folder: Folder of the files.
        url: Address on the hub, if it was uploaded.
        next_step: Command that uses it.
    """

    run_id: str
    folder: Path
    url: str | None
    next_step: str


def run(config: ExportConfig) -> ExportResult:
    """Write a model in the format of ``to=``, with its card, and log where it went.

    Raises:
        UserError: There is no such model, the folder is not empty, the form cannot hold the model,
            or the hub refuses it.
    """
    target = Path(config.folder or f"exports/{_slug(config.model_uri)}-{config.to}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"folder={target} is there already: give an empty or a new one")
    if config.to == "hub":
        from tbr_lightning.exporting.hub import check_token

        check_token()
    from tbr_lightning.exporting.card import model_card
    from tbr_lightning.exporting.source import load_source
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.tracking.store import connect

    connect(config.tracking)
    source = load_source(config)
    title = config.repo.partition("/")[2] if config.repo else _slug(config.model_uri)
    tags = {"tbr.subject": source.logged.model_id if source.logged else source.backbone.origin}
    with start_run(
        "export", f"export {title} {config.to}", config, config.tracking, tags
    ) as opened:
        if source.logged is not None:
            opened.log_used_models([source.logged.model_id])
        card = model_card(source, title, config.licence)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Nothing half written is left under the name.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as partial:
            _write(source, Path(partial) / "made", title, config.to, card)
            if target.exists():
                target.rmdir()
            shutil.move(Path(partial) / "made", target)
        opened.log_text(card, CARD)
        opened.set_tags({"tbr.exported_to": str(target)})
        url = None
        if config.to == "hub":
            from tbr_lightning.exporting.hub import upload

            url = upload(target, str(config.repo), private=config.private)
            opened.set_tags({"tbr.exported_to": url})
    if config.to == "gguf":
        step = shlex.join(["ollama", "create", title, "-f", str(target / MODELFILE)])
    else:
        step = shlex.join(["vllm", "serve", str(config.repo if url else target)])
    return ExportResult(opened.id, target, url, step)


def _write(source: Source, folder: Path, title: str, form: str, card: str) -> None:
    folder.mkdir()
    if form == "gguf":
        from tbr_lightning.exporting.ollama import modelfile
        from tbr_lightning.models.gguf_writer import write_gguf

        file = folder / f"{title}.gguf"
        write_gguf(source.backbone, file, name=title, dtype=source.dtype)
        (folder / MODELFILE).write_text(modelfile(source.backbone, file.name), encoding="utf-8")
    else:
        from tbr_lightning.models.export import export

        export(source.backbone, folder, dtype=source.dtype)
    (folder / CARD).write_text(card, encoding="utf-8")


def _slug(name: str) -> str:
    if name.endswith(".gguf") or Path(name).expanduser().is_dir():
        name = Path(name).expanduser().resolve().stem
    name = name.removeprefix("models:/")
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"
