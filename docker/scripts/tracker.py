"""Entry point of the MLflow image: wait for PostgreSQL, then serve, or upgrade the database.

Words: ``server`` (the default; further words go to ``mlflow server``) or ``upgrade``.

Environment:
    MLFLOW_BACKEND_STORE_URI: The database, without password; libpq reads ``PGPASSWORD``.
    PGPASSWORD_FILE: A file that holds it.
    MLFLOW_ARTIFACTS_DESTINATION: Where artifacts go.
    MLFLOW_SERVER_ALLOWED_HOSTS: The names under which clients may call the server.
    TBR_WAIT_SECONDS: How long to wait for the database (120).
"""

from __future__ import annotations

import os
import sys
import urllib.parse
from collections.abc import Mapping, Sequence

from secret_files import read_secrets
from starting import StartError, become, patience
from waiting import wait_for_port


def command(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the command that this container becomes; the database's URI stays in the environment.

    Args:
        words: What was given after the image's or the service's name.
        environment: The process's environment.
    """
    mlflow = [sys.executable, "-m", "mlflow"]
    if words and words[0] == "upgrade":
        return [*mlflow, "db", "upgrade", environment["MLFLOW_BACKEND_STORE_URI"], *words[1:]]
    rest = list(words[1:] if words and words[0] == "server" else words)
    # On a busy machine a worker that is still importing would be taken for dead after 5 s, and the
    # next one too, for ever.
    patient = ["--uvicorn-opts", "--timeout-worker-healthcheck 60"]
    where = ["--host", "0.0.0.0", "--port", "5000", "--workers", "2"]
    return [*mlflow, "server", *where, *patient, *rest]


def prepare() -> tuple[list[str], dict[str, str]]:
    """Return the server's command and environment, once the database's port is open.

    Raises:
        StartError: The database is not given, given with its password, or does not answer.
    """
    environment = read_secrets(os.environ)
    uri = environment.get("MLFLOW_BACKEND_STORE_URI", "")
    if not uri:
        raise StartError(
            "MLFLOW_BACKEND_STORE_URI is not set: give the database, "
            "e.g. postgresql://mlflow@postgres:5432/mlflow"
        )
    place = urllib.parse.urlsplit(uri)
    if place.password is not None:
        raise StartError(
            "MLFLOW_BACKEND_STORE_URI holds a password, which process lists would show: "
            "leave it out and give PGPASSWORD_FILE"
        )
    if place.hostname is not None:
        wait_for_port(place.hostname, place.port or 5432, patience(environment))
    return command(sys.argv[1:], environment), environment


if __name__ == "__main__":
    become(prepare)
