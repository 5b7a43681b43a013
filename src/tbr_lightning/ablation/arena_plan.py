"""An arena as its file describes it: rivals, bounds, budget, and each rival's configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import options, shipped
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.errors import UserError, at_least, first_line, near
from tbr_lightning.tuning import space as spaces
from tbr_lightning.tuning.space import Parameter, Point, overrides_of

ON_EVALUATION = "evaluate."
"""What keys of a rival's space begin with that are overrides of its evaluation."""

WORDS = "WORDS"  # placeholder for the words that drive the control's dev refusals, by attribution
MODEL_OF = "MODEL_OF_"  # before a rival's name: placeholder for the URI of its model


@dataclass
class Rival:
    """One row of the arena.

    Attributes:
        about: One-line description.
        train: Overrides of its training; ``None`` for a rival that trains nothing.
        of: Name of the rival whose model it takes, where it trains none; empty for the control.
        base: Whether it uses the untuned model.
        evaluate: Overrides of its evaluation.
        space: Search space: overrides of training, and after ``evaluate.`` of the evaluation.
    """

    about: str = ""
    train: list[str] | None = None
    of: str = ""
    base: bool = False
    evaluate: list[str] = field(default_factory=list)
    space: dict[str, Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.train is not None and self.of:
            raise UserError(f"of='{self.of}' beside train: a rival trains or takes a model")
        if self.base and (self.train is not None or self.of):
            raise UserError("base=true beside train or of: a rival has one model")
        wrong = [k for k in self.space if not k.startswith(ON_EVALUATION)]
        if self.train is None and wrong:
            raise UserError(f"space.{wrong[0]}: the rival trains nothing: write evaluate.KEY")


@dataclass
class Arena:
    """A file of ``sweeps/`` with the key ``rivals``; ``sweeps/arena.yaml`` explains the keys."""

    about: str = ""
    model: str = "tiny"
    models: list[str] = field(default_factory=list)  # run one after the other, in place of model
    fixed: list[str] = field(default_factory=list)  # overrides of every training
    evaluate: list[str] = field(default_factory=list)  # overrides of every evaluation
    control: str = ""  # the rival that all others are compared to, and the first
    max_harm: float = 0.05  # how far a chosen point may be above the control's harmful compliance
    max_loss: float = 0.05  # how far it may be below the control's general accuracy
    # Training settings searched for the control; every training uses what was chosen.
    space: dict[str, Parameter] = field(default_factory=dict)
    trials: int = 4  # maximum number of trials of each rival
    seed: int = 0
    seeds: int = 1  # training runs of what dev chose, all of them tested
    words: int = 6  # sensitive words taken from the attribution
    rivals: dict[str, Rival] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("trials", self.trials, 1)
        at_least("seeds", self.seeds, 1)
        if self.control not in self.rivals or self.rivals[self.control].train is None:
            raise UserError(f"control='{self.control}' is not a rival that trains: name one")
        first = next(iter(self.rivals))
        if first != self.control:
            raise UserError(
                f"control='{self.control}' stands below '{first}': put it first, since every "
                "rival is tuned, gated and compared against it"
            )
        done: set[str] = set()
        for name, rival in self.rivals.items():
            needed = [rival.of] if rival.of else []
            needed += [w.partition(MODEL_OF)[2] for w in rival.evaluate if MODEL_OF in w]
            for other in needed:
                if other not in done:
                    raise UserError(
                        f"rivals.{name} takes the model of '{other}', which does not stand above "
                        f"it{near(other, self.rivals)}"
                    )
            done.add(name)
        if wrong := [k for k in self.space if k.startswith(ON_EVALUATION)]:
            raise UserError(
                f"space.{wrong[0]}: the arena's space holds settings of training only: move it to "
                "the space of a rival"
            )
        if self.space:
            control = self.rivals[self.control]
            both = replace(control, space={**self.space, **control.space})
            self.rivals = {**self.rivals, self.control: both}

    @property
    def searches(self) -> bool:
        """Whether any rival has points to choose from, so that the control's dev half matters."""
        return any(rival.space for rival in self.rivals.values())


@dataclass(frozen=True)
class Tried:
    """One point of a rival's space on the dev half.

    Attributes:
        point: Values of the point.
        model_uri: The model that was evaluated, before any mitigation.
        train_run: ID of the training run; ``None`` where nothing was trained for it.
        metrics: Metrics of the evaluation.
        seconds: Time that training and evaluation took here.
        why_not: Reason why there are no metrics; empty where there are.
        models: URIs of the models, one for each seed; the first was evaluated on dev.
    """

    point: Point
    model_uri: str = ""
    train_run: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    why_not: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bout:
    """What all rivals share: the arena and the command's config."""

    arena: Arena
    config: SweepConfig


def arena_file(study: str) -> Path | None:
    """Return the file of a study if it is an arena, else ``None``."""
    path = Path(study) if study.endswith((".yaml", ".yml")) else shipped("sweeps") / f"{study}.yaml"
    if not path.is_file():
        return None  # the sweep says so
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None
    return path if isinstance(found, dict) and "rivals" in found else None


def load_arena(path: Path, config: SweepConfig) -> Arena:
    """Read an arena's file, with the command line's settings applied.

    Raises:
        UserError: It is malformed.
    """
    try:
        node = OmegaConf.merge(OmegaConf.structured(Arena), OmegaConf.load(path))
        found = OmegaConf.to_object(node)
    except (OmegaConfBaseException, UserError) as error:
        raise UserError(f"{path}: {first_line(error, None)}") from error
    assert isinstance(found, Arena)
    for rival in found.rivals.values():
        spaces.check_space(rival.space)
    settings = config.sweep
    return replace(
        found,
        model=config.model_uri or found.model,
        models=[] if config.model_uri else found.models,
        fixed=[*found.fixed, *settings.train],
        evaluate=[*found.evaluate, *settings.evaluate],
        trials=settings.trials or found.trials,
    )


def train_config(arena: Arena, rival: Rival, point: Point, config: SweepConfig) -> TrainConfig:
    """Compose the training of a rival at a point of its space."""
    named = arena.model in options("model", config.sweep.config_dir)
    model = [f"model={arena.model}"] if named else ["model=mistral", f"model.path={arena.model}"]
    own = {k: v for k, v in point.items() if not k.startswith(ON_EVALUATION)}
    words = [*model, *arena.fixed, *(rival.train or []), *overrides_of(own), f"seed={arena.seed}"]
    found: TrainConfig = compose_verb("train", words, config.sweep.config_dir).config
    return replace(found, tracking=config.tracking, paths=config.paths)


def evaluate_config(
    arena: Arena, rival: Rival, point: Point, config: SweepConfig, *, half: str, model: str = "tiny"
) -> EvaluateConfig:
    """Compose the evaluation of a rival at a point of its space on one half of the suite."""
    size = len(ON_EVALUATION)
    own = {k[size:]: v for k, v in point.items() if k.startswith(ON_EVALUATION)}
    words = [f"model='{model}'", *arena.evaluate, *rival.evaluate, *overrides_of(own)]
    words += [f"suite.half={half}"]
    found: EvaluateConfig = compose_verb("evaluate", words, config.sweep.config_dir).config
    return replace(
        found,
        tracking=config.tracking,
        paths=config.paths,
        traces=0,
        genai_dataset=False,
        reuse=True,
    )
