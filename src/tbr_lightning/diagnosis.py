"""What works on this machine: packages, devices, tracker, keys, disk. Nothing is written."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.config.verbs import DoctorConfig
from tbr_lightning.credentials import hidden
from tbr_lightning.errors import first_line
from tbr_lightning.progress import cell
from tbr_lightning.tracking.provenance import package_versions

_TIMEOUT = 5.0  # seconds
_ROOM = 3 * 2**30  # bytes that a demo with its stores may take
_SQLITE = "sqlite:///"
_STYLE = {"works": "green", "missing": "yellow", "fails": "red"}


@dataclass(frozen=True)
class Finding:
    """The finding on one part.

    Attributes:
        part: Name of the part, e.g. ``tracker``.
        state: ``works``; ``missing``, if some runs do without it; ``fails``, if none does.
        detail: What is there, and what to do where something is not.
    """

    part: str
    state: str
    detail: str


def examine(config: DoctorConfig) -> list[Finding]:
    """Examine everything that a run may need."""
    return [
        *_packages(),
        *_devices(),
        _tracker(config.tracking),
        *_disk(config),
        *_keys(),
        _hub(),
    ]


def show(findings: list[Finding]) -> None:
    """Print a line for each finding."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for one in findings:
        state = f"[{_STYLE[one.state]}]{one.state}[/]"
        table.add_row(cell(one.part), state, cell(one.detail))
    Console().print(table)


def _packages() -> Iterator[Finding]:
    """Compare the installed packages with what this package declares, extras apart."""
    try:
        declared = [Requirement(text) for text in metadata.requires("tbr-lightning") or []]
    except metadata.PackageNotFoundError:
        yield Finding("packages", "fails", "tbr-lightning is not installed: pip install -e .")
        return
    extras = metadata.metadata("tbr-lightning").get_all("Provides-Extra") or []
    for extra in ("", *sorted(extras)):
        wanted = [one for one in declared if _belongs(one, extra)]
        problems = [problem for one in wanted if (problem := _package_problem(one))]
        part = f"extra {extra}" if extra else "packages"
        if not problems:
            versions = {one.name: metadata.version(one.name) for one in wanted}
            shown = versions if extra else package_versions()
            yield Finding(part, "works", ", ".join(f"{name} {n}" for name, n in shown.items()))
        elif extra:
            fix = f"pip install 'tbr-lightning[{extra}]'"
            yield Finding(part, "missing", f"{'; '.join(problems)}: {fix}")
        else:
            yield Finding(part, "fails", f"{'; '.join(problems)}: make setup")


def _belongs(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    if marker is None:
        return not extra
    without = bool(marker.evaluate({"extra": ""}))
    return without if not extra else not without and bool(marker.evaluate({"extra": extra}))


def _package_problem(requirement: Requirement) -> str | None:
    name = requirement.name
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{name} {found} is not {requirement.specifier}"


def _devices() -> Iterator[Finding]:
    import psutil
    import torch

    from tbr_lightning.models.precision import has_bfloat16_units
    from tbr_lightning.processes import cores

    memory = psutil.virtual_memory()
    units = has_bfloat16_units("cpu")
    yield Finding(
        "processor",
        "works",
        f"{cores()} cores, {'bfloat16 units' if units else 'no bfloat16 units (float32 is used)'}, "
        f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB of memory free",
    )
    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi") is not None
        why = "this torch has no CUDA build" if driver else "this machine has no NVIDIA driver"
        yield Finding("GPU", "missing", f"{why}: trainer=cpu and small models only")
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        yield Finding("GPU", "works", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB")


def _tracker(tracking: TrackingConfig) -> Finding:
    """Ask the tracker whether it is there, and for a file whether it could be written."""
    shown = hidden(tracking.uri)
    problem: str | None = None
    if tracking.uri.startswith(_SQLITE):
        file = Path(tracking.uri.removeprefix(_SQLITE)).absolute()
        there = file if file.exists() else _existing(file.parent)
        if not os.access(there, os.W_OK):
            problem = f"{there} cannot be written: give another tracking.uri"
        elif not file.exists():
            return Finding("tracker", "works", f"{shown}: made by the first run")
    elif tracking.uri.startswith("http"):
        problem = _http_problem(tracking.uri)
    else:
        problem = _database_problem(tracking.uri)
    return Finding("tracker", "fails" if problem else "works", f"{shown}: {problem or 'reachable'}")


def _http_problem(uri: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        return f"answers with status {error.code}: check the address and the key"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"does not answer ({reason}): start it, or use tracking=local"


def _database_problem(uri: str) -> str | None:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with sqlalchemy.create_engine(uri).connect():
            return None
    except (SQLAlchemyError, ImportError) as error:
        return f"cannot be used ({first_line(error)}): start it, or use tracking=local"


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _disk(config: DoctorConfig) -> Iterator[Finding]:
    folders = {"paths.runs": config.paths.runs, "paths.cache": config.paths.cache}
    if config.tracking.artifacts and "://" not in config.tracking.artifacts:
        folders["tracking.artifacts"] = config.tracking.artifacts
    for key, name in folders.items():
        folder = Path(name).expanduser().absolute()
        there = _existing(folder)
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK):
            state, told = "fails", f"cannot be written: give another {key}"
        elif free < _ROOM:
            state, told = "fails", f"{free / 2**30:.1f} GiB free: give {key} on a larger disk"
        else:
            state, told = "works", f"{free / 2**30:.0f} GiB free"
        yield Finding(f"disk of {key}", state, f"{folder}: {told}")


def _keys() -> Iterator[Finding]:
    from huggingface_hub import get_token

    teacher = bool(os.environ.get("OPENAI_API_KEY"))
    yield Finding(
        "OPENAI_API_KEY",
        "works" if teacher else "missing",
        "is set" if teacher else "not set: needed for hosted teachers, judges and models only",
    )
    hub = get_token() is not None
    yield Finding(
        "hub token",
        "works" if hub else "missing",
        "is set" if hub else "not set (hf auth login): needed for gated weights only",
    )


def _hub() -> Finding:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "missing", "HF_HUB_OFFLINE is set: weights and rows from files only")
    problem = _http_problem(constants.ENDPOINT)
    if problem is None or problem.startswith("answers"):
        return Finding("hub", "works", f"{constants.ENDPOINT} answers")
    without = "give model.path=FOLDER and data files, or use model=tiny"
    return Finding("hub", "missing", f"{constants.ENDPOINT} {problem.split(':')[0]}: {without}")
