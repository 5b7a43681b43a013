"""Sources of training rows: local files and hub data sets, or the safety mix."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tbr_lightning.data.example import Example
from tbr_lightning.data.labelled import with_labelled
from tbr_lightning.data.mix import Mix, mixed, pool
from tbr_lightning.data.table import Examples, stored
from tbr_lightning.errors import UserError, at_least, one_of, within
from tbr_lightning.kinds import Kind


@dataclass
class DataConfig:
    """Base of every source of training rows; ``_target_`` in ``conf/data/`` names the class.

    A source of your own derives from it and adds its settings as typed fields.
    """

    _target_: str = ""  # set by each class to its own path
    name: str = MISSING  # name shown in tables and runs
    validation: float = 0.0  # share of the rows, held out by the hash of the instruction
    pairs: str = "file"  # file: as the rows have them | sampled: made on the model, see PairsConfig
    labelled: str | None = None  # file of rows that people labelled; they join or replace the rows

    def __post_init__(self) -> None:
        one_of("data.pairs", self.pairs, ("file", "sampled"))
        within("data.validation", self.validation, 0, 1)
        if self.validation == 1:
            raise UserError(
                f"data.validation={self.validation} leaves nothing to train on: give a value "
                "below 1"
            )

    def load(self, seed: int, cache: Path) -> Examples:
        """Return the rows; ``seed`` chooses them, ``cache`` is the folder of all caches.

        Raises:
            UserError: A source is missing, cannot be reached or is malformed, or no row is left.
        """
        raise UserError(f"data={self.name}: {type(self).__name__} has no method load: write it")

    def planned(self) -> tuple[int, int] | None:
        """Return the numbers of rows wanted, all and harmful; ``None`` if not known beforehand."""
        return None

    def teacher(self, name: str, seed: int) -> Any | None:
        """Return the teacher that comes with the data for ``reflection=name``, if there is one."""
        return None

    @property
    def suite(self) -> str:
        """Command-line arguments that evaluate a model trained on these rows."""
        return "suite=xstest suite.path=xstest_prompts.csv"


@dataclass
class ColumnsConfig:
    """Names of the columns of every source; null for the usual names."""

    instruction: str | None = None  # null: instruction, prompt, question or query
    input: str | None = None  # null: input, where there is one
    response: str | None = None  # null: output, response, completion or answer
    rejected: str | None = None  # null: rejected, where there is one
    system: str | None = None  # null: system or system_prompt, where there is one
    history: str | None = None  # null: history, pairs of earlier requests and answers
    reflection: str | None = None  # null: reflection, reasoning_content or reasoning


@dataclass
class FilesData(DataConfig):
    """Rows of local JSON, JSONL, CSV or Parquet files, or of data sets on the hub."""

    _target_: str = "tbr_lightning.data.sources.FilesData"
    name: str = "files"
    general: str | None = None  # path, or hub id OWNER/NAME or OWNER/NAME:SPLIT
    harmful: str | None = None  # path or hub id
    look_alike: str | None = None  # path or hub id
    general_rows: int | None = None  # at most; null for all
    harmful_rows: int | None = None  # at most; null for all
    look_alikes: int | None = None  # rows of look_alike at most; null for all
    exclude: str | None = None  # path: general rows whose instruction is in it are left out
    drop_refusals: bool = False  # leave out general rows whose response begins as a refusal
    turns: str = "last"  # last | all: which turns of the assistant in general chats carry loss
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.turns", self.turns, ("last", "all"))
        for name in ("general_rows", "harmful_rows", "look_alikes"):
            at_least(f"data.{name}", getattr(self, name), 0)

    @property
    def sources(self) -> list[str]:
        """The files and data sets that are named."""
        return [one for one in (self.general, self.harmful, self.look_alike) if one is not None]

    def load(self, seed: int, cache: Path) -> Examples:
        """Return the rows, with Alpaca's columns or those that are named.

        Raises:
            UserError: No source was given, or one is missing, empty or malformed.
        """
        if not self.sources:
            raise UserError(
                "data.general and data.harmful are not set: give the path of at least one"
            )
        columns = asdict(self.columns)
        mix = Mix(
            general=pool(self.general, "data.general", "general", columns, cache, turns=self.turns),
            harmful=pool(self.harmful, "data.harmful", "harmful", columns, cache),
            look_alike=pool(self.look_alike, "data.look_alike", "look_alike", columns, cache),
            general_rows=self.general_rows,
            harmful_rows=self.harmful_rows,
            look_alikes=self.look_alikes,
            exclude=self.exclude,
            drop_refusals=self.drop_refusals,
            instruction=self.columns.instruction,
            seed=seed,
        )
        return mix_rows(mix, self.name, cache)


@dataclass
class SafetyMixData(DataConfig):
    """Alpaca cleaned of safety rows, and Safety-Tuned LLaMAs, the mix that we assume.

    Source:
        Bianchi et al. (2024); the paper's own mix is not known to us.
    """

    _target_: str = "tbr_lightning.data.sources.SafetyMixData"
    name: str = "safety_mix"
    general: int = 20000  # rows
    harmful: int = 500  # rows
    general_source: str = MISSING  # hub id or local file
    harmful_source: str | None = None  # local file or hub id; see conf/data/safety_mix.yaml
    look_alike_source: str | None = None  # local file or hub id
    look_alikes: int | None = None  # maximum number of rows of it; null for all
    exclude: str | None = None  # path: general rows whose instruction is in it are left out
    drop_refusals: bool = True  # leave out general rows whose response begins as a refusal
    turns: str = "last"  # last | all: which turns of the assistant in general chats carry loss
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.turns", self.turns, ("last", "all"))
        at_least("data.general", self.general, 0)
        at_least("data.harmful", self.harmful, 0)
        at_least("data.look_alikes", self.look_alikes, 0)

    def planned(self) -> tuple[int, int]:
        """Return how many rows are wanted, all and harmful ones."""
        return self.general + self.harmful + (self.look_alikes or 0), self.harmful

    def load(self, seed: int, cache: Path) -> Examples:
        """Return the rows.

        Raises:
            UserError: A source is missing or cannot be reached.
        """
        if self.harmful and self.harmful_source is None:
            raise UserError(missing_safety_rows())
        plain = self.general_source if self.general else None
        unsafe = self.harmful_source if self.harmful else None
        alike, columns = self.look_alike_source, asdict(self.columns)
        mix = Mix(
            general=pool(plain, "data.general_source", "general", columns, cache, turns=self.turns),
            harmful=pool(unsafe, "data.harmful_source", "harmful", columns, cache),
            look_alike=pool(alike, "data.look_alike_source", "look_alike", columns, cache),
            general_rows=self.general,
            harmful_rows=self.harmful,
            look_alikes=self.look_alikes,
            exclude=self.exclude,
            drop_refusals=self.drop_refusals,
            instruction=self.columns.instruction,
            seed=seed,
        )
        rows = mix_rows(mix, self.name, cache)
        kinds: tuple[tuple[Kind, int], ...]
        kinds = (("general", self.general), ("harmful", self.harmful))
        for kind, wanted in kinds:
            if (found := rows.counts().get(kind, 0)) < wanted:
                print(
                    f"data={self.name}: data.{kind}={wanted}, but there are {found}",
                    file=sys.stderr,
                )
        return rows


def load(config: DataConfig, seed: int, cache: Path) -> Examples:
    """Return the training rows of a data config, and report what was left out of them.

    Args:
        config: Config of the data source.
        seed: Random seed that selects the rows.
        cache: Folder of all caches; rows that are cached already are only opened.

    Raises:
        UserError: A source is missing, cannot be reached or is malformed, or no row is left.
    """
    examples = _with_labelled(config, seed, cache) if config.labelled else config.load(seed, cache)
    if examples.left_out:  # now, or when the rows were stored
        reasons = ", ".join(f"{count} {reason}" for reason, count in examples.left_out.items())
        print(f"data={config.name}: rows left out: {reasons}", file=sys.stderr)
    for note in examples.notes:
        print(note, file=sys.stderr)
    return examples


def _with_labelled(config: DataConfig, seed: int, cache: Path) -> Examples:
    """Return the rows of a config with the labelled ones, which may be all there are."""
    assert config.labelled is not None
    alone = isinstance(config, FilesData) and not config.sources
    return with_labelled(None if alone else config.load(seed, cache), config.labelled, cache)


def mix_rows(mix: Mix, name: str, cache: Path) -> Examples:
    """Return the rows of a mix, with notes on its sources."""
    pools = [rows for rows in (mix.general, mix.harmful, mix.look_alike) if rows is not None]
    return stored(
        cache,
        mix.key,
        lambda left_out: not_empty(mixed(mix, left_out), name, left_out),
        lambda: [note for rows in pools for note in rows.notes],
    )


def missing_safety_rows() -> str:
    """Return the sentence that says how to get the safety rows of ``data=safety_mix``."""
    return (
        "data.harmful_source is not set: download safety_only_data_Instructions.json from "
        "github.com/vinid/safety-tuned-llamas and give its path, or use data=microworld"
    )


def not_empty(
    rows: Iterator[Example], name: str, left_out: Mapping[str, int] | None = None
) -> Iterator[Example]:
    """Yield the rows; raise at the end if there was none. ``left_out`` has the missing ones."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty and left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(f"data={name} has no training rows, since rows were left out ({reasons})")
    if empty:
        raise UserError(
            f"data={name} has no training rows: raise data.general or data.harmful above 0"
        )
