"""Files and folders that are there whole or not at all, and hashes that name and compare them.

Cache folders are named by a hash of their inputs, so that a folder that exists is the right one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tbr_lightning.errors import UserError

_SEAL = ".digests.json"
"""In a folder: the hash of each file that was written into it."""


def content_key(*parts: Any) -> str:
    """Return 16 hex digits over values that JSON can write; the order in mappings is ignored."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_key(path: Path) -> str:
    """Return 64 hex digits over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents_key(name: str | None) -> str | None:
    """Return a hash of what a name stands for on this machine: a file, or a folder's files.

    A folder's files are hashed by relative path and content; hidden files and folders are ignored.

    Returns:
        64 hex digits; ``None`` where there is no such file or folder.
    """
    if not name or len(name) >= 1024:
        return None
    path = Path(name)
    try:
        if path.is_file():
            return file_key(path)
        if not path.is_dir():
            return None
    except OSError:  # a text that no file can be called
        return None
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            found.update(f"{inside}\0{file_key(file)}\0".encode())
    return found.hexdigest()


def private(file: Path) -> None:
    """Make an empty file that only its owner may read, unless there is one."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step: whoever reads it finds the old text or all of the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a path; the lock of a process that dies is free at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.alone")
    while True:
        with lock.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not _is_at(held.fileno(), lock):
                continue  # the previous holder has removed it, and another may hold a new one
            try:
                yield
            finally:
                lock.unlink()
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def built(folder: Path, write: Callable[[Path], None]) -> Path:
    """Return a folder, letting ``write`` fill it first if it is not there.

    It is written beside its place and moved in one step: a process that is killed leaves nothing
    that a later one would find. Of several processes that want it, one writes and the others wait.
    The hash of each file is kept with it and compared whenever the folder is found.

    Raises:
        UserError: The folder is not as it was written, or cannot be read.
    """
    if not folder.is_dir():
        with alone(folder):
            if not folder.is_dir():
                return _build(folder, write)
    if damage := _damage(folder):
        raise UserError(
            f"the cache {folder} is damaged: {damage}; delete that folder, which costs the time to "
            "make it again and nothing else"
        )
    return folder


def _damage(folder: Path) -> str | None:
    """Return which file of a folder is not as it was written, or ``None``."""
    seal = folder / _SEAL
    try:
        if not seal.exists():  # of an earlier version
            return None
        for name, digest in json.loads(seal.read_text("utf-8")).items():
            if file_key(folder / name) != digest:
                return f"{name} is not as it was written"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None


def _build(folder: Path, write: Callable[[Path], None]) -> Path:
    if folder.exists():
        raise UserError(
            f"the cache {folder} should be a folder and is a file: delete it, which costs nothing"
        )
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(partial)
        files = sorted(file for file in partial.rglob("*") if file.is_file())
        digests = {str(file.relative_to(partial)): file_key(file) for file in files}
        (partial / _SEAL).write_text(json.dumps(digests), "utf-8")
        partial.chmod(0o755)
        try:
            partial.replace(folder)
        except OSError:
            # Another process was faster; what it wrote is the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
