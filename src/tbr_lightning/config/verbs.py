"""Typed schemas of the commands: one dataclass per file ``conf/VERB.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.config.evaluation import JudgeConfig, SuiteConfig
from tbr_lightning.config.export import ExportConfig
from tbr_lightning.config.gate import GateConfig
from tbr_lightning.config.schema import (
    AdapterConfig,
    ModelConfig,
    OptimizerConfig,
    PathsConfig,
    ReflectionConfig,
    TrackingConfig,
    TrainerConfig,
)
from tbr_lightning.config.serve import ServeConfig
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.errors import UserError, at_least, one_of, within


@dataclass
class GenerationConfig:
    """How answers are decoded. Greedy by default, so that two evaluations of a model agree."""

    arm: str = "trained"  # trained | prompted (asked to reflect) | forced | suppressed
    max_new_tokens: int | None = None  # null: what the model was exported with
    batch_size: int | None = None  # rows decoded together; null: as many as are sure to fit
    temperature: float = 0.0  # 0 is greedy; above it answers are sampled
    seed: int = 0  # seed of sampling
    engine: str = "auto"  # transformers | vllm (needs CUDA and the package) | auto
    dtype: str = "auto"  # float32 | bfloat16 | auto (the weights' own where fast)
    reuse: bool = True  # reuse stored responses, and store new ones

    def __post_init__(self) -> None:
        one_of("generation.arm", self.arm, ("trained", "prompted", "forced", "suppressed"))
        one_of("generation.dtype", self.dtype, ("auto", "float32", "bfloat16"))
        one_of("generation.engine", self.engine, ("auto", "transformers", "vllm"))
        at_least("generation.batch_size", self.batch_size, 1)
        at_least("generation.max_new_tokens", self.max_new_tokens, 1)
        within("generation.temperature", self.temperature, 0, 2)


@dataclass
class ReflectConfig:
    """``python -m tbr_lightning.reflect``."""

    model: ModelConfig = MISSING
    data: Any = MISSING  # a source of rows: a class of tbr_lightning.data, or of your own
    reflection: ReflectionConfig = MISSING
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING
    seed: int = 0  # seed of the rows drawn, and of the teacher's sampling
    run_name: str | None = None  # null: made from model, reflection and seed


@dataclass
class ApartConfig:
    """Benchmarks whose prompts must not be in the training rows."""

    root: str | None = None  # folder of their files, as suite.root; null compares with none
    benchmarks: list[str] = field(  # those that root lacks are skipped
        default_factory=lambda: [
            "xstest",
            "or_bench_hard",
            "advbench",
            "harmbench",
            "i_malicious_instructions",
            "i_cona",
        ]
    )
    allowed: int = 0  # prompts that may be in the rows; with more training does not begin

    def __post_init__(self) -> None:
        at_least("apart.allowed", self.allowed, 0)


@dataclass
class PairsConfig:
    """How ``data.pairs=sampled`` makes pairs: the model answers, the judge of ``judge`` labels."""

    samples: int = 4  # answers to each prompt
    temperature: float = 0.7  # temperature of the answers that are sampled
    max_new_tokens: int | None = None  # token limit of an answer; null: model.max_new_tokens
    batch_size: int | None = None  # answers written together; null: as many as are sure to fit
    arm: str = "trained"  # trained | prompted (asked to reflect) | forced (begins to reflect)
    cut: str = "reject"  # reject: what the limit ended is never preferred | accept

    def __post_init__(self) -> None:
        at_least("pairs.samples", self.samples, 2)
        within("pairs.temperature", self.temperature, 0, 2)
        if not self.temperature:
            raise UserError(
                "pairs.temperature=0 would write the same answer every time: give a value above 0"
            )
        for name in ("max_new_tokens", "batch_size"):
            at_least(f"pairs.{name}", getattr(self, name), 1)
        one_of("pairs.arm", self.arm, ("trained", "prompted", "forced"))
        one_of("pairs.cut", self.cut, ("reject", "accept"))


@dataclass
class TrainConfig:
    """``python -m tbr_lightning.train``."""

    model: ModelConfig = MISSING
    data: Any = MISSING  # a source of rows: a class of tbr_lightning.data, or of your own
    reflection: ReflectionConfig = MISSING
    objective: Any = MISSING  # a class of tbr_lightning.objectives, or of your own
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    adapter: AdapterConfig = MISSING
    trainer: TrainerConfig = MISSING
    pairs: PairsConfig = field(default_factory=PairsConfig)  # settings of data.pairs=sampled
    judge: JudgeConfig = field(default_factory=lambda: JudgeConfig(name="rules"))  # of answers
    probe: SuiteConfig = MISSING  # prompts answered every trainer.eval_every steps
    apart: ApartConfig = field(default_factory=ApartConfig)
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING
    seed: int = 0  # seed of the rows drawn, their order, and the initial weights
    resume: str | None = None  # latest, or the id of an interrupted run
    dry_run: bool = False  # show what would be trained, and what it would take; train nothing
    run_name: str | None = None  # null: made from model, reflection and seed
    tags: dict[str, str] = field(default_factory=dict)  # more tags of the run
    given: list[str] = field(default_factory=list)  # the command line; filled in while composing

    def __post_init__(self) -> None:
        if self.resume is not None and self.dry_run:
            raise UserError("dry_run=true looks at a new run: leave resume out")


@dataclass
class GoldColumns:
    """Names of the columns of a gold file; null for the usual names."""

    prompt: str | None = None  # null: prompt
    answer: str | None = None  # null: completion or answer
    label: str | None = None  # null: label or final_label


@dataclass
class LabelledConfig:
    """What becomes of answers that people marked in MLflow (``evaluate labelled``)."""

    into: str | None = None  # file of rows to write, FILE.jsonl
    test_half: bool = False  # take answers to prompts of a test half, too


@dataclass
class EvaluateConfig:
    """``python -m tbr_lightning.evaluate [calibrate|labelled|draw]``."""

    model_uri: Any = MISSING  # models:/…, a run id, a folder, a hub id, openai:NAME; or a list
    suite: SuiteConfig = MISSING
    judge: JudgeConfig = MISSING
    second_judge: JudgeConfig | None = None  # labels beside the first, for their agreement
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)  # of model=openai:NAME
    mitigation: Any = None  # a class of tbr_lightning.mitigations, or of your own
    repeats: int = 1  # answers to each prompt; more than one need a temperature
    reuse: bool = False  # take an earlier evaluation of the same model with the same settings
    traces: int = 50  # trace all errors and this many other answers in MLflow; 0 traces none
    genai_dataset: bool = True  # keep the suite as an MLflow GenAI dataset, once
    format: str = "table"  # format of the printed table: table | md | latex | csv
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING
    attribution: bool = False  # which words drove the false refusals
    attribution_prompts: int = 20  # false refusals to explain, at most
    attribution_against: str | None = None  # another model, as in model=, asked the same prompts
    attribution_swaps: dict[str, str] = field(default_factory=dict)  # sensitive: neutral word
    threads: int | None = None  # CPU threads; null for torch's choice
    run_name: str | None = None  # null: made from model and suite
    gold: str | None = None  # a file of labelled answers (calibrate), or traces[:RUN_ID]
    labelled: LabelledConfig = field(default_factory=LabelledConfig)
    gold_columns: GoldColumns = field(default_factory=GoldColumns)
    evaluation: str | None = None  # id of the stored evaluation to draw (draw)
    tags: dict[str, str] = field(default_factory=dict)  # more tags of the run

    def __post_init__(self) -> None:
        at_least("attribution_prompts", self.attribution_prompts, 1)
        one_of("format", self.format, ("table", "md", "latex", "csv"))
        at_least("repeats", self.repeats, 1)
        at_least("traces", self.traces, 0)
        if self.repeats > 1 and not self.generation.temperature:
            raise UserError(
                f"repeats={self.repeats} of greedy decoding would all be the same: give "
                "generation.temperature a value above 0, e.g. 0.7"
            )
        if self.repeats > 1 and self.attribution:
            raise UserError(
                f"attribution=true explains one answer to each prompt, and repeats={self.repeats}: "
                "leave one of them out"
            )
        if not self.models:
            raise UserError("model=[] names no model: give one, or several as model=[A,B]")
        for model in self.models:
            if not isinstance(model, str) or not model:
                raise UserError(
                    f"model={model!r} is not the name of a model: give models:/NAME@alias, a run "
                    f"id, a "
                    "folder or a hub id, or several as model=[A,B]"
                )
            if self.models.count(model) > 1:
                raise UserError(f"model='{model}' is listed twice: name different models")

    @property
    def models(self) -> list[str]:
        """The models, the first of which the others are compared to."""
        return list(self.model_uri) if isinstance(self.model_uri, list) else [self.model_uri]

    @property
    def mitigated(self) -> bool:
        """Whether a mitigation is configured."""
        return self.mitigation is not None and self.mitigation.name != "none"


@dataclass
class PromoteConfig:
    """``python -m tbr_lightning.promote [status|history|verify|rollback|repair|accept]``."""

    model_uri: str = ""  # the candidate: models:/m-…, models:/NAME/3 or a training run's id
    name: str = "tbr-microworld"  # registered model
    baseline: bool = False  # become champion without a comparison with the present one
    candidate_evaluation: str | None = None  # id of the run to take; null: found or made
    champion_evaluation: str | None = None  # the same for the champion
    reason: str = ""  # reason, in your words, for the ledger; rollback and accept need it
    details: bool = False  # print every rule with its numbers, not only those that failed
    suite: SuiteConfig = MISSING
    judge: JudgeConfig = MISSING
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    gate: GateConfig = MISSING
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING
    threads: int | None = None  # CPU threads; null for torch's choice

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/:.%\"'"):
            raise UserError(
                f"name='{self.name}' cannot name a registered model: use letters, digits, - and _"
            )
        if len(self.name) > 200:
            raise UserError(f"name='{self.name[:20]}…' is too long: use at most 200 letters")
        for key in ("candidate_evaluation", "champion_evaluation"):
            run_id = getattr(self, key)
            if run_id is not None and not re.fullmatch(r"[0-9a-f]{32}", run_id):
                raise UserError(f"{key}='{run_id}' is not a run id: give 32 hexadecimal digits")
        if self.baseline and self.champion_evaluation is not None:
            raise UserError("baseline=true meets no champion: leave champion_evaluation out")


@dataclass
class DemoArm:
    """One way to treat the base model."""

    about: str = ""  # name in the table
    train: list[str] | None = None  # overrides of a training run; null: the base as it is
    evaluate: list[str] = field(default_factory=list)  # overrides of its evaluation


@dataclass
class DemoConfig:
    """The settings of ``make demo`` and ``make real``."""

    model: str = MISSING  # a model in conf/model/
    rows: list[str] = field(default_factory=list)  # overrides of every training run
    suite: list[str] = field(default_factory=list)  # overrides of every evaluation and the gate
    gate: list[str] = field(default_factory=list)  # overrides of every decision of the gate
    root: str | None = None  # folder of rows and prompts that are not shipped
    needs: list[str] = field(default_factory=list)  # files that root must hold
    about: str = ""  # printed first
    title: str = ""  # title of table and figure
    targets: bool = False  # state whether the miniature's targets were met
    seeds: int = 1  # number of seeds
    first_seed: int = 0  # the others follow it
    name: str = "tbr-microworld"  # registered model
    # by name: what is trained and how it is evaluated
    arms: dict[str, DemoArm] = field(default_factory=dict)
    train: list[str] = field(default_factory=list)  # overrides of every training run
    evaluate: list[str] = field(default_factory=list)  # overrides of every evaluation
    baseline: str = MISSING  # arm that becomes the champion first
    candidate: str = MISSING  # arm that is gated against it
    unsafe: str = MISSING  # arm that the gate must refuse
    figure: str = "demo.png"  # file of the figure; the table's JSON is beside it

    def __post_init__(self) -> None:
        at_least("demo.seeds", self.seeds, 1)
        at_least("demo.first_seed", self.first_seed, 0)
        missing = [name for name in self.needs if not (Path(self.root or "") / name).is_file()]
        if missing:
            raise UserError(
                f"demo.root='{self.root}' lacks {', '.join(missing)}: set TBR_SHARED_DATA, or "
                "demo.root=, to a folder that holds them"
            )
        for role in ("baseline", "candidate", "unsafe"):
            one_of(f"demo.{role}", getattr(self, role), self.arms)
            if self.arms[getattr(self, role)].train is None:
                raise UserError(
                    f"demo.{role}={getattr(self, role)} is not trained: name one that is"
                )


@dataclass
class DemoVerbConfig:
    """The demo's own keys are under ``demo``, as in ``demo.seeds=5``."""

    demo: DemoConfig = MISSING
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING


@dataclass
class DoctorConfig:
    """``python -m tbr_lightning.doctor``."""

    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING


VERBS: dict[str, type] = {
    "reflect": ReflectConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "promote": PromoteConfig,
    "sweep": SweepConfig,
    "serve": ServeConfig,
    "export": ExportConfig,
    "demo": DemoVerbConfig,
    "doctor": DoctorConfig,
}
"""Schema of each verb."""
