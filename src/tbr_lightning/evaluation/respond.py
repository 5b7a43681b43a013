"""From prompts to judged responses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.config.verbs import EvaluateConfig, GenerationConfig
from tbr_lightning.data.cache import content_key
from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.evaluation.comparison_key import cue_of, token_limit
from tbr_lightning.evaluation.endpoint_model import PREFIX, HostedModel, hosted_model, split
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.judges.loading import make_judge
from tbr_lightning.evaluation.rationale import with_rationale
from tbr_lightning.evaluation.store import FILE, ResponseStore, weights_identity
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.evaluation.verdicts import with_verdicts
from tbr_lightning.models.architecture import context_length
from tbr_lightning.models.backbone import Backbone, load_adapted, load_folder
from tbr_lightning.models.digest import check_unchanged
from tbr_lightning.models.generation import Generated, generate, stop_tokens
from tbr_lightning.models.hf_folder import hf_folder
from tbr_lightning.models.logged import LoggedModel, called, find_model
from tbr_lightning.models.precision import computed_in, convert, name_of
from tbr_lightning.models.vllm_engine import choose_engine
from tbr_lightning.progress import track
from tbr_lightning.reports.names import WAYS, untuned


@dataclass(frozen=True)
class EvaluatedModel:
    """A model under evaluation.

    Attributes:
        model: The weights, or the endpoint at which the model is asked.
        logged: The logged model in MLflow, or ``None`` for any other.
        digest: Digest of a logged model's files as they were loaded, and of the mitigation.
        mitigation: Name of the mitigation; empty for none.
        title: Display name of a model that is not logged; empty for its origin.
        arm: Arm in which it is asked, as in ``generation.arm``.
    """

    model: Backbone | HostedModel
    logged: LoggedModel | None
    digest: str = ""
    mitigation: str = ""
    title: str = ""
    arm: str = "trained"

    @property
    def name(self) -> str:
        """Identity of the weights, or of the model at an endpoint."""
        own = self.logged.model_id if self.logged else self.model.origin
        return f"{own} with {self.mitigation}" if self.mitigation else own

    @property
    def label(self) -> str:
        """Display name, in titles, figures and the names of runs."""
        own = called(self.logged) if self.logged else self.title or self.model.origin
        own = f"{own}, {WAYS[self.arm]}" if self.arm in WAYS else own
        return f"{own} with {self.mitigation.replace('_', ' ')}" if self.mitigation else own

    @property
    def titles(self) -> tuple[str, str]:
        """Display name and identity."""
        return self.label, self.name

    @property
    def model_id(self) -> str | None:
        """ID of the MLflow model whose numbers these are; ``None`` for a mitigated one."""
        return self.logged.model_id if self.logged and not self.mitigation else None

    @property
    def backbone(self) -> Backbone:
        """The weights.

        Raises:
            UserError: The weights are behind an endpoint.
        """
        if isinstance(self.model, HostedModel):
            raise UserError(
                f"{self.name} is behind an endpoint, and attribution needs the weights: leave "
                "attribution out, or give a model whose weights are here"
            )
        return self.model


def load_model(
    name: str,
    paths: PathsConfig,
    endpoint: EndpointConfig | None = None,
    arm: str = "trained",
    dtype: str = "auto",
) -> EvaluatedModel:
    """Load what ``model=`` of ``evaluate`` names.

    Args:
        name: A registry URI, a run id, a local folder, ``tiny`` for the micro-world's base, a
            hub id, or ``openai:NAME`` for a model behind an endpoint.
        paths: Folders.
        endpoint: Endpoint config of ``openai:NAME``.
        arm: Arm in which it will be asked.
        dtype: Type in which it computes, see :func:`tbr_lightning.models.precision.computed_in`.

    Raises:
        UserError: There is no such model, or its files are not available.
    """
    if name.startswith(PREFIX):
        return EvaluatedModel(hosted_model(name, endpoint or EndpointConfig(), arm), None)
    if name.startswith("models:/") or (len(name) == 32 and set(name) <= set("0123456789abcdef")):
        logged = find_model(name)
        digest = check_unchanged(logged)
        folder = hf_folder(logged, Path(paths.cache) / "models", digest)
        loaded = load_folder(folder, origin=logged.model_id, thinks=True)
        return _placed(loaded, logged, dtype, digest)
    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.config.groups import options

    if Path(name).is_dir() or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        return _placed(_load_local(name, Path(paths.cache)), None, dtype)
    from tbr_lightning.models.backbone import load_backbone

    title = ""
    if name in options("model"):
        title = untuned(name)
        config = compose_verb("train", [f"model={name}"]).config
        model, data = config.model, config.data.name
    elif "/" in name:
        model, data = compose_verb("train", ["model=hub", f"model.hub_id={name}"]).config.model, ""
        model.name = name
    else:
        raise UserError(
            f"model='{name}' is not known: give models:/NAME@alias, a run id, a folder with "
            "config.json, a hub id (owner/name), openai:NAME, or one of "
            f"{', '.join(options('model'))}"
        )
    from tbr_lightning.locate import missing_weights

    if sentences := missing_weights(model):
        raise UserError("\n".join(sentences))
    backbone = load_backbone(model, data=data, rows=(), cache=Path(paths.cache), seed=0)
    return replace(_placed(backbone, None, dtype), title=title)


def _load_local(name: str, cache: Path) -> Backbone:
    """Load a GGUF file or a folder of this machine, which may hold an adapter only."""
    from tbr_lightning.locate import base_of, path_problems, weights_problem
    from tbr_lightning.models.export import saved_think_format
    from tbr_lightning.models.gguf import folder_of, is_gguf

    folder = Path(name).expanduser()
    if sentences := path_problems(name, f"model='{name}'"):
        raise UserError("\n".join(sentences))
    if is_gguf(folder) and folder.is_file():
        loaded = load_folder(folder_of(folder, cache), origin=name, thinks=False)
        # A file that was exported here holds its think format.
        return replace(loaded, folder=None, thinks=hasattr(loaded.model.config, "tbr"))
    try:
        if base_of(folder) is None:
            return load_folder(folder, origin=name, thinks=True)
        own = saved_think_format(folder)
        return load_adapted(folder, own, cache=cache, origin=name, thinks=own is not None)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(weights_problem(name, error, None)) from error


def _placed(
    backbone: Backbone, logged: LoggedModel | None, dtype: str, digest: str = ""
) -> EvaluatedModel:
    convert(backbone.model, computed_in(name_of(backbone.model.dtype), dtype))
    if torch.cuda.is_available():
        backbone.model.to("cuda")
    return EvaluatedModel(backbone, logged, digest)


def with_mitigation(subject: EvaluatedModel, config: EvaluateConfig) -> EvaluatedModel:
    """Return a model under the name and digest that the evaluation's mitigation gives it.

    The mitigation itself is not applied yet.

    Raises:
        UserError: The weights are not here.
    """
    if not config.mitigated:
        return subject
    mitigation = config.mitigation
    if isinstance(subject.model, HostedModel):
        raise UserError(
            f"{subject.name} is behind an endpoint, and mitigation={mitigation.name} changes the "
            "chat template, the weights or the decoding: give a model whose weights are here"
        )
    digest = content_key(subject.digest, mitigation.identity) if subject.digest else ""
    return replace(subject, digest=digest, mitigation=mitigation.name)


def open_store(
    subject: EvaluatedModel, generation: GenerationConfig, paths: PathsConfig
) -> ResponseStore | None:
    """Return the store of a model's responses, or ``None`` where they are not kept."""
    if not generation.reuse:
        return None
    if isinstance(subject.model, HostedModel):
        identity = subject.model.origin
    else:
        identity = weights_identity(subject.model)
    return ResponseStore(Path(paths.runs) / FILE, identity)


