"""Write the secrets that the compose stack needs, those that are not there yet.

Compose mounts a secret's file with the owner and mode that it has on the host, and the containers
run as users of their own. So the files are readable by all, in a folder that only you may enter.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

NAMES = (
    "postgres_password",
    "mlflow_password",
    "ledger_password",
    "ledger_reader_password",
    "serve_token",
)


def make_secrets(folder: Path) -> list[str]:
    """Write a random secret into each file of ``NAMES`` that is missing, and return their names.

    One that is there stays: PostgreSQL takes its passwords only when its volume is new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    written = []
    for name in NAMES:
        try:
            # Exclusive: two runs at once do not write the same file.
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
        (folder / name).chmod(0o444)
        written.append(name)
    return written


def main() -> int:
    """Write, and tell what and where, never the secrets themselves."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "secrets"
    written = make_secrets(folder)
    print(f"{folder}: wrote {', '.join(written)}" if written else f"{folder}: all there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
