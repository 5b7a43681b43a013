"""Teachers: they turn an instruction into a rationale."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.credentials import shown_url
from tbr_lightning.data.conclusions import stated_conclusion
from tbr_lightning.data.example import Example, instruction_id
from tbr_lightning.data.files import read_rows, text_of
from tbr_lightning.data.think_markers import MARKERS
from tbr_lightning.errors import UserError
from tbr_lightning.reflection.record import Draft
from tbr_lightning.tracking.prompts import in_registry, registered_text

_NEXT_REQUEST = re.compile(r"\n+\s*(?:Request|User|Q):|\n{2,}(?=\S)")
"""Where a base model that was given examples begins one of its own."""

Writer = Callable[["Request"], Iterator[tuple[Example, Draft]]]


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a teacher for the reflections of several rows.

    Attributes:
        examples: Rows that want a reflection.
        seed: ``None`` at first; a number when rejected rows are asked for again.
        run_id: ID of the MLflow run that asks.
    """

    examples: Sequence[Example]
    seed: int | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Teacher:
    """A way to get reflections, with all that determines what it writes.

    Attributes:
        name: Identity of the writer, down to weights or endpoint.
        write: Yields a draft per example as soon as it exists, in any order.
        prompt_hash: Hash of the prompt file or prompt format.
        sampling: Decoding settings.
        checked: Whether its drafts must pass the checks; a filler control says nothing on purpose.
        repeats: Whether asking again may give another answer.
        templated: Whether its language has one way to say a thing, as the micro-world's has, so
            that likeness between its texts means nothing.
        prompt: Text of the prompt file, logged with the run.
        of_row: Returns what of a row determines the text, beside its request.
    """

    name: str
    write: Writer
    prompt_hash: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    checked: bool = True
    repeats: bool = False
    templated: bool = False
    prompt: str = ""
    of_row: Callable[[Example], str] | None = None

    def sampling_of(self, seed: int | None, example: Example | None = None) -> dict[str, Any]:
        """Return the decoding settings of a request, its seed among them."""
        own = {"row": self.of_row(example)} if self.of_row and example is not None else {}
        return {**self.sampling, **own, **({} if seed is None else {"seed": seed})}


def without_own_thought(text: str) -> str:
    """Return a reply without its writer's own thinking before it, whatever the markers."""
    for opened, closed in MARKERS:
        head, marked, rest = text.rpartition(closed)
        if marked and (opened not in rest):
            text = rest if rest.strip() or opened in head else head
    return text.strip()


def prompt_template(path: str | None, shipped: str) -> str:
    """Return the text of a prompt file, or of a version in MLflow's prompt registry.

    Raises:
        UserError: It is missing or has no ``{instruction}``.
    """
    if path is None:
        folder = resources.files("tbr_lightning.reflection") / "prompts"
        return (folder / shipped).read_text(encoding="utf-8")
    if in_registry(path):
        text = registered_text(path, "reflection.prompt")
    elif Path(path).is_file():
        text = Path(path).read_text(encoding="utf-8")
    else:
        raise UserError(f"reflection.prompt='{path}' is not a file: give the path of a prompt file")
    if "{instruction}" not in text:
        raise UserError(f"reflection.prompt='{path}' has no {{instruction}}: say where it goes")
    return text


def shipped_prompts() -> str:
    """Return the shipped prompt files in one text."""
    return "\n".join(prompt_template(None, name) for name in ("teacher.txt", "few_shot.txt"))


def text_hash(text: str) -> str:
    """Return 16 hex digits over a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recorded_teacher(path: str) -> Teacher:
    """Return reflections of a JSONL file: ``instruction``, ``input`` (optional), ``reflection``.

    Raises:
        UserError: The file is malformed; while writing, none of its rows matches an instruction.
    """
    texts: dict[str, str] = {}
    for where, row in read_rows(path, "reflection.path"):
        instruction = text_of(row, ("instruction",), where)
        key = instruction_id(instruction, text_of(row, ("input",), where, default=""))
        texts[key] = text_of(row, ("reflection",), where)
    return _given(texts, f"reflection.path='{path}'")


def own_teacher() -> Teacher:
    """Return the rationales that came with the rows, e.g. in the think block of a response.

    Raises:
        UserError: While writing, no row has one.
    """

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        if not any(example.reflection for example in request.examples):
            raise UserError(
                "reflection=recorded: no row to reflect on came with a rationale: name the JSONL "
                "file of the reflections with reflection.path, or their run with reflection.run_id"
            )
        for example in request.examples:
            text = example.reflection or ""
            yield example, Draft(text, stated_conclusion(text))

    # The text is part of who wrote it: the same request may come with another rationale tomorrow.
    return Teacher("own", write, of_row=lambda example: text_hash(example.reflection or ""))


def run_teacher(run_id: str) -> Teacher:
    """Return the accepted reflections of an earlier reflection run.

    Raises:
        UserError: There is no such run, or it is not of stage ``reflect``; while writing, none of
            its rows matches an instruction.
    """
    from tbr_lightning.tracking.run import reflections_of

    given = _given(reflections_of(run_id), f"reflection.run_id='{run_id}'")
    return replace(given, templated=True)  # that run has compared them already


def _given(texts: Mapping[str, str], where: str) -> Teacher:
    """Return a teacher that hands out texts by the instruction's id."""

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        if not any(example.id in texts for example in request.examples):
            raise UserError(
                f"{where}: none of its {len(texts)} instructions is among the "
                f"{len(request.examples)} rows to reflect on: give what was made for this data"
            )
        for example in request.examples:
            text = texts.get(example.id, "")
            yield example, Draft(text, stated_conclusion(text))

    digest = text_hash("".join(f"{key}{texts[key]}" for key in sorted(texts)))
    return Teacher(f"recorded/{digest}", write)


