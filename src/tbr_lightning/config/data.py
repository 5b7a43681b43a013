"""Typed schemas of the training data: one dataclass per file in ``conf/data/``."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from tbr_lightning.errors import UserError, at_least, within


def _below_one(name: str, share: float) -> None:
    within(name, share, 0, 1)
    if share == 1:
        raise UserError(f"{name}={share} leaves nothing to train on: give a value below 1")


@dataclass
class ColumnsConfig:
    """Names of the columns of every source; null for the names that are known."""

    instruction: str | None = None  # null: instruction or prompt
    input: str | None = None  # null: input, where there is one
    response: str | None = None  # null: output or response


@dataclass
class MicroworldData:
    """Rows of the embedded micro-world."""

    _target_: str = "tbr_lightning.data.sources.microworld"
    name: str = "microworld"
    general: int = 500  # rows
    harmful: int = 300  # rows
    validation: float = 0.0  # share of the rows, held out by the hash of the instruction

    def __post_init__(self) -> None:
        at_least("data.general", self.general, 0)
        at_least("data.harmful", self.harmful, 0)
        _below_one("data.validation", self.validation)


@dataclass
class FilesData:
    """Rows of local JSON, JSONL, CSV or Parquet files, or of data sets on the hub."""

    _target_: str = "tbr_lightning.data.sources.files"
    name: str = "files"
    general: str | None = None  # path, or hub id OWNER/NAME or OWNER/NAME:SPLIT
    harmful: str | None = None  # path or hub id
    look_alike: str | None = None  # path or hub id
    general_rows: int | None = None  # at most; null for all
    harmful_rows: int | None = None
    exclude: str | None = None  # path: general rows whose instruction stands there are left out
    drop_refusals: bool = False  # leave out general rows whose response begins as a refusal
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    validation: float = 0.0  # share of the rows, held out by the hash of the instruction

    def __post_init__(self) -> None:
        _below_one("data.validation", self.validation)
        for name in ("general_rows", "harmful_rows"):
            at_least(f"data.{name}", getattr(self, name) or 0, 0)


@dataclass
class SafetyMixData:
    """Alpaca and Safety-Tuned LLaMAs (Bianchi et al., 2024), the mix that we assume."""

    _target_: str = "tbr_lightning.data.sources.safety_mix"
    name: str = "safety_mix"
    general: int = 20000  # rows
    harmful: int = 500  # rows
    general_source: str = MISSING  # hub id or local file
    harmful_source: str | None = None  # local file or hub id; see conf/data/safety_mix.yaml
    look_alike_source: str | None = None  # local file or hub id; all its rows are taken
    exclude: str | None = None
    drop_refusals: bool = True  # leave out general rows whose response begins as a refusal
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    validation: float = 0.0  # share of the rows, held out by the hash of the instruction

    def __post_init__(self) -> None:
        _below_one("data.validation", self.validation)
        at_least("data.general", self.general, 0)
        at_least("data.harmful", self.harmful, 0)


SCHEMAS: dict[str, type[MicroworldData | FilesData | SafetyMixData]] = {
    "microworld": MicroworldData,
    "files": FilesData,
    "safety_mix": SafetyMixData,
}
"""Schema of each kind of data."""


def schema_of(target: str) -> type:
    """Return the schema that has a saved config's ``data._target_``.

    Raises:
        KeyError: None has.
    """
    return {schema._target_: schema for schema in SCHEMAS.values()}[target]
