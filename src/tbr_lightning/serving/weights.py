"""The folder that an engine reads: a logged model's files and a chat template that can force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.serving.control_tokens import Reader, hidden_words
from tbr_lightning.serving.prompt import Render, renderer

FORCE = "tbr_force_reflection"
"""Variable of the served chat template that opens the think block."""


TEMPLATE = "chat_template.jinja"

_UNKNOWN = 8  # unknown words that are named, at most


@dataclass(frozen=True)
class Weights:
    """What an engine loads.

    Attributes:
        folder: Folder of weights and tokenizer, with the served chat template.
        config: Contents of the model's ``config.json``.
        think_format: Markers of the think block.
        parser: The model's response template, for engines that do not split by it.
        context: Context length in tokens, or ``None`` if the config does not state it.
        first: Id of the token that begins a think block.
        forcible: Whether the markers make the same tokens in the template as in training.
        tokenizer: Tokenizer that counts the tokens of a request.
        adapter: Folder of an adapter to put on ``folder``, where the engine applies adapters.
        render: Renders messages as the engine will; ``None`` where only the engine can.
        hidden: Control tokens to take out of a text, as they are written, where the markers are
            control tokens too; ``None`` where none is, and an engine can leave all of them out.
    """

    folder: Path
    config: dict[str, Any]
    think_format: ThinkFormat
    parser: dict[str, Any]
    context: int | None
    first: int
    forcible: bool
    tokenizer: Any
    adapter: Path | None = None
    render: Render | None = None
    hidden: tuple[str, ...] | None = None


def prepare(
    sources: Sequence[Path],
    into: Path,
    *,
    think_format: ThinkFormat | None = None,
    adapter: Path | None = None,
) -> Weights:
    """Link a model's files into a new folder, with the chat template that can force.

    Args:
        sources: Folders with weights and tokenizer, which stay as they are; of two files of the
            same name the later folder's is taken.
        into: Folder to make.
        think_format: Markers of the think block; ``None`` for those in the model's config.
        adapter: Folder of an adapter, as in :class:`Weights`.

    Raises:
        UserError: A file that serving needs is missing.
    """
    from tokenizers import Tokenizer

    link(sources, into)
    config, settings = _json(into, "config.json"), _json(into, "tokenizer_config.json")
    if think_format is None:
        found = config.get("tbr")
        think_format = ThinkFormat.of_dict(found) if isinstance(found, dict) else ThinkFormat()
    template = forcing(_template(into, settings), think_format)
    (into / TEMPLATE).unlink(missing_ok=True)  # the link, not the file
    (into / TEMPLATE).write_text(template, encoding="utf-8")
    if not (into / "tokenizer.json").is_file():
        raise UserError(f"{sources[-1]} has no tokenizer.json: log the model with a fast tokenizer")
    tokenizer = Tokenizer.from_file(str(into / "tokenizer.json"))

    def tokens(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    parser = settings.get("response_template") or {}
    anchor = str(parser.get("start_anchor") or "")
    opened = tokens(think_format.think_open)
    return Weights(
        folder=into,
        config=config,
        think_format=think_format,
        parser=parser,
        context=config.get("max_position_embeddings"),
        first=opened[0],
        # Training and evaluation encode prompt and think block apart, an engine in one go.
        forcible=tokens(anchor + think_format.think_open) == tokens(anchor) + opened,
        tokenizer=tokenizer,
        adapter=adapter,
        render=renderer(template, _special(settings)),
        hidden=hidden_words(think_format, Reader(tokenizer, settings)),
    )


def _special(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the texts of the special tokens, which templates know by their names."""
    found = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        found[name] = value.get("content") if isinstance(value, dict) else value
    return found


def link(sources: Sequence[Path], into: Path) -> None:
    """Make a folder of links to the files of other folders."""
    into.mkdir(parents=True)
    for source in sources:
        if not source.is_dir():
            raise UserError(f"{source} is missing: log the model again")
        for file in source.iterdir():
            (into / file.name).unlink(missing_ok=True)
            (into / file.name).symlink_to(file.resolve())


def forcing(template: str, think_format: ThinkFormat) -> str:
    """Return a chat template that opens the think block where :data:`FORCE` is true."""
    opened = json.dumps(think_format.think_open, ensure_ascii=False)
    # One newline at a template's end is not rendered; in the middle it would be.
    return (
        template.removesuffix("\n") + "{% if add_generation_prompt and "
        f"{FORCE} is defined and {FORCE} %}}{{{{ {opened} }}}}{{% endif %}}"
    )


def count_tokens(weights: Weights, text: str) -> int:
    """Return the number of tokens of a text."""
    return len(weights.tokenizer.encode(text, add_special_tokens=False).ids)


def vocabulary(weights: Weights) -> int | None:
    """Return how many words a model of whole words knows; ``None`` for one that spells others."""
    if _unknown_token(weights) is None:
        return None
    return int(weights.tokenizer.get_vocab_size())


def unknown_words(weights: Weights, text: str) -> list[str]:
    """Return the first words of a text that a model of whole words has never seen, each once."""
    unknown = _unknown_token(weights)
    if unknown is None:
        return []
    made = weights.tokenizer.encode(text, add_special_tokens=False)
    pieces = [
        text[low:high].strip()
        for number, (low, high) in zip(made.ids, made.offsets, strict=True)
        if number == unknown
    ]
    return list(dict.fromkeys(piece for piece in pieces if piece))[:_UNKNOWN]


def _unknown_token(weights: Weights) -> int | None:
    """Return the token for unknown words, where a tokenizer has whole words only."""
    core = getattr(weights.tokenizer, "model", None)
    if core is None or type(core).__name__ != "WordLevel":
        return None
    found: int | None = weights.tokenizer.token_to_id(str(core.unk_token))
    return found


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / name} is missing or no JSON: log the model again") from error


def _template(folder: Path, settings: dict[str, Any]) -> str:
    file = folder / TEMPLATE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, str):
        return found
    raise UserError(f"the tokenizer in {folder} has no chat template: log the model again")
