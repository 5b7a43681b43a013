"""Typed schemas of the swappable parts: one dataclass per group under ``conf/``.

Hydra checks every file and override against them while composing, so a misspelt key or a wrong
type is reported before anything heavy is imported; ``__post_init__`` checks what types cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.config.texts import TEXTS
from tbr_lightning.errors import UserError, at_least, one_of, within
from tbr_lightning.kinds import KINDS

TINY_CONTEXT = 2048  # positions that model.scale=tiny keeps at most


@dataclass
class ModelConfig:
    """A causal language model and how its text is laid out (``conf/model/``)."""

    name: str = MISSING  # name shown in tables and runs
    hub_id: str | None = None  # Hugging Face hub id; null for a model that is made here
    revision: str | None = None  # pin of the hub revision
    licence: str = "unknown"  # licence of the weights
    gated: bool = False  # the hub asks for a token and accepted terms
    verified: bool = False  # true only where the project has loaded the real weights
    path: str | None = None  # Hugging Face folder or GGUF file; comes before hub_id
    init: str = "auto"  # pretrained | random | auto (what the model has for this data)
    scale: str = "full"  # full | tiny (same architecture, few layers and heads; random weights)
    tokenizer: str = "auto"  # own | bytes | train (BPE on the training rows) | auto
    vocab_size: int = 4096  # vocabulary of a tokenizer trained here
    chat_template: str | None = None  # file of a Jinja template, instead of the tokenizer's own
    # Variables of the chat template, such as enable_thinking: true; kept in the exported template.
    template_args: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"  # auto: as the files have it
    attention: str = "auto"  # auto | sdpa | eager | flash_attention_2 | flex_attention
    # of adapter=lora: all-linear, or a list of module names
    adapter_targets: Any = field(default="all-linear", metadata={TEXTS: True})
    max_length: int = 2048  # tokens of prompt, reflection and answer together
    max_new_tokens: int = 512  # generation limit, enough for reflection and answer
    think: str = "auto"  # auto: markers that the chat template has | given: think_open, think_close
    think_open: str = "<think>"  # text that opens the think block, where the template has none
    think_close: str = "</think>"  # text that closes it
    # text that asks for a reflection without training (generation.arm=prompted)
    think_cue: str = "Think about whether the request is safe before you answer."
    architecture: dict[str, Any] = field(default_factory=dict)  # config of init=random
    # Of a base model made here: `_target_` makes it, `data` names the rows that it is made for,
    # and the rest are settings of the target.
    pretraining: dict[str, Any] = field(default_factory=dict)

    def made_for(self, data: str) -> bool:
        """Return whether a base model can be made here for the named data."""
        return self.pretraining.get("data") == data and not (self.hub_id or self.path)

    def __post_init__(self) -> None:
        one_of("model.init", self.init, ("auto", "pretrained", "random"))
        one_of("model.scale", self.scale, ("full", "tiny"))
        one_of(
            "model.attention",
            self.attention,
            ("auto", "sdpa", "eager", "flash_attention_2", "flex_attention"),
        )
        one_of("model.think", self.think, ("auto", "given"))
        for mark in ("think_open", "think_close"):
            if not getattr(self, mark).strip():
                raise UserError(f"model.{mark} is empty: give the text of the marker")
        one_of("model.tokenizer", self.tokenizer, ("auto", "own", "bytes", "train"))
        one_of("model.dtype", self.dtype, ("float32", "bfloat16", "float16", "auto"))
        at_least("model.vocab_size", self.vocab_size, 300)
        at_least("model.max_length", self.max_length, 16)
        at_least("model.max_new_tokens", self.max_new_tokens, 1)
        targets = self.adapter_targets
        names = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
        if targets != "all-linear" and not (names and targets):
            raise UserError(
                f"model.adapter_targets={targets} is not known: give all-linear or a list of "
                "module names such as [q_proj,v_proj]"
            )
        if self.scale == "tiny" and self.init != "random":
            raise UserError(
                f"model.scale=tiny needs model.init=random, not model.init={self.init}: no "
                "pretrained weights fit the smaller layers"
            )


@dataclass
class ReflectionConfig:
    """The teacher of the reflections, and the rows that get one (``conf/reflection/``)."""

    teacher: str = MISSING  # none | internal | external | recorded | filler
    # kinds of rows that get one: general, harmful, look_alike
    kinds: list[str] = field(default_factory=lambda: ["harmful"])
    look_alike_share: float = 1.0  # share of the look-alike rows, where kinds names them
    on_reject: str = "plain"  # plain: train on the bare refusal | drop: leave the row out | error
    unstated: str = "reject"  # accept: rationales that state no conclusion pass, too
    min_accepted: float = 0.9  # share of the rows to reflect on; with fewer training does not begin
    exchanged: bool = False  # each row gets another row's: a control for their mere presence
    attempts: int = 1  # a rejected row is asked for again with a new seed, up to this often
    path: str | None = None  # recorded: JSONL file; none: that of the arm to compare with
    run_id: str | None = None  # recorded: an earlier reflection run; none: as path
    same_rows: bool = True  # leave out rows that another arm's reflection makes too long
    prompt: str | None = None  # internal and external: prompt file; null for the shipped one
    temperature: float = 0.0  # sampling temperature of the teacher; 0 is greedy
    max_new_tokens: int = 256  # token limit of a reflection
    batch_size: int = 64  # internal: rows per batch
    # external: where the teacher is
    endpoint: EndpointConfig = field(default_factory=lambda: EndpointConfig(traces=100))

    def __post_init__(self) -> None:
        teachers = ("none", "internal", "external", "recorded", "filler")
        one_of("reflection.teacher", self.teacher, teachers)
        one_of("reflection.on_reject", self.on_reject, ("plain", "drop", "error"))
        for kind in self.kinds:
            one_of("reflection.kinds", kind, KINDS)
        one_of("reflection.unstated", self.unstated, ("accept", "reject"))
        within("reflection.min_accepted", self.min_accepted, 0, 1)
        if self.attempts > 1 and self.temperature == 0 and self.teacher in ("internal", "external"):
            raise UserError(
                f"reflection.attempts={self.attempts} with reflection.temperature=0 would get the "
                "same answer again: raise the temperature"
            )
        for name in ("max_new_tokens", "batch_size", "attempts"):
            at_least(f"reflection.{name}", getattr(self, name), 1)
        within("reflection.look_alike_share", self.look_alike_share, 0, 1)
        within("reflection.temperature", self.temperature, 0, 2)


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up, then cosine, linear or no decay."""

    lr: float = 1e-4  # highest learning rate
    weight_decay: float = 0.0  # weight decay of weight matrices
    warmup: float = 0.03  # share of all steps
    schedule: str = "cosine"  # after the warm-up: cosine | linear | constant

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optimizer.lr={self.lr} is too small: give a value above 0")
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        within("optimizer.warmup", self.warmup, 0, 1)
        one_of("optimizer.schedule", self.schedule, ("cosine", "linear", "constant"))


