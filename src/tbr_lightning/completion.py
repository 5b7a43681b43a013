"""Candidates for the word at the cursor of a command line: commands, actions, groups, keys."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tbr_lightning.cli import ACTIONS
from tbr_lightning.config.compose import compose_verb, keys_of
from tbr_lightning.config.groups import options
from tbr_lightning.config.verbs import VERBS
from tbr_lightning.errors import UserError


def answer() -> None:
    """Print the candidates where a shell asked for them through argcomplete, and end."""
    import argcomplete

    parser = argparse.ArgumentParser(prog="tbr", add_help=False)
    parser.add_argument("verb", choices=list(VERBS))
    words = parser.add_argument("words", nargs="*")
    # argcomplete reads completers as attributes that argparse does not declare.
    words.completer = lambda prefix, parsed_args, **_: candidates(  # type: ignore[attr-defined]
        parsed_args.verb, parsed_args.words or [], prefix
    )
    argcomplete.autocomplete(parser, always_complete_options=False)


def candidates(verb: str, words: Sequence[str], prefix: str) -> list[str]:
    """Return the candidates for a word.

    Args:
        verb: Command on the command line.
        words: The words after it that are complete.
        prefix: Beginning of the word at the cursor, e.g. ``reflection=ex`` or ``optimizer.``.

    Returns:
        Actions, ``group=member``, ``key=`` and, for a key with keys below it, ``key.``; one level
        at a time.
    """
    group, equals, _ = prefix.partition("=")
    if equals:
        return [f"{group}={member}" for member in options(group)]
    try:
        composed = compose_verb(verb, words, check=False)
    except UserError:  # a command line that is wrong so far still completes by its command
        composed = compose_verb(verb, check=False)
    parent = prefix.rpartition(".")[0]
    below = keys_of(composed.node)
    level = [key for key in below if key.rpartition(".")[0] == parent]
    made = [
        f"{key}." if any(other.startswith(f"{key}.") for other in below) else f"{key}="
        for key in level
    ]
    if not parent:
        made += [f"{name}=" for name in composed.choices if "/" not in name and options(name)]
        made += ACTIONS.get(verb, ()) if not words else ()
    return sorted(word for word in set(made) if word.startswith(prefix))
