"""Chats as people keep them: messages, ShareGPT's turns, transcripts, each also as JSON text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tbr_lightning.errors import UserError

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
"""Keys of a message that hold what was thought before it."""

_CALLS = ("tool_calls", "function_call")
_READ = {"role", "from", "content", "value", *REASONING, *_CALLS}
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")


def as_turns(value: Any) -> list[Any] | None:
    """Return a value as a list of turns if it is one, be it as JSON text; else ``None``.

    A single message counts as a list of one, and so do columns of turns (``{"role": [...]}``).
    """
    if isinstance(value, str):
        found = decoded(value)
        turns = found if isinstance(found, list) else [found]
        # An answer may be JSON itself: only what is no answer to anybody is read as messages.
        return turns if turns and all(map(_is_message, turns)) else None
    if isinstance(value, dict) and {"role", "from"} & value.keys():
        if all(isinstance(column, list) for column in value.values()):
            names, columns = list(value), list(value.values())
            return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=False)]
        return [value]
    return value if isinstance(value, list) else None


def _is_message(turn: Any) -> bool:
    if not isinstance(turn, dict):
        return False
    return bool({"role", "from"} & turn.keys()) and bool({"content", "value"} & turn.keys())


def decoded(value: Any) -> Any:
    """Return what a text of JSON holds, if it is an object or a list; else the value itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(value)
        except json.JSONDecodeError:
            return value
        objects = isinstance(found, dict) or (
            isinstance(found, list) and all(isinstance(item, dict | list) for item in found)
        )
        return found if objects and found else value
    return value


def transcript(text: Any) -> list[dict[str, str]] | None:
    """Return the turns of a text such as ``Human: … Assistant: …``, as Anthropic's HH-RLHF has."""
    if not isinstance(text, str) or not _TRANSCRIPT.match(text.lstrip("\n")):
        return None
    parts = _TRANSCRIPT.split(text.lstrip("\n"))[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[who], "content": said.strip()} for who, said in pairs]


def unused_keys(turns: Sequence[Any], name: str) -> set[str]:
    """Return the keys of messages that nothing reads, as dotted names."""
    keys = {str(key) for turn in turns if isinstance(turn, dict) for key in turn}
    return {f"{name}[].{key}" for key in keys - _READ}


def messages_in(turns: Sequence[Any], name: str, where: str) -> list[dict[str, str]]:
    """Return the messages of a list of turns, as OpenAI or ShareGPT write them.

    Reasoning that an assistant's message holds in a key of its own is kept as ``reasoning``.

    Raises:
        UserError: One is not a message with a known role and text.
    """
    made = []
    for number, message in enumerate(turns):
        place = f"{where}: {name}[{number}]"
        if not isinstance(message, dict):
            raise UserError(f"{place} must be an object with role and content: fix it")
        role = str(message.get("role", message.get("from", "")))
        if role.lower() not in ROLES:
            raise UserError(
                f"{place} has the role '{role}', which cannot be trained on: remove the row, "
                f"or use one of {', '.join(ROLES)}"
            )
        if called := next((key for key in _CALLS if message.get(key)), None):
            raise UserError(f"{place} has {called}, which cannot be trained on: remove the row")
        content = message.get("content", message.get("value"))
        if isinstance(content, list):  # parts, as of multimodal chats
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            whole = len(texts) == len(content) and all(isinstance(t, str) for t in texts)
            content = "".join(map(str, texts)) if whole else None
        if not isinstance(content, str):
            raise UserError(f"{place} has no text: fix or remove the row")
        made.append({"role": ROLES[role.lower()], "content": content.strip()})
        thought = _thought(message)
        if thought and made[-1]["role"] == "assistant":
            made[-1]["reasoning"] = thought
    return made


def _thought(message: Mapping[str, Any]) -> str:
    found = (message.get(key) for key in REASONING)
    return next((text.strip() for text in found if isinstance(text, str) and text.strip()), "")
