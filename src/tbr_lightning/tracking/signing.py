"""Signatures of what this installation made, so that tracker and ledger can be written by others.

The key is Ed25519's, made at its first use in the folder of runs' parent (mode 0600), or the file
that ``TBR_EVIDENCE_KEY`` names. Its public half is beside it, in ``KEY.pub``: a line for each
key whose signatures count here, so that machines trust each other by an exchange of lines and one
that only reads needs no private key. ``TBR_PUBLIC_KEYS`` names another such file.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.errors import UserError

PRIVATE, PUBLIC = "TBR_EVIDENCE_KEY", "TBR_PUBLIC_KEYS"
"""Environment variables that name the files."""

_SIGNATURE = re.compile(r"(?:([0-9a-f]{64}):)?([0-9a-f]{128})")


@dataclass(frozen=True)
class Keys:
    """The key files of an installation.

    Attributes:
        private: File of the key that signs; created when it first signs.
        public: File of the trusted keys, 64 hexadecimal digits per line; what follows them on the
            line, and lines that begin with ``#``, are comments.
        required: Whether nothing unsigned is accepted, since a file of keys was named.
    """

    private: Path
    public: Path
    required: bool = False

    def sign(self, statement: bytes) -> str:
        """Return ``PUBLIC_KEY:SIGNATURE`` of a statement, in hexadecimal digits.

        Raises:
            UserError: The key cannot be read or made.
        """
        is_new = not self.private.exists()
        key = self._private()
        public = key.public_key().public_bytes_raw().hex()
        if public not in self._listed():
            if not is_new and self._listed():
                raise UserError(
                    f"the key {self.private} is not one of those in {self.public}: restore it, "
                    "delete it to have a new one made, or, if it is yours, add the line "
                    f"{public} to that file"
                )
            with _told(self.public), self.public.open("a", encoding="utf-8") as out:
                out.write(f"{public} made here\n")
        return f"{public}:{key.sign(statement).hex()}"

    def problem(self, statement: bytes, signature: str) -> str | None:
        """Return what is wrong with a signature, to be read after the name of what carries it.

        Raises:
            UserError: A file of keys cannot be read.
        """
        match = _SIGNATURE.fullmatch(signature)
        if match is None:
            return "carries a signature that is none"
        trusted = self.trusted()
        signer = match[1]
        if signer is not None and signer not in trusted:
            return (
                f"is signed by the key {signer[:16]}…, which is not trusted here: if it is the key "
                f"of a machine of yours, add the line {signer} to {self.public}"
            )
        for one in [signer] if signer else trusted:
            try:
                Ed25519PublicKey.from_public_bytes(bytes.fromhex(one)).verify(
                    bytes.fromhex(match[2]), statement
                )
            except InvalidSignature:
                continue
            return None
        return "is not as it was signed"

    def trusted(self) -> list[str]:
        """Return the public keys that count here, in hexadecimal digits."""
        found = self._listed()
        if self.private.exists():
            found.append(self._private().public_key().public_bytes_raw().hex())
        return found

    def _listed(self) -> list[str]:
        if not self.public.exists():
            return []
        with _told(self.public):
            lines = self.public.read_text("utf-8").splitlines()
        keys = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        for number, key in enumerate(keys, start=1):
            if re.fullmatch("[0-9a-f]{64}", key) is None:
                raise UserError(
                    f"{self.public}: key {number}, {key[:16]!r}, is not 64 hexadecimal digits: "
                    "write one public key a line, as stands in KEY.pub of the machine that signs"
                )
        return keys

    def _private(self) -> Ed25519PrivateKey:
        file = self.private
        with _told(file):
            if not file.exists():
                _make(file)
            secret = file.read_bytes()
            if not any(secret):
                raise ValueError("it holds nothing but zeros")
            return Ed25519PrivateKey.from_private_bytes(secret)


def keys_of(paths: PathsConfig) -> Keys:
    """Return the key files of an installation."""
    named, listed = os.environ.get(PRIVATE), os.environ.get(PUBLIC)
    private = (
        Path(named).expanduser() if named else Path(paths.runs).absolute().parent / "evidence.key"
    )
    beside = private.with_name(f"{private.name}.pub")
    return Keys(private, Path(listed).expanduser() if listed else beside, required=bool(listed))


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Complete before it has its name, and only one of two that make it at once stays.
    handle, fresh = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)  # mode 0600
    with os.fdopen(handle, "wb") as out:
        out.write(Ed25519PrivateKey.generate().private_bytes_raw())
    try:
        os.link(fresh, file)
    except FileExistsError:
        pass
    finally:
        Path(fresh).unlink()


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"the key {file} cannot be used ({error}): restore it, or delete it to have a new one "
            "made; models are then evaluated anew before they are promoted, and what the old key "
            f"signed counts while its line stands in the file of public keys ({PUBLIC})"
        ) from error
