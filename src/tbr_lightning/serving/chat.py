"""Talking to a served model in the terminal, its reflection in grey."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import urlsplit

from tbr_lightning.config.serve import ServeConfig, is_loopback
from tbr_lightning.errors import UserError
from tbr_lightning.progress import plain

_GREY, _PLAIN = "\033[90m", "\033[0m"


def chat(config: ServeConfig) -> int:
    """Ask the server every line that is typed or piped in, until the input ends.

    Each line is a conversation of its own, as in the rows that the models are tuned on.

    Raises:
        UserError: No server answers, or it wants another token.
    """
    import openai

    if config.token() and not is_loopback(urlsplit(config.url).hostname or ""):
        raise UserError(
            f"{config.url} would get the token in {config.token_env} unencrypted: talk to it "
            "through a tunnel on loopback, or a proxy with TLS"
        )
    client = openai.OpenAI(
        base_url=f"{config.url}/v1", api_key=config.token() or "none", max_retries=2
    )
    try:
        model = client.models.list().data
    except openai.APIConnectionError as error:
        raise UserError(
            f"nothing answers at {config.url}: start it with `make serve`, or give port="
        ) from error
    except openai.AuthenticationError as error:
        raise UserError(
            f"{config.url} wants a bearer token: put it into the variable {config.token_env}"
        ) from error
    except openai.APIError as error:
        raise UserError(f"{config.url} does not answer as a model server: {error}") from error
    if not model:
        raise UserError(f"{config.url} is still loading its model: try again in a moment")
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    if sys.stdin.isatty():
        version = (model[0].model_extra or {}).get("version")
        title = f"{model[0].id}/{version}" if version else model[0].id
        print(f"{plain(title)} at {config.url}. Every line is a question of its own; Ctrl-D ends.")
    failed = False
    for line in _lines(sys.stdin):
        try:
            _tell(_pieces(client, model[0].id, line), sys.stdout, colour=colour)
        except openai.APIError as error:
            failed = True
            print(f"chat: {plain(str(error.message))}", file=sys.stderr)
    return 1 if failed else 0


def _lines(source: TextIO) -> Iterator[str]:
    """Yield what is typed, with a prompt and line editing on a terminal."""
    if not source.isatty():
        yield from (line.strip() for line in source if line.strip())
        return
    import readline  # noqa: F401  (gives input() its history)

    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _pieces(client: Any, model: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield ``(reflection or answer, text)`` as the server sends it."""
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], stream=True
    )
    for chunk in stream:
        for choice in chunk.choices:
            if reflection := getattr(choice.delta, "reasoning_content", None):
                yield "reflection", reflection
            if choice.delta.content:
                yield "answer", choice.delta.content


def _tell(pieces: Iterator[tuple[str, str]], out: TextIO, *, colour: bool) -> None:
    """Write a reply as it comes; without colours the reflection is in brackets."""
    opened, closed = (_GREY, f"{_PLAIN}\n") if colour else ("[", "]\n")
    reflecting = False
    try:
        for kind, text in pieces:
            if kind == "reflection" and not reflecting:
                reflecting = True
                out.write(opened)
            if kind == "answer" and reflecting:
                reflecting = False
                out.write(closed)
            out.write(plain(text))
            out.flush()
    finally:
        if reflecting:
            out.write(closed)
        out.write("\n")
        out.flush()
