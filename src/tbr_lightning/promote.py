"""The command ``promote``: gate a candidate against the champion, and move the aliases."""

from __future__ import annotations

import sys
from typing import Any

from tbr_lightning import cli
from tbr_lightning.config.verbs import PromoteConfig


def _commands() -> Any:
    from tbr_lightning.registry import commands

    return commands


def command(config: PromoteConfig) -> int:
    """Gate a candidate and print the verdict; return 0 if promoted, 3 if refused."""
    return _commands().gate(config)


def command_status(config: PromoteConfig) -> int:
    """Print the aliases with reasons; return 1 if the ledger is broken."""
    return _commands().status(config)


def command_history(config: PromoteConfig) -> int:
    """Print the ledger."""
    return _commands().history(config)


def command_verify(config: PromoteConfig) -> int:
    """Print what holds and what does not; return 1 if anything does not."""
    return _commands().verify(config)


def command_rollback(config: PromoteConfig) -> int:
    """Make the previous champion the champion again."""
    return _commands().rollback(config)


def command_repair(config: PromoteConfig) -> int:
    """Move aliases that were changed outside back to where the ledger has them."""
    return _commands().repair(config)


def command_accept(config: PromoteConfig) -> int:
    """Record in the ledger what was moved outside."""
    return _commands().accept(config)


if __name__ == "__main__":
    sys.exit(cli.main("promote"))
