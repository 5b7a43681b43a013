"""Ollama's Modelfile for a GGUF file: its chat template, where it stops, how it decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError

from tbr_lightning.data.chat_template import begin_token, end_words, rendered, stops_of
from tbr_lightning.models.architecture import context_length
from tbr_lightning.models.backbone import Backbone

_PLACE = "\ue000"
_ROLES = ("system", "user", "assistant")
Turns = Sequence[Mapping[str, str]]


def modelfile(backbone: Backbone, file: str) -> str:
    """Return a Modelfile for a GGUF file beside it.

    The chat template is written in Ollama's own language, where turns of the model's template
    follow each other independently; else it is left to what Ollama finds in the file.
    """
    tokenizer, think_format = backbone.tokenizer, backbone.think_format
    lines = [
        "# ollama create NAME -f Modelfile        (--quantize q4_K_M makes it smaller)",
        f"FROM ./{file}",
    ]
    parts = turn_parts(backbone)
    if parts is not None:
        lines.append(f'TEMPLATE """{_template(backbone, parts)}"""')
    else:
        lines.append("# The template depends on the order of turns: that of the file itself holds.")
    stops = [tokenizer.decode([token]) for token in stops_of(tokenizer)]
    if word := end_words(tokenizer):
        stops.append(word)
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    lines += [
        "PARAMETER temperature 0",
        f"PARAMETER num_predict {think_format.max_new_tokens}",
        f"PARAMETER num_ctx {context_length(backbone.model.config)}",
    ]
    return "\n".join(lines) + "\n"


def turn_parts(backbone: Backbone) -> dict[str, tuple[str, str]] | None:
    """Return the text before and after each role's text, and under ``""`` that around all turns.

    A role that the template does not support is missing.

    Returns:
        The parts; ``None`` where a turn depends on the others, so that no parts can be given.
    """
    tokenizer = backbone.tokenizer
    try:
        user = rendered(tokenizer, [_turn("user")], begin=False)
        asked = rendered(tokenizer, [_turn("user")], begin=True)
        twice = rendered(tokenizer, [_turn("user"), _turn("assistant"), _turn("user")], begin=False)
    except TemplateError:
        return None
    if user.count(_PLACE) != 1 or twice.count(_PLACE) != 3 or not asked.startswith(user):
        return None
    bos = tokenizer.bos_token or ""
    start = bos if bos and user.startswith(bos) else ""
    before, after = user.removeprefix(start).split(_PLACE)
    head, said, rest, tail = twice.removeprefix(start).split(_PLACE)
    if head != before or not said.startswith(after) or not rest.endswith(before) or tail != after:
        return None
    parts = {
        "": (start, asked.removeprefix(user)),
        "user": (before, after),
        "assistant": (said.removeprefix(after), rest.removesuffix(before)),
    }
    try:
        both = tokenizer.apply_chat_template(
            [_turn("system"), _turn("user")], tokenize=False, add_generation_prompt=False
        )
        system, text = both.removeprefix(start).split(_PLACE, 1)
        if text.endswith(f"{before}{_PLACE}{after}"):
            parts["system"] = (system, text.removesuffix(f"{before}{_PLACE}{after}"))
    except (TemplateError, ValueError):
        pass  # it takes none
    for roles in (("user", "assistant", "user"), ("system", "user", "assistant", "user")):
        turns = [_turn(role, f"text {n}") for n, role in enumerate(roles) if role in parts]
        if compose(parts, turns) != rendered(tokenizer, turns):
            return None
    return parts


def compose(parts: Mapping[str, tuple[str, str]], turns: Turns) -> str:
    """Return turns as the parts of :func:`turn_parts` render them, as the Modelfile does."""
    start, begin = parts[""]
    said = (f"{parts[t['role']][0]}{t['content']}{parts[t['role']][1]}" for t in turns)
    return f"{start}{''.join(said)}{begin}"


def _template(backbone: Backbone, parts: Mapping[str, tuple[str, str]]) -> str:
    """Write the parts in Go's template language.

    Ollama takes the text around ``.Thinking`` for the markers that it splits off.
    """
    start, begin = parts[""]
    if begin_token(backbone.tokenizer) is not None:
        start = ""  # the file says that the tokenizer itself puts it there
    opened, closed = (
        marker.strip()
        for marker in (backbone.think_format.think_open, backbone.think_format.think_close)
    )
    thought = f"{{{{ if .Thinking }}}}{opened}{{{{ .Thinking }}}}{closed}{{{{ end }}}}"
    branches: list[str] = []
    for role in _ROLES:
        if role in parts:
            before, after = parts[role]
            said = f"{thought if role == 'assistant' else ''}{{{{ .Content }}}}"
            word = "if" if not branches else "else if"
            branches.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{said}{after}')
    turns = f"{{{{ range .Messages }}}}{''.join(branches)}{{{{ end }}}}{{{{ end }}}}"
    return f"{start}{turns}{begin}"


def _turn(role: str, content: str = _PLACE) -> dict[str, str]:
    return {"role": role, "content": content}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