def endpoint_teacher(config: ReflectionConfig) -> Teacher:
    """Return a teacher behind an OpenAI-compatible endpoint.

    The client retries 429, 5xx and time-outs with exponential backoff and honours ``Retry-After``.

    Raises:
        UserError: No model is named, and the endpoint has not one alone. While writing, it refuses
            the key, does not know the model, or does not answer. What was written is kept.
    """
    from tbr_lightning.models.endpoint import RequestBudget, complete, with_model

    template = prompt_template(config.prompt, "teacher.txt")
    # Its name is part of the key: another model may be served at the same address tomorrow.
    endpoint = with_model(config.endpoint, "reflection.endpoint")
    budget = RequestBudget(endpoint, "reflection.endpoint")  # of all attempts together

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        prompts = [
            template.replace("{instruction}", example.prompt) for example in request.examples
        ]
        for number, reply in complete(
            prompts,
            endpoint,
            max_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=request.seed,
            run_id=request.run_id,
            group="reflection.endpoint",
            budget=budget,
        ):
            text = without_own_thought(reply.text)
            draft = Draft(
                text,
                stated_conclusion(text),
                reply.prompt_tokens,
                reply.completion_tokens,
                reply.cut,
                reply.filtered,
            )
            yield request.examples[number], draft

    return Teacher(
        f"endpoint/{shown_url(endpoint.base_url) if endpoint.base_url else 'default'}/"
        f"{endpoint.model}",
        write,
        text_hash(template),
        {"temperature": config.temperature, "max_tokens": config.max_new_tokens},
        repeats=True,
        prompt=template,
    )


def internal_teacher(config: ReflectionConfig, backbone: Any, origin: str) -> Teacher:
    """Return the model that is about to be tuned as its own teacher.

    A model that knows think blocks (the micro-world's base) is asked by its cue and goes on after
    the opening marker; any other gets the chain-of-thought prompt file, as a chat where it has a
    chat template and as few-shot text where it has none.
    """
    from tbr_lightning.models.generation import generate, reflection_prefix

    thinks = backbone.thinks and config.prompt is None
    chat = backbone.has_own_template
    template = (
        "" if thinks else prompt_template(config.prompt, "teacher.txt" if chat else "few_shot.txt")
    )

    asked = template or backbone.think_format.think_cue

    def ids_of(example: Example) -> list[int]:
        if thinks:
            return reflection_prefix(backbone, example.prompt)
        text = template.replace("{instruction}", example.prompt)
        if chat:
            from tbr_lightning.data.chat_template import prompt_ids

            return prompt_ids(backbone.tokenizer, text)
        return list(backbone.tokenizer.encode(text.rstrip()))

    def write(request: Request) -> Iterator[tuple[Example, Draft]]:
        prompts = [ids_of(example) for example in request.examples]
        for number, made in generate(
            backbone,
            prompts,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            temperature=config.temperature,
            seed=request.seed,
        ):
            if thinks:
                text, closed, _ = made.text.partition(backbone.think_format.think_close.strip())
                cut = not closed
            else:
                # Where the model goes on with the pattern, its rationale was whole.
                text, went_on, _ = _NEXT_REQUEST.sub("\0", made.text, count=1).partition("\0")
                cut = made.cut and not went_on
            kept = text.strip()
            tokens = made.new_tokens
            if not thinks and text != made.text:
                tokens = len(backbone.tokenizer.encode(kept, add_special_tokens=False))
            draft = Draft(kept, stated_conclusion(kept), len(prompts[number]), tokens, cut)
            yield request.examples[number], draft

    return Teacher(
        f"internal/{origin}",
        write,
        # The same words in another chat template are another prompt.
        text_hash(f"{asked}{backbone.tokenizer.chat_template if thinks or chat else ''}"),
        {"temperature": config.temperature, "max_tokens": config.max_new_tokens},
        repeats=True,
        templated=thinks,
        prompt=asked,
    )
