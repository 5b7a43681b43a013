"""The chat template: rendered prompts, their tokens, and the tokens that end a turn.

Control tokens that a text quotes are text; those of the template are control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from tbr_lightning.errors import UserError

# A plain dialogue form for base models whose tokenizer has no template.
FALLBACK_TEMPLATE = (
    "{% for message in messages %}### {{ message['role'] | capitalize }}:\n"
    "{{ message['content'] | trim }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)

_PLACE = "\ue000"  # private-use character: placeholder of a text while its template is rendered

_LAST = 64  # tokens, more than any marker has, also in bytes


def prompt_ids(
    tokenizer: Any,
    text: str,
    cue: str | None = None,
    before: Sequence[Mapping[str, str]] = (),
) -> list[int]:
    """Return the tokens of a user's turn up to where the assistant begins.

    They begin with one begin token where the tokenizer's own ``encode`` puts one. Control tokens
    that the text quotes are encoded as text.

    Args:
        tokenizer: Tokenizer with a chat template.
        text: Text of the user's turn.
        cue: Text appended to it that asks for a reflection, if given.
        before: Messages of the conversation so far.
    """
    content = f"{text} {cue}" if cue else text
    messages = [*before, {"role": "user", "content": content}]
    texts = [message["content"] for message in messages]
    if not any(quotes_control(tokenizer, one) for one in texts):
        return with_begin(tokenizer, encode(tokenizer, rendered(tokenizer, messages)))
    # The template's own control tokens are read as such, and those of the texts are not.
    places = [
        {"role": message["role"], "content": f"{_PLACE}{number}{_PLACE}"}
        for number, message in enumerate(messages)
    ]
    ids: list[int] = []
    # A template may move a text, as that of a system turn, or leave it out.
    for number, part in enumerate(re.split(f"{_PLACE}(\\d+){_PLACE}", rendered(tokenizer, places))):
        quoted = number % 2 == 1
        ids += text_ids(tokenizer, texts[int(part)]) if quoted else encode(tokenizer, part)
    return with_begin(tokenizer, ids)


def prompts_at_once(tokenizer: Any, texts: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return (rendered, tokens) of a user's turn for each text, all in one call of the tokenizer.

    Control tokens that a text quotes are not encoded as text: :func:`prompt_ids` is for those.
    """
    turns = [[{"role": "user", "content": text}] for text in texts]
    prompts = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    start = begin_token(tokenizer)
    encoded = encode_all(tokenizer, prompts)
    return [(text, _begun(start, ids)) for text, ids in zip(prompts, encoded, strict=True)]


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, begin: bool = True) -> str:
    """Return messages in a tokenizer's chat template; ``begin`` lets the assistant begin.

    Where the template refuses a system turn, or leaves its text out, that goes before the first
    turn of the user.
    """
    if any(message["role"] == "system" for message in messages) and _drops_system(tokenizer):
        messages = _without_system(messages)[1]
    how = {"add_generation_prompt": begin, "tokenize": False}
    try:
        text: str = tokenizer.apply_chat_template(list(messages), **how)
    except TemplateError:
        system, others = _without_system(messages)
        if system is None:
            raise
        text = tokenizer.apply_chat_template(others, **how)
    return text


def _drops_system(tokenizer: Any) -> bool:
    """Return whether a tokenizer's chat template leaves the text of a system turn out."""
    turns = [{"role": "system", "content": _PLACE}, {"role": "user", "content": "x"}]
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except TemplateError:
        return False  # it refuses the turn
    return _PLACE not in text


def _without_system(
    messages: Sequence[Mapping[str, str]],
) -> tuple[str | None, list[Mapping[str, str]]]:
    """Return the system text and the messages with it put before the first turn of the user."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system") or None
    others = [m for m in messages if m["role"] != "system"]
    first = next((n for n, m in enumerate(others) if m["role"] == "user"), None)
    if system is None or first is None:
        return None, others
    content = f"{system}\n\n{others[first]['content']}"
    others[first] = {**others[first], "content": content}
    return system, others


def prompt_end(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the last words of a prompt, control tokens and all."""
    return str(tokenizer.decode(list(ids[-_LAST:]), skip_special_tokens=False))


