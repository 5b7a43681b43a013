"""Facts about where a run comes from: code, packages, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil

_PACKAGES = (
    "tbr-lightning",
    "torch",
    "transformers",
    "lightning",
    "peft",
    "deepspeed",
    "mlflow",
    "optuna",
    "hydra-core",
    "tokenizers",
    "numpy",
)


def git_state(folder: Path | None = None) -> dict[str, str]:
    """Return ``git.commit`` and ``git.dirty`` of the code's checkout, if it is in one.

    An image has no checkout: its commit is in ``TBR_GIT_COMMIT``, set when it was built.
    """
    folder = folder or Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", str(Path(__file__).resolve())):
            return {
                "git.commit": git("rev-parse", "HEAD"),
                "git.dirty": str(bool(git("status", "--porcelain"))).lower(),
            }
    except (OSError, subprocess.SubprocessError):
        pass
    commit = os.environ.get("TBR_GIT_COMMIT")
    return {"git.commit": commit} if commit else {}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's numbers."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def hardware() -> dict[str, str]:
    """Return cores, memory and, where CUDA is, the GPUs."""
    import torch

    facts = {
        "platform": platform.platform(),
        "cpu.cores": str(psutil.cpu_count()),
        "memory.gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
    }
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        facts["gpu"] = ", ".join(names)
    return facts
