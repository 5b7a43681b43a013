"""What the images' entry points share: how they fail, and how they become another program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import NoReturn

USAGE_ERROR = 2
UNAVAILABLE = 69  # sysexits.h: EX_UNAVAILABLE


class StartError(Exception):
    """Why a container does not start: one sentence, which never holds a secret.

    Attributes:
        code: The exit code.
    """

    def __init__(self, sentence: str, code: int = USAGE_ERROR) -> None:
        super().__init__(sentence)
        self.code = code


def patience(environment: Mapping[str, str]) -> float:
    """Return ``TBR_WAIT_SECONDS``.

    Raises:
        StartError: It is not a number of seconds.
    """
    given = environment.get("TBR_WAIT_SECONDS") or "120"
    try:
        seconds = float(given)
        if not 0 <= seconds < float("inf"):
            raise ValueError
    except ValueError as error:
        raise StartError(f"TBR_WAIT_SECONDS={given} is not a number of seconds") from error
    return seconds


def become(prepare: Callable[[], tuple[list[str], dict[str, str]]]) -> NoReturn:
    """Replace this process by the command that ``prepare`` returns with its environment.

    The process id stays the same, so the signals of ``docker stop`` reach the command itself.
    """
    # A container's first process ignores the signals that it has no handler for.
    signal.signal(signal.SIGTERM, _end)
    try:
        words, environment = prepare()
    except StartError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)
    os.execve(words[0], words, environment)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
