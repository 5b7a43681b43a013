"""The verb ``promote``: gate a candidate against the champion, and move the aliases."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.verbs import PromoteConfig


def command(config: PromoteConfig) -> int:
    """Gate a candidate, print the verdict in words, and return 0 if promoted, 3 if refused."""
    from tbr_lightning.registry import commands

    return commands.gate(config)


def command_status(config: PromoteConfig) -> int:
    """Print who is what and why; return 1 if the ledger is broken."""
    from tbr_lightning.registry import commands

    return commands.status(config)


def command_history(config: PromoteConfig) -> int:
    """Print the ledger."""
    from tbr_lightning.registry import commands

    return commands.history(config)


def command_verify(config: PromoteConfig) -> int:
    """Print what holds and what does not; return 1 if anything does not."""
    from tbr_lightning.registry import commands

    return commands.verify(config)


def command_rollback(config: PromoteConfig) -> int:
    """Make the previous champion the champion again."""
    from tbr_lightning.registry import commands

    return commands.rollback(config)


def command_repair(config: PromoteConfig) -> int:
    """Put aliases that were moved outside back to where the ledger has them."""
    from tbr_lightning.registry import commands

    return commands.repair(config)


def command_accept(config: PromoteConfig) -> int:
    """Take over into the ledger what was moved outside."""
    from tbr_lightning.registry import commands

    return commands.accept(config)


if __name__ == "__main__":
    sys.exit(cli.main("promote"))
