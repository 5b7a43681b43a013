"""Entry point of the train and serve images: read secrets, wait for the tracker, become the verb.

The first word may be a verb; without one it is ``TBR_VERB``, so that ``docker compose run train
reflection=external`` trains and ``docker compose run promote status`` asks who is champion.

Environment:
    TBR_VERB: The verb of this image (``train`` or ``serve``).
    TBR_WAIT_SECONDS: How long to wait for the tracker (120).
    MLFLOW_TRACKING_URI: A server's URL also chooses ``tracking=server``.
    NAME_FILE: For each name of ``secret_files.NAMES``, a file that holds it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from secret_files import read_secrets
from starting import become, patience
from waiting import wait_for_tracker

VERBS = ("reflect", "train", "evaluate", "promote", "serve", "export", "sweep", "demo", "doctor")


def command(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the command that this container becomes.

    Args:
        words: What was given after the image's or the service's name.
        environment: The process's environment.
    """
    verb, rest = environment.get("TBR_VERB", "train"), list(words)
    if rest and rest[0] in VERBS:
        verb, rest = rest[0], rest[1:]
    chosen = any(word.startswith("tracking=") for word in rest)
    if environment.get("MLFLOW_TRACKING_URI", "").startswith("http") and not chosen:
        rest.append("tracking=server")
    return [sys.executable, "-m", f"tbr_lightning.{verb}", *rest]


def asks_only(words: Sequence[str]) -> bool:
    """Whether the words print something and stop, for which no tracker is needed."""
    return any(
        word in ("--help", "-h", "--cfg", "-c", "--version") or word.startswith("--cfg=")
        for word in words
    )


def prepare() -> tuple[list[str], dict[str, str]]:
    """Return the verb's command and environment, once the tracker answers.

    Raises:
        starting.StartError: A secret cannot be used, or the tracker does not answer.
    """
    environment = read_secrets(os.environ)
    words = command(sys.argv[1:], environment)
    if not asks_only(words):
        uri = environment.get("MLFLOW_TRACKING_URI", "")
        if uri.startswith("http"):
            wait_for_tracker(uri, patience(environment))
    return words, environment


if __name__ == "__main__":
    become(prepare)