@dataclass
class AdapterConfig:
    """A PEFT adapter, or none for full fine-tuning (``conf/adapter/``)."""

    name: str = MISSING  # none | lora | rslora | dora | qlora
    r: int = 16  # rank
    alpha: int = 32  # scale, divided by r
    dropout: float = 0.0  # before the adapter, while training
    rank_stabilized: bool = False  # scale by alpha / sqrt(r) instead of alpha / r
    decompose: bool = False  # magnitude and direction apart (DoRA)
    quantize: bool = False  # the frozen base in 4 bits (QLoRA); needs CUDA and bitsandbytes
    # all-linear, a list of module names, or a pattern that whole names match
    target_modules: Any = field(default="all-linear", metadata={TEXTS: True})
    export: str = "auto"  # merged | adapter (beside a reference to its base) | auto

    def __post_init__(self) -> None:
        one_of("adapter.name", self.name, ("none", "lora", "rslora", "dora", "qlora"))
        one_of("adapter.export", self.export, ("auto", "merged", "adapter"))
        at_least("adapter.r", self.r, 1)
        within("adapter.dropout", self.dropout, 0, 0.99)
        names = self.target_modules
        listed = isinstance(names, list) and names and all(isinstance(one, str) for one in names)
        if not listed and (not isinstance(names, str) or not names):
            raise UserError(
                f"adapter.target_modules={names} names no modules: give all-linear or a list of "
                "texts such as [q_proj,v_proj], with quotes where a name looks like a number"
            )


