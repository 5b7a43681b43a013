"""Kills a command before each of its writes in turn, and runs the next command after each.

``python -m tests.registry.kill_driver TEMPLATE SCRATCH`` prints a line of JSON per point. The
killed command is a process of its own, forked since importing takes longer than the command, and
ends by SIGKILL: nothing of it is cleaned up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from tbr_lightning.registry import alias_moves, aliases
from tbr_lightning.registry.alias_sync import recover
from tbr_lightning.registry.audit import audit
from tbr_lightning.registry.ledger import Ledger

from ..support import made

WRITES: tuple[tuple[Any, str], ...] = (
    (MlflowClient, "create_model_version"),
    (MlflowClient, "set_registered_model_alias"),
    (MlflowClient, "delete_registered_model_alias"),
    (MlflowClient, "set_model_version_tag"),
    (MlflowClient, "update_model_version"),
    (MlflowClient, "update_registered_model"),
    (MlflowClient, "set_registered_model_tag"),
    (Ledger, "append"),
)


def kill_before(point: int) -> None:
    """Let the ``point``-th write of this process be its end."""
    count = 0

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*args, **more)

        return wrapper

    for owner, name in WRITES:
        setattr(owner, name, counted(getattr(owner, name)))


def act(folder: Path, action: str) -> None:
    """Run the command under test."""
    where = made.registry(folder)
    if action == "promote":
        made.crown(where, made.model(folder, "four"))
    elif action == "challenge":
        more = {"why": "w", "evidence": ["r"]}
        logged = made.model(folder, "four")
        alias_moves.challenge(made.NAME, logged, made.tracking(folder), made.paths(folder), **more)
    elif action == "rollback":
        alias_moves.rollback(where, "")
    elif action == "repair":
        alias_moves.repair(where, "")
    elif action == "accept":
        alias_moves.accept(where, "by hand")


def after(folder: Path) -> dict[str, Any]:
    """Run the next command, and return how it left things."""
    where = made.registry(folder)
    standing = recover(where)
    there = aliases.registered(made.NAME)
    return {
        "entries": len(standing.entries),
        "aliases": there.aliases if there else {},
        "described": MlflowClient().get_registered_model(made.NAME).description,
        "drift": list(standing.drift),
        "problems": list(audit(where).problems),
    }


def forked(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run work in a process of its own; return the signal that ended it, and what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the command failed of itself")
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), json.loads(text or "null")


def kill_at_every_point(template: Path, scratch: Path, action: str) -> None:
    """Kill a command at one point after another, until it comes to its end."""
    ended, point = -1, 0
    while ended != 0:
        point += 1
        folder = made.copied(template, scratch / f"{action}{point}")

        def command(folder: Path = folder, point: int = point) -> None:
            if action in ("repair", "accept"):
                made.registry(folder)  # connects
                MlflowClient().set_registered_model_alias(made.NAME, "champion", "3")
            kill_before(point)
            act(folder, action)

        ended, _ = forked(command)
        _, found = forked(lambda folder=folder: after(folder))  # type: ignore[misc]
        line = {"action": action, "point": point, "killed": ended == signal.SIGKILL, **found}
        print(json.dumps(line), flush=True)
        shutil.rmtree(folder)


def main(template: Path, scratch: Path) -> None:
    """Kill every action at every point."""
    # Once without a fork, so that what MLflow imports late is there.
    act(made.copied(template, scratch / "warm"), "promote")
    for action in ("promote", "challenge", "rollback", "repair", "accept"):
        kill_at_every_point(template, scratch, action)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
