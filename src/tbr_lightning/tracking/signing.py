"""Signatures of what this installation made, so that a tracker can be written by others.

The key is Ed25519's, made at its first use in the folder of runs' parent (mode 0600), or the file
that ``TBR_EVIDENCE_KEY`` names, which machines that trust each other share.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.errors import UserError

VARIABLE = "TBR_EVIDENCE_KEY"


def key_file(paths: PathsConfig) -> Path:
    """Return where the key is kept."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(paths.runs).absolute().parent / "evidence.key"


def sign(statement: bytes, file: Path) -> str:
    """Return the signature of a statement, in hexadecimal digits."""
    return _key(file).sign(statement).hex()


def is_signed(statement: bytes, signature: str, file: Path) -> bool:
    """Return whether a signature is of this statement and by this key."""
    try:
        _key(file).public_key().verify(bytes.fromhex(signature), statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def _key(file: Path) -> Ed25519PrivateKey:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Complete before it has its name, and only one of two that make it at once stays.
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(Ed25519PrivateKey.generate().private_bytes_raw())
        try:
            os.link(fresh, file)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    try:
        return Ed25519PrivateKey.from_private_bytes(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"the key of evidence, {file}, cannot be read ({error}): restore it, or delete it to "
            "have a new one made, after which models are evaluated anew before they are promoted"
        ) from error
