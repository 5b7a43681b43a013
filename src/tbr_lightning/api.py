"""The stages as Python functions: settings in, artefacts out.

Settings are those of the command line. A keyword is a key or a group (``reflection="external"``),
a mapping sets the keys below one (``trainer={"max_steps": 5}``), and strings are overrides as they
are typed (``"optimizer.lr=1e-4"``). What is wrong with them is raised as
:class:`tbr_lightning.errors.UserError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import options
from tbr_lightning.config.quoting import as_text
from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.processes import quiet

if TYPE_CHECKING:
    from tbr_lightning.evaluation.evaluation_result import ComparisonResult, EvaluateResult
    from tbr_lightning.evaluation.respond import EvaluatedModel
    from tbr_lightning.exporting.pipeline import ExportResult
    from tbr_lightning.reflection.pipeline import ReflectResult
    from tbr_lightning.registry.pipeline import PromoteResult
    from tbr_lightning.training.pipeline import TrainResult

Setting = Any
"""Text, number, truth value, ``None``, or a list or mapping of these."""


def reflect(*overrides: str, config_dir: str | None = None, **settings: Setting) -> ReflectResult:
    """Write the reflections of a data set, as ``python -m tbr_lightning.reflect`` does."""
    config = _config("reflect", overrides, settings, config_dir)
    from tbr_lightning.reflection import pipeline

    return pipeline.run(config)


def train(*overrides: str, config_dir: str | None = None, **settings: Setting) -> TrainResult:
    """Fine-tune a model and log it, as ``python -m tbr_lightning.train`` does."""
    config = _config("train", overrides, settings, config_dir)
    from tbr_lightning.training import pipeline

    return pipeline.run(config)


def evaluate(
    model: str, *overrides: str, config_dir: str | None = None, **settings: Setting
) -> EvaluateResult:
    """Evaluate one model.

    Args:
        model: ``models:/…``, a run id, a folder, a hub id or ``openai:NAME``.
        overrides: Overrides as on the command line.
        config_dir: Folder of your own configs.
        settings: Settings of ``python -m tbr_lightning.evaluate``.
    """
    config = _config("evaluate", overrides, {**settings, "model": model}, config_dir)
    from tbr_lightning.evaluation import pipeline

    return pipeline.run(config)


def compare(
    models: Sequence[str], *overrides: str, config_dir: str | None = None, **settings: Setting
) -> ComparisonResult:
    """Evaluate several models on the same prompts; the first is what the others are compared to."""
    config = _config("evaluate", overrides, {**settings, "model": list(models)}, config_dir)
    from tbr_lightning.evaluation import pipeline

    return pipeline.compare(config)


def promote(
    model: str, *overrides: str, config_dir: str | None = None, **settings: Setting
) -> PromoteResult:
    """Gate a model against the champion; ``result.verdict`` says whether it was promoted."""
    config = _config("promote", overrides, {**settings, "model": model}, config_dir)
    from tbr_lightning.registry import pipeline

    return pipeline.run(config)


def export(
    model: str, *overrides: str, config_dir: str | None = None, **settings: Setting
) -> ExportResult:
    """Write a model for other programs; ``to="gguf"``, ``to="hub"`` or a folder."""
    config = _config("export", overrides, {**settings, "model": model}, config_dir)
    from tbr_lightning.exporting import pipeline

    return pipeline.run(config)


@dataclass(frozen=True)
class Reply:
    """A reply of a model.

    Attributes:
        reflection: Text inside the think block; ``None`` if there is none.
        answer: Text after it.
        cut: Whether it reached the token limit.
    """

    reflection: str | None
    answer: str
    cut: bool


class Model:
    """A model that returns reflection and answer separately, as in an evaluation."""

    def __init__(self, subject: EvaluatedModel, config: EvaluateConfig) -> None:
        self._subject = subject
        self._config = config

    @classmethod
    def load(
        cls, name: str, *overrides: str, config_dir: str | None = None, **settings: Setting
    ) -> Model:
        """Load a model.

        Args:
            name: ``models:/NAME@champion``, a run id, a folder or a hub id.
            overrides: Overrides as on the command line of ``evaluate``.
            config_dir: Folder of your own configs.
            settings: Settings of ``evaluate``, e.g. ``generation={"max_new_tokens": 200}``.
        """
        config = _config("evaluate", overrides, {**settings, "model": name}, config_dir)
        from tbr_lightning.evaluation.respond import load_model
        from tbr_lightning.tracking.store import connect

        connect(config.tracking)
        return cls(load_model(name, config.paths, arm=config.generation.arm), config)

    @overload
    def generate(self, prompts: str) -> Reply: ...

    @overload
    def generate(self, prompts: list[str]) -> list[Reply]: ...

    def generate(self, prompts: str | list[str]) -> Reply | list[Reply]:
        """Answer one prompt, or several in one batch, each as a user's only message."""
        from tbr_lightning.evaluation.respond import arm_prompts, responses

        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        backbone, generation = self._subject.backbone, self._config.generation
        ids = arm_prompts(backbone, asked, generation.arm)
        begun = backbone.think_format.begin if generation.arm == "forced" else ""
        replies: list[Reply | None] = [None] * len(asked)
        for number, made in responses(backbone, ids, generation):
            replies[number] = Reply(*backbone.think_format.split(begun + made.text), made.cut)
        done = [reply for reply in replies if reply is not None]
        return done[0] if isinstance(prompts, str) else done


def _config(
    verb: str, overrides: Sequence[str], settings: Mapping[str, Setting], config_dir: str | None
) -> Any:
    quiet()
    return compose_verb(verb, [*_typed(settings), *overrides], config_dir).config


def _typed(settings: Mapping[str, Setting], prefix: str = "") -> Iterator[str]:
    """Write settings as they would be typed on the command line."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _typed(value, f"{key}.")
        elif isinstance(value, str) and options(key):
            yield f"{key}={value}"
        else:
            yield f"{key}={_value(value)}"


def _value(value: Setting) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, Sequence):
        return f"[{','.join(_value(item) for item in value)}]"
    return str(value)
