"""The entry point of every command: ``python -m tbr_lightning.VERB [action] key=value …``."""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from omegaconf import OmegaConf

from tbr_lightning import __version__
from tbr_lightning.config.announce import first_line
from tbr_lightning.config.compose import Composed, compose_verb
from tbr_lightning.credentials import hidden
from tbr_lightning.errors import INTERRUPTED, USAGE_ERROR, UserError, disk_full, near
from tbr_lightning.outages import OUTAGE, OutageError, outage

ACTIONS: dict[str, tuple[str, ...]] = {
    "evaluate": ("calibrate", "labelled", "draw"),
    "promote": ("status", "history", "verify", "rollback", "repair", "accept"),
    "serve": ("chat",),
}
"""Words a verb takes before its overrides."""

NOT_NEEDED: dict[tuple[str, str | None], list[str]] = {
    ("evaluate", "calibrate"): ["model_uri=-"],  # it judges answers that are there already
    ("evaluate", "labelled"): ["model_uri=-"],
    ("evaluate", "draw"): ["model_uri=-"],
}
"""Overrides that stand in for what a verb needs and its action does not."""
QUIET = ("serve", "sweep")
"""Verbs that say by themselves how far they are, or are never done."""

FORMATTED = ("evaluate",)
"""Verbs with a key ``format``, which ``--format`` sets as well."""


def main(verb: str, argv: Sequence[str] | None = None) -> int:
    """Compose the config of a command, run it, and return the exit code.

    0 is success, 2 wrong use or bad input (reported in one sentence), 75 an outage (give the same
    command again once it is over), 130 an interruption; a command may return others (``promote``:
    3 for a refusal).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding lacks signs
            with suppress(OSError, ValueError):  # a stream that somebody redirected or closed
                stream.reconfigure(errors="backslashreplace")
    try:
        words = list(map(_as_typed, sys.argv[1:] if argv is None else argv))
        args, action, overrides = _parse(verb, words)
        if args.help:
            print(_help(verb, overrides, args.config_dir))
            return 0
        if args.cfg:
            node = compose_verb(verb, overrides, args.config_dir, check=False).node
            print(OmegaConf.to_yaml(node, resolve=args.resolve), end="")
            return 0
        given = [*NOT_NEEDED.get((verb, action), []), *overrides]
        composed = compose_verb(verb, given, args.config_dir)
        return _run(verb, composed, action)
    except UserError as error:
        # Whatever a library's error was taken for, a full disk is reported as one.
        full = None if "disk is full" in str(error) else disk_full(error)
        print(f"{verb}: {hidden(full or str(error))}", file=sys.stderr)
        return OUTAGE if isinstance(error, OutageError) and full is None else USAGE_ERROR
    except KeyboardInterrupt as error:
        print(f"{verb}: interrupted{_goes_on(verb, error)}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        code = USAGE_ERROR
        if (sentence := disk_full(error)) is None:
            code, sentence = OUTAGE, outage(error)
        if sentence is None:
            raise
        print(f"{verb}: {hidden(sentence)}", file=sys.stderr)
        return code


_GOES_ON = {
    "reflect": "reflections so far are stored; the same command goes on",
    "evaluate": "answers so far are stored; the same command goes on",
    "promote": "nothing was decided; the same command begins again, with the answers so far",
    "sweep": "finished trials are kept; the same command goes on",
    "train": "the same command begins again; resume=latest goes on from the last checkpoint",
    "demo": "the same command begins again; base model and stored answers are kept",
}
"""What one does after an interruption."""


def _goes_on(verb: str, error: KeyboardInterrupt) -> str:
    """Return how far it came, where that is known, and the command that goes on."""
    told = str(error) or _GOES_ON.get(verb, "")
    return f" {told}" if told.startswith("at ") else f"; {told}" if told else ""


def _run(verb: str, composed: Composed, action: str | None) -> int:
    from tbr_lightning.processes import collect_rarely, quiet
    from tbr_lightning.progress import alive, wrapped

    collect_rarely()
    quiet()
    line = None if action is not None else first_line(verb, composed.config)
    if line is not None:
        print("\n".join(wrapped(line, 2, sys.stderr)), file=sys.stderr, flush=True)
    # A terminated process ends as an interrupted one, so that its run is marked KILLED.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told = line is not None and verb not in QUIET
    with alive(verb) if told else nullcontext():
        module = importlib.import_module(f"tbr_lightning.{verb}")
        if action is not None:
            return int(getattr(module, f"command_{action}")(composed.config) or 0)
        return int(module.command(composed.config) or 0)


def _as_typed(word: str) -> str:
    """Return a word of the command line in UTF-8, also where Python took it for ASCII."""
    try:
        return word.encode(errors="surrogateescape").decode()
    except UnicodeError:
        raise UserError(f"{word!r} is not UTF-8: give it in this encoding") from None


def _parse(verb: str, argv: Sequence[str]) -> tuple[argparse.Namespace, str | None, list[str]]:
    parser = argparse.ArgumentParser(prog=verb, add_help=False, exit_on_error=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    if verb in FORMATTED:
        parser.add_argument("--format")
    parser.add_argument("--version", action="version", version=__version__)
    try:
        args, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see --help") from error
    for word in rest:
        if word.startswith("-"):
            flags = ["--help", "--cfg", "--resolve", "--config-dir", "--version"]
            flags += ["--format"] if verb in FORMATTED else []
            raise UserError(f"{word} is not an option{near(word, flags)}")
    if getattr(args, "format", None) is not None:
        rest.append(f"format={args.format}")
    if args.config_dir is not None:  # no shell expands --config-dir=~/FOLDER
        args.config_dir = str(Path(args.config_dir).expanduser())
    action = None
    actions = ACTIONS.get(verb, ())
    if rest and "=" not in rest[0] and not rest[0].startswith("~"):
        action, rest = rest[0], rest[1:]
        if action not in actions:
            hint = near(action, actions) if actions else "; overrides are written key=value"
            raise UserError(f"'{action}' is not an action of {verb}{hint}")
    return args, action, rest


def _help(verb: str, overrides: Sequence[str], config_dir: str | None) -> str:
    from tbr_lightning.config.help import help_text

    composed = compose_verb(verb, overrides, config_dir, check=False)
    more = [f"  {'--format md|latex|csv':24}print a table to paste"] if verb in FORMATTED else []
    return help_text(verb, composed, ACTIONS.get(verb, ()), more, config_dir)