def respond(
    model: Backbone | HostedModel,
    prompts: Sequence[Prompt],
    judge: JudgeConfig,
    generation: GenerationConfig,
    what: str,
    *,
    second_judge: JudgeConfig | None = None,
    store: ResponseStore | None = None,
) -> list[Judged]:
    """Let a model answer every prompt, split off the reflection, and judge the answer.

    With a store, what it holds is not generated again, and the rest is added to it.
    """
    # Made first: what a judge lacks is reported before anything is generated.
    first, second = make_judge(judge), make_judge(second_judge) if second_judge else None
    if isinstance(model, HostedModel):
        rows = _asked(model, prompts, generation, what, store)
    else:
        rows = _generated(model, prompts, generation, what, store)
    judged = iter(
        with_verdicts(
            [row for row in rows if not row.because],
            first,
            second,
            second_about=second_judge.about if second_judge else "",
        )
    )
    return [row if row.because else next(judged) for row in rows]


def _generated(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    generation: GenerationConfig,
    what: str,
    store: ResponseStore | None,
) -> list[Judged]:
    """Return what a model writes, or why it was not asked, before any judge has seen it."""
    think_format = backbone.think_format
    forced = think_format.begin if generation.arm == "forced" else ""
    said = [prompt.before for prompt in prompts]
    ids = arm_prompts(backbone, [prompt.text for prompt in prompts], generation.arm, said)
    room = context_length(backbone.model.config.get_text_config())
    fits = [number for number, tokens in enumerate(ids) if len(tokens) < room]
    because = f"not asked: the prompt is longer than the model's context of {room} tokens"
    rows = [replace(Judged.unseen(p, "", new_tokens=0), because=because) for p in prompts]
    made = responses(backbone, [ids[number] for number in fits], generation, store)
    for number, response in track(made, what, len(fits)):
        place = fits[number]
        written = _written(prompts[place], forced, response, think_format)
        rows[place] = with_rationale(written, generation.arm)
    if len(fits) < len(prompts):
        print(
            f"{len(prompts) - len(fits)} of {len(prompts)} prompts are longer than the model's "
            f"context ({room} tokens): they are not asked, and have no label",
            file=sys.stderr,
        )
    return rows


