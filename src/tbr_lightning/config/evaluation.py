"""Typed schemas of suites and judges (``conf/suite/``, ``conf/judge/``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.errors import UserError, at_least, one_of, within

_RENAMED = {"microworld": "microworld_choice"}


@dataclass
class SuiteConfig:
    """Prompts to evaluate on (``conf/suite/``)."""

    _target_: str = "tbr_lightning.evaluation.suites.published"
    name: str = MISSING  # name shown in tables and runs
    half: str = "test"  # dev: for choices | test: for reports and the gate | all: both
    limit: int | None = None  # prompts per kind and benchmark; questions per task
    benchmarks: list[str] = field(default_factory=list)  # names in evaluation/benchmarks.yaml
    root: str | None = None  # folder of the benchmarks' files; null: the hub
    path: str | None = None  # file of the prompts, for a suite of one benchmark
    table: str | None = None  # YAML file of your own benchmarks
    tasks: dict[str, str] = field(default_factory=dict)  # of your own: name: task file or target
    only_for: str | None = None  # name of the data whose language the prompts speak; null for any
    lm_eval: list[str] = field(default_factory=list)  # tasks of EleutherAI's harness
    lm_eval_chat: bool = True  # ask them through the chat template
    lm_eval_shots: int | None = None  # examples before each question; null: the task's own number
    lm_eval_limit: int | None = None  # questions per task; null: limit
    choices: list[str] | None = None  # earlier name of lm_eval, which it replaces
    licence: str = "Apache-2.0"  # licence of the prompts
    citation: str = ""  # citation for the prompts
    title: str = ""  # what captions call the prompts; "": the benchmarks' own titles
    caveat: str = ""  # what captions add to it

    def __post_init__(self) -> None:
        one_of("suite.half", self.half, ("dev", "test", "all"))
        at_least("suite.limit", self.limit, 1)
        if self.path is not None and len(self.benchmarks) != 1:
            raise UserError(
                f"suite.path is one file and suite.benchmarks names {len(self.benchmarks)}: give "
                "suite.root=DIR, or choose one benchmark"
            )
        if self.path is not None and self.root is not None:
            raise UserError("suite.path and suite.root are both set: give one of them")
        at_least("suite.lm_eval_limit", self.lm_eval_limit, 1)
        at_least("suite.lm_eval_shots", self.lm_eval_shots, 0)
        if self.choices is not None:
            names = [_RENAMED.get(name, name) for name in self.choices]
            self.lm_eval, self.choices = names, None


@dataclass
class JudgeConfig:
    """The judge that labels the answers (``conf/judge/``)."""

    _target_: str = "tbr_lightning.evaluation.judges.rules.build"
    name: str = MISSING  # name shown in tables and runs
    about: str = "refusal"  # refusal | harm (only whether a harmful request was carried out)
    verified: bool = True  # false where the project has not run the real weights
    max_unparsed: float = 0.1  # an evaluation with a larger share of unparsed answers fails
    max_errors: float = 0.05  # so does one where the judge fails on a larger share
    prompt: str | None = None  # file of its prompt; null for the shipped one of its name
    max_new_tokens: int = 64  # token limit of its replies
    # classifiers
    hub_id: str | None = None
    revision: str | None = None  # pin of the hub revision
    path: str | None = None  # local Hugging Face folder; comes before hub_id
    licence: str = "unknown"  # licence of its weights
    gated: bool = False  # the hub asks for a token and accepted terms
    chat: bool = False  # request and answer are two turns, as of Llama Guard; no prompt file
    parts: bool = False  # and each turn is a list of parts, as of models that also read images
    template: dict[str, str] = field(default_factory=dict)  # more arguments of its chat template
    dtype: str = "bfloat16"  # type of the classifier's weights: float32 | bfloat16 | float16
    batch_size: int = 16  # answers that a classifier reads at once
    labels: dict[str, str] = field(default_factory=dict)  # pattern in its reply: label; first wins
    # endpoints
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    structured: bool = True  # ask for JSON by a schema; an endpoint without it is asked in words
    temperature: float = 0.0  # sampling temperature of its replies; 0 is greedy

    def __post_init__(self) -> None:
        within("judge.max_unparsed", self.max_unparsed, 0, 1)
        within("judge.max_errors", self.max_errors, 0, 1)
        one_of("judge.about", self.about, ("refusal", "harm"))
        one_of("judge.dtype", self.dtype, ("float32", "bfloat16", "float16"))
        for name in ("max_new_tokens", "batch_size"):
            at_least(f"judge.{name}", getattr(self, name), 1)
        for label in self.labels.values():
            one_of("judge.labels", label, ("full_compliance", "partial_refusal", "full_refusal"))
