"""From a client's request to one that the engine understands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from tbr_lightning.config.serve import POLICIES, ServeConfig
from tbr_lightning.serving.engines import Served
from tbr_lightning.serving.parameters import Wishes, check
from tbr_lightning.serving.problems import RequestError
from tbr_lightning.serving.prompt import laid_out
from tbr_lightning.serving.weights import Weights, count_tokens

_LONGEST = 128  # characters of a token, for a bound that costs nothing
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True)
class ChatRequest:
    """A parsed chat request.

    Attributes:
        body: Body for the engine.
        number: Id of the request at the engine.
        policy: What happens to the reflection.
        stream: Whether the reply is streamed.
        prompt: Text of the last message, used to recognise refusals.
        messages: The conversation as roles and texts.
        wishes: Options that the server handles itself.
    """

    body: bytes
    number: str
    policy: str
    stream: bool
    prompt: str
    messages: list[dict[str, str]]
    wishes: Wishes


def parse(raw: bytes, number: str, config: ServeConfig, served: Served) -> ChatRequest:
    """Check a request's body and write the engine's.

    Raises:
        RequestError: It is malformed, too long, or asks for what is not available.
    """
    release, weights, engine = served.release, served.weights, served.engine
    body = _object(raw)
    named = body.get("model")
    if named is not None and not (isinstance(named, str) and release.answers_to(named)):
        raise RequestError(
            404,
            f"the model {json.dumps(named)} is not served here: name {release.name}, or none",
            param="model",
            code="model_not_found",
        )
    wishes = check(body, engine.name, engine.only, strict=engine.strict)
    said, rendered = _messages(body, weights)
    body["max_tokens"] = _max_tokens(body, config, weights, rendered)
    body.pop("max_completion_tokens", None)
    policy = _policy(body, config, weights)
    stream = bool(body.get("stream"))
    sent, number = engine.request(body, weights, policy, number)
    try:
        data = json.dumps(sent, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # half a surrogate pair, or not a number
        raise RequestError(
            400, "the body holds something that is neither Unicode text nor a number"
        ) from error
    return ChatRequest(data, number, policy, stream, said[-1]["content"], said, wishes)


def model_in(raw: bytes) -> str | None:
    """Return the model that a request names; ``None`` too where :func:`parse` will refuse it."""
    try:
        named = _object(raw).get("model")
    except RequestError:
        return None
    return named if isinstance(named, str) else None


def label_of(raw: bytes) -> tuple[str, bool]:
    """Return the reply that a label is about, and whether it was right.

    Raises:
        RequestError: It is malformed.
    """
    body = _object(raw)
    number, right = body.get("id"), body.get("right")
    if not isinstance(number, str):
        raise RequestError(400, "id must be a reply's X-Request-ID", param="id")
    if not isinstance(right, bool):
        raise RequestError(400, "right must be true or false", param="right")
    return number, right


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(400, "the body is not a JSON object")
    return body


def _messages(body: dict[str, Any], weights: Weights) -> tuple[list[dict[str, str]], str]:
    """Check the messages, and return them as roles and texts, and what the model reads."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "messages must be a list of one or more messages", param="messages")
    if weights.context is not None and len(messages) >= weights.context:
        raise _too_long(f"there are {len(messages)} messages", weights.context)  # of a token each
    texts = [_text(message, f"messages[{n}]") for n, message in enumerate(messages)]
    prompt = "\n".join(texts)
    if weights.context is not None and len(prompt) >= weights.context * _LONGEST:
        raise _too_long(f"the messages have {len(prompt)} characters", weights.context)
    if weights.render is not None:
        plain = [{**m, "content": text} for m, text in zip(messages, texts, strict=True)]
        try:
            sent, prompt = laid_out(plain, weights.render)
            if sent is not plain:
                body["messages"] = sent
        except TemplateError as error:
            raise RequestError(
                400, f"the model's chat template refuses the messages: {error}", param="messages"
            ) from error
    said = [{"role": m["role"], "content": t} for m, t in zip(messages, texts, strict=True)]
    return said, prompt


def _too_long(what: str, context: int) -> RequestError:
    return RequestError(
        400,
        f"{what} and the model sees {context} tokens: shorten them",
        param="messages",
        code="context_length_exceeded",
    )


def _text(message: Any, where: str) -> str:
    if not isinstance(message, dict):
        raise RequestError(400, f"{where} must be an object", param=where)
    if message.get("role") not in _ROLES:
        raise RequestError(
            400, f"{where}.role must be one of {', '.join(_ROLES)}", param=f"{where}.role"
        )
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant":
        return ""
    parts = content if isinstance(content, list) else [None]
    for part in parts:
        if (
            not isinstance(part, dict)
            or part.get("type") != "text"
            or not isinstance(part.get("text"), str)
        ):
            raise RequestError(
                400,
                f"{where}.content is neither text nor a list of text parts: this model reads text",
                param=f"{where}.content",
            )
    return " ".join(str(part["text"]) for part in parts if part)


def _max_tokens(body: dict[str, Any], config: ServeConfig, weights: Weights, prompt: str) -> int:
    """Return the token limit of the answer; with the prompt it is within the context."""
    wanted, given = min(weights.think_format.max_new_tokens, config.max_tokens), None
    for name in ("max_tokens", "max_completion_tokens"):
        found = body.get(name)
        if found is None:
            continue
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise RequestError(400, f"{name} must be an integer above 0", param=name)
        if found > config.max_tokens:
            raise RequestError(
                400,
                f"{name}={found} is above this server's limit of {config.max_tokens}",
                param=name,
            )
        wanted, given = found, name
    # A token is a byte at least, so most requests need no counting.
    if weights.context is None or len(prompt) * 4 + wanted < weights.context:
        return wanted
    tokens = count_tokens(weights, prompt)
    room = weights.context - tokens
    if room < 1:
        raise _too_long(f"the messages have {tokens} tokens", weights.context)
    if given is not None and wanted > room:
        raise RequestError(
            400,
            f"the messages have {tokens} tokens and {given}={wanted}, but the model sees "
            f"{weights.context} tokens in all: give at most {room}, or leave it out",
            param=given,
            code="context_length_exceeded",
        )
    return min(wanted, room)


def _policy(body: dict[str, Any], config: ServeConfig, weights: Weights) -> str:
    found = body.pop("reflection", None)
    if found is None or found == config.policy:
        policy = config.policy
    elif found not in POLICIES:
        raise RequestError(
            400, f"reflection must be one of {', '.join(POLICIES)}", param="reflection"
        )
    elif found not in config.overrides:
        raise RequestError(
            403,
            f"reflection={found} is not allowed on this server: it was started with "
            f"policy={config.policy}",
            param="reflection",
        )
    else:
        policy = str(found)
    if policy == "force" and not weights.forcible:
        raise RequestError(
            400,
            "this model's tokenizer joins prompt and think block, so a reflection cannot be forced",
            param="reflection",
        )
    return policy