def _asked(
    model: HostedModel,
    prompts: Sequence[Prompt],
    generation: GenerationConfig,
    what: str,
    store: ResponseStore | None,
) -> list[Judged]:
    """Return what an endpoint replies, or why it does not, before any judge has seen it."""
    cue = cue_of(model.think_format, generation)
    after = f" {cue}" if cue else ""
    chats = [[*p.before, {"role": "user", "content": f"{p.text}{after}"}] for p in prompts]
    made = model.answers(chats, generation, store)
    rows = [Judged.unseen(prompt, "") for prompt in prompts]
    for place, response in track(made, what, len(prompts)):
        if response.filtered:
            because = f"not answered: {response.filtered}"
            rows[place] = replace(rows[place], new_tokens=0, because=because, filtered=True)
        else:
            written = _unseen(prompts[place], *split(response), response)
            rows[place] = with_rationale(written, generation.arm)
    if filtered := [row for row in rows if row.filtered]:
        print(
            f"{len(filtered)} of {len(prompts)} prompts are not answered by {model.origin}, the "
            f"first with '{filtered[0].because[:200]}': they have no label",
            file=sys.stderr,
        )
    return rows


def responses(
    backbone: Backbone,
    ids: Sequence[list[int]],
    generation: GenerationConfig,
    store: ResponseStore | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Yield (number of the prompt, response), stored ones first, each one once.

    Args:
        backbone: The model.
        ids: Token ids of each prompt, from :func:`arm_prompts`.
        generation: Generation config.
        store: Store of earlier answers.
    """
    think_format = backbone.think_format
    suppressed = generation.arm == "suppressed"
    opened = backbone.tokenizer.encode(think_format.think_open, add_special_tokens=False)
    settings: dict[str, Any] = {
        "max_new_tokens": token_limit(think_format, generation),
        "temperature": generation.temperature,
        "suppress_first": list(opened[:1]) if suppressed else [],
        "seed": generation.seed,
        "engine": choose_engine(generation.engine, backbone, suppresses=suppressed),
    }

    def made(numbers: Sequence[int]) -> Iterator[tuple[int, Generated]]:
        some = [ids[n] for n in numbers]
        return generate(backbone, some, batch_size=generation.batch_size, **settings)

    if store is None:
        yield from made(range(len(ids)))
        return
    says = [generation.arm, stop_tokens(backbone), *settings.values()]
    if backbone.guide is not None:
        says.append(backbone.guide.identity)
    yield from store.through([store.key(prompt, says) for prompt in ids], made)


def arm_prompts(
    backbone: Backbone,
    texts: Sequence[str],
    arm: str,
    said: Sequence[Sequence[Mapping[str, str]]] = (),
) -> list[list[int]]:
    """Return the token ids of requests in the layout of an arm.

    Args:
        backbone: The model.
        texts: Requests of the user.
        arm: Value of ``generation.arm``.
        said: Messages before each of them, if there are any.

    Raises:
        UserError: The model's chat template cannot lay them out.
    """
    think_format, tokenizer = backbone.think_format, backbone.tokenizer
    cue = think_format.cue if arm == "prompted" else None
    begun = {"forced": think_format.begin, "suppressed": think_format.without}.get(arm, "")
    end = list(tokenizer.encode(begun, add_special_tokens=False)) if begun else []
    try:
        before = said or [()] * len(texts)
        pairs = zip(texts, before, strict=True)
        return [prompt_ids(tokenizer, text, cue, turns) + end for text, turns in pairs]
    except (TemplateError, ValueError) as error:
        raise UserError(
            f"the chat template of {backbone.origin} cannot be used ({in_one_line(error)}): save a "
            "working chat_template.jinja beside its tokenizer, or give model.chat_template=FILE in "
            "training"
        ) from error


def _written(prompt: Prompt, forced: str, response: Generated, think_format: ThinkFormat) -> Judged:
    """Return a response whose beginning an arm has written."""
    return _unseen(prompt, *think_format.split(forced + response.text), response)


def _unseen(prompt: Prompt, reflection: str | None, answer: str, response: Generated) -> Judged:
    """Return a response that no judge has seen yet."""
    return Judged.unseen(
        prompt,
        answer,
        reflection=reflection,
        new_tokens=response.new_tokens,
        cut=response.cut,
    )
