"""Wait until a service answers."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

from starting import UNAVAILABLE, StartError

# /health and /version are exempt from MLflow's check of the Host header; this is not, so it tells
# whether the server would answer a client that calls it by this name.
_TRACKER_PROBE = "/api/2.0/mlflow/experiments/search?max_results=1"
_PAUSE_S = 0.5
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def wait_for_tracker(uri: str, seconds: float) -> None:
    """Wait until the MLflow server at ``uri`` answers a call of its API.

    Raises:
        StartError: It did not within ``seconds``, or it refuses to be called by this host name.
    """
    place = urllib.parse.urlsplit(uri)
    base = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl().rstrip("/")

    def problem() -> str | None:
        try:
            with _DIRECT.open(base + _TRACKER_PROBE, timeout=5):
                return None
        except urllib.error.HTTPError as error:
            said = error.read(200).decode(errors="replace")
            if error.code == 403 and "Invalid Host header" in said:
                host = urllib.parse.urlsplit(base).netloc
                raise StartError(
                    f"the MLflow server refuses the name {host}: add it to its "
                    "MLFLOW_SERVER_ALLOWED_HOSTS",
                    UNAVAILABLE,
                ) from error
            # Any other answer below 500 comes from a server that is up; the verb tells the rest.
            return f"HTTP {error.code}" if error.code >= 500 else None
        except urllib.error.URLError as error:
            return str(error.reason)
        except (OSError, ValueError) as error:
            return str(error)

    _wait(problem, f"the MLflow server at {base}", seconds)


def wait_for_port(host: str, port: int, seconds: float) -> None:
    """Wait until something listens on a TCP port.

    Raises:
        StartError: Nothing did within ``seconds``.
    """

    def problem() -> str | None:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            return str(error)
        return None

    _wait(problem, f"{host}:{port}", seconds)


def _wait(problem: Callable[[], str | None], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    told = False
    while (because := problem()) is not None:
        if time.monotonic() >= end:
            raise StartError(
                f"{what} did not answer within {seconds:g} s ({because}): is it up?", UNAVAILABLE
            )
        if not told:
            print(f"waiting for {what} ({because})", flush=True)
            told = True
        time.sleep(_PAUSE_S)