def with_begin(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return the tokens of a prompt with exactly one begin token, where there should be one."""
    return _begun(begin_token(tokenizer), ids)


def _begun(start: int | None, ids: list[int]) -> list[int]:
    return ids if start is None or ids[:1] == [start] else [start, *ids]


def begin_token(tokenizer: Any) -> int | None:
    """Return the token that the tokenizer's own ``encode`` puts before a text, if it does."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    return int(bos) if list(tokenizer.encode("x"))[:1] == [bos] else None


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text, in which quoted control tokens are text like any other."""
    return encode(tokenizer, text, split_special_tokens=quotes_control(tokenizer, text))


def quotes_control(tokenizer: Any, text: str) -> bool:
    """Return whether a text holds what the tokenizer would read as a control token."""
    return any(word in text for word in control_words(tokenizer))


def control_words(tokenizer: Any) -> list[str]:
    """Return the tokenizer's control tokens as they are written."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {token.content for token in added.values() if getattr(token, "special", False)}
    found |= set(getattr(tokenizer, "all_special_tokens", ()))
    return sorted(word for word in found if word)


def encode(tokenizer: Any, text: str, **how: Any) -> list[int]:
    """Return the tokens of a text, without those that begin or end a sequence."""
    return list(tokenizer.encode(text, add_special_tokens=False, **how))


def encode_all(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text, as :func:`encode` does."""
    if not texts:
        return []
    # All at once: a fast tokenizer then uses every core.
    found: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    return found


def end_token(tokenizer: Any) -> int:
    """Return the id of the token that ends an answer.

    Raises:
        UserError: The tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(
            f"the tokenizer of {name} has no end token, so a model could not learn where an answer "
            "ends: set eos_token in its tokenizer_config.json, or use model.tokenizer=train"
        )
    return int(tokenizer.eos_token_id)


def turn_end(tokenizer: Any) -> list[int]:
    """Return the tokens that end an assistant's turn, as the chat template ends one.

    That is up to its first control token after the answer, such as Gemma's ``<end_of_turn>`` or
    Llama 3's ``<|eot_id|>``, with the end token after it where the template writes both. An end
    that is not a control token of this tokenizer is written out, and the end token follows it. A
    template that writes none, or takes no turn of the assistant at the end, leaves the end token.

    Raises:
        UserError: The tokenizer has no end token.
    """
    end = end_token(tokenizer)
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PLACE}]
    try:
        tail = rendered(tokenizer, turns, begin=False).rpartition(_PLACE)[2].strip()
    except (TemplateError, ValueError, TypeError):
        return [end]
    after = encode(tokenizer, tail) if tail else []
    for place, token in enumerate(after):
        if token in control_ids(tokenizer):
            both = token != end and after[place + 1 : place + 2] == [end]
            return after[: place + 1 + both]
    return [*after, end]


def stops_of(tokenizer: Any) -> list[int]:
    """Return the control tokens among those that end an assistant's turn."""
    return [token for token in turn_end(tokenizer) if token in control_ids(tokenizer)]


def end_words(tokenizer: Any) -> str:
    """Return the ordinary text that ends an assistant's turn, or an empty text."""
    ends = turn_end(tokenizer)
    return str(tokenizer.decode([t for t in ends if t not in control_ids(tokenizer)])).strip()


def control_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the tokenizer's control tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {int(key) for key, token in added.items() if getattr(token, "special", False)}
    return special | {int(token) for token in getattr(tokenizer, "all_special_ids", ())}


def answer_text(tokenizer: Any, response: str) -> str:
    """Return a response without an end marker that it quotes: the row gets one of its own."""
    words = [tokenizer.decode([token]).strip() for token in stops_of(tokenizer)]
    words.append(end_words(tokenizer))
    text = response
    while word := next((word for word in words if word and text.rstrip().endswith(word)), None):
        text = text.rstrip().removesuffix(word).rstrip()
    return text or response