@dataclass
class TrainerConfig:
    """Where and how long training runs (``conf/trainer/``)."""

    name: str = MISSING  # name shown in tables and runs
    accelerator: str = "cpu"  # cpu | gpu | auto (a GPU where there is one)
    strategy: str = "single"  # single | ddp | fsdp | deepspeed
    zero_stage: int = 2  # deepspeed: 1 shards optimizer states, 2 gradients too, 3 weights too
    offload: bool = False  # deepspeed: states (stage 3: weights too) in the host's memory
    find_unused_parameters: bool = False  # ddp: true for mixtures of experts
    devices: int = 1  # devices per node
    num_nodes: int = 1  # more than one: start with torchrun
    precision: str = "auto"  # 32-true | bf16-mixed | bf16-true | auto
    epochs: int = 1  # passes over the rows
    max_steps: int = -1  # -1: no limit but epochs
    batch_size: int = 8  # rows per micro-batch and device
    accumulate: int = 1  # micro-batches per optimizer step
    batching: str = "auto"  # bucketed (by length) | padded | packed (no padding) | auto
    clip_norm: float = 1.0  # largest norm of the gradient; 0 does not clip
    threads: int | None = None  # CPU threads; null for torch's choice
    gradient_checkpointing: bool = False  # less memory, about a third more time
    compile: bool = False  # torch.compile
    liger: bool = False  # Liger's Triton kernels; needs CUDA and liger-kernel
    log_every: int = 10  # optimizer steps between two writes of averaged numbers
    eval_every: int | None = None  # steps between validation and probe; 0: validation at the end
    # alone; null: as often as 3% of the run's time allows, never in its first ten minutes
    checkpoint: bool = True  # keep checkpoints on disk, for resume=
    checkpoint_every: int = 200  # optimizer steps
    save_top_k: int = 1  # checkpoints of lowest validation loss to keep besides the last two

    def __post_init__(self) -> None:
        one_of("trainer.accelerator", self.accelerator, ("cpu", "gpu", "auto"))
        one_of("trainer.strategy", self.strategy, ("single", "ddp", "fsdp", "deepspeed"))
        one_of("trainer.batching", self.batching, ("auto", "bucketed", "padded", "packed"))
        precisions = ("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed")
        one_of("trainer.precision", self.precision, precisions)
        counts = ("devices", "num_nodes", "epochs", "batch_size", "accumulate", "log_every")
        for name in (*counts, "checkpoint_every"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("clip_norm", "eval_every", "save_top_k"):
            at_least(f"trainer.{name}", getattr(self, name) or 0, 0)
        if self.zero_stage not in (1, 2, 3):
            raise UserError(f"trainer.zero_stage={self.zero_stage} does not exist: use 1, 2 or 3")
        if self.strategy == "single" and self.devices * self.num_nodes > 1:
            raise UserError(
                f"trainer={self.name} has one device and trainer.devices={self.devices}, "
                f"trainer.num_nodes={self.num_nodes}: use trainer=ddp, fsdp or deepspeed_zero2"
            )


@dataclass
class TrackingConfig:
    """Where runs are written (``conf/tracking/``)."""

    uri: str = MISSING  # URI of MLflow's store or server
    artifacts: str | None = None  # folder of a local store; null lets a server decide
    ledger: str | None = None  # of promotions: sqlite:///FILE or postgresql://…; null: beside uri
    experiment: str = "tbr"  # name of the MLflow experiment
    system_metrics: bool = False  # log CPU and memory of the machine every few seconds

    def __post_init__(self) -> None:
        files = [("uri", self.uri), ("ledger", self.ledger or "")]
        folders = [
            (key, uri.removeprefix("sqlite:///")) for key, uri in files if "sqlite:///" in uri
        ]
        if self.artifacts is not None and "://" not in self.artifacts:
            folders.append(("artifacts", self.artifacts))
        for key, path in folders:
            if set(str(Path(path).absolute())) & set("%?"):
                raise UserError(
                    f"tracking.{key}: {Path(path).absolute()} holds % or ?, which stores read as "
                    "part of an address: rename that folder, or give one without them"
                )
        if self.ledger is not None and not self.ledger.startswith(("sqlite:///", "postgresql")):
            kind = self.ledger.partition(":")[0]
            raise UserError(
                f"tracking.ledger: {kind} is not a supported database: give sqlite:///FILE or "
                "postgresql://USER@HOST/DATABASE"
            )


@dataclass
class PathsConfig:
    """Folders for what is not in MLflow."""

    cache: str = MISSING  # base models, reflections: safe to delete
    runs: str = MISSING  # checkpoints and exports of runs
