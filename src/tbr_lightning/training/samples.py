"""Answers of the model itself to training prompts, on disk with their verdicts and provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.verbs import GenerationConfig, PairsConfig, TrainConfig
from tbr_lightning.data.example import Example
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.judges.base import Label
from tbr_lightning.evaluation.judges.loading import identity, make_judge
from tbr_lightning.evaluation.respond import arm_prompts, responses
from tbr_lightning.evaluation.store import weights_identity
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.evaluation.verdicts import concludes, leaks, with_verdicts
from tbr_lightning.models.architecture import context_length
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.progress import track
from tbr_lightning.reflection.store import RecordStore


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer that the model wrote to a training prompt.

    Attributes:
        instruction_id: Identity of the row's instruction.
        number: Index of the answer among those to its prompt.
        text: Text written after the prompt, think block included.
        new_tokens: Number of tokens written.
        cut: Whether the token limit ended it.
        weights: Hash of the model that wrote it.
        prompt_hash: Hash of the token ids of the prompt.
        sampling: Decoding settings.
        run_id: MLflow run that made it.
    """

    instruction_id: str
    number: int
    text: str
    new_tokens: int
    cut: bool
    weights: str
    prompt_hash: str
    sampling: Mapping[str, Any]
    run_id: str = ""

    @property
    def key(self) -> str:
        """Hash of all that determines the request; the same request is never made twice."""
        return _hash(
            self.instruction_id, self.number, self.weights, self.prompt_hash, dict(self.sampling)
        )


@dataclass(frozen=True, slots=True)
class SampleVerdict:
    """A judge's verdict on one sample.

    Attributes:
        sample: Key of the sample.
        judge: Identity of the judge.
        label: Label, as in :class:`tbr_lightning.evaluation.judges.base.Verdict`, like those below.
        because: Reason for the label.
        content: Whether the answer hands over what was asked.
        helpful: How far the answer helps, from 0 to 2.
        run_id: MLflow run that asked the judge.
    """

    sample: str
    judge: str
    label: Label
    because: str
    content: bool | None
    helpful: int | None
    run_id: str = ""

    @property
    def key(self) -> str:
        """Hash of sample and judge."""
        return _hash(self.sample, self.judge)


@dataclass(frozen=True)
class Stores:
    """The stores of samples and of the verdicts on them; one file holds both."""

    samples: RecordStore[Sample]
    verdicts: RecordStore[SampleVerdict]


def stores_of(config: TrainConfig) -> Stores:
    """Return the stores; they are not a cache, since a judge may have been paid."""
    file = Path(config.paths.runs) / "samples.db"
    lost = "every answer is written, and every judge asked and paid for, again"
    return Stores(
        RecordStore(file, "samples", Sample, lost),
        RecordStore(file, "verdicts", SampleVerdict, lost),
    )


@dataclass(frozen=True)
class Sampler:
    """A model with the settings by which it answers, and its prompts as token ids.

    Attributes:
        backbone: The model.
        pairs: Config of the sampled pairs.
        seed: Seed of the run; each of its answers to a prompt has a seed that no other run has.
        rows: Rows whose prompt fits into the model's context, by instruction id.
        ids: Token ids of their prompts, by instruction id.
        weights: Hash of the model.
    """

    backbone: Backbone
    pairs: PairsConfig
    seed: int
    rows: Mapping[str, Example]
    ids: Mapping[str, list[int]]
    weights: str

    @classmethod
    def of(cls, config: TrainConfig, examples: Sequence[Example], backbone: Backbone) -> Sampler:
        """Lay out the prompts of rows; those that are longer than the context are left out."""
        distinct = {example.id: example for example in examples}
        asked = [prompt_of(example) for example in distinct.values()]
        texts, said = [p.text for p in asked], [p.before for p in asked]
        ids = arm_prompts(backbone, texts, config.pairs.arm, said)
        limit = config.pairs.max_new_tokens or config.model.max_new_tokens
        room = context_length(backbone.model.config.get_text_config()) - limit
        fits = {key: one for key, one in zip(distinct, ids, strict=True) if len(one) <= room}
        return cls(
            backbone,
            replace(config.pairs, max_new_tokens=limit),
            config.seed,
            {key: distinct[key] for key in fits},
            fits,
            weights_identity(backbone),
        )

    def wanted(self) -> dict[str, Sample]:
        """Return every sample by its key, not written yet."""
        empty = [
            Sample(
                instruction_id=key,
                number=number,
                text="",
                new_tokens=0,
                cut=False,
                weights=self.weights,
                prompt_hash=_hash(ids),
                sampling={
                    "arm": self.pairs.arm,
                    "temperature": self.pairs.temperature,
                    "max_new_tokens": self.pairs.max_new_tokens,
                    "seed": self._seed_of(number),
                },
            )
            for number in range(self.pairs.samples)
            for key, ids in self.ids.items()
        ]
        return {sample.key: sample for sample in empty}

    def _seed_of(self, number: int) -> int:
        return self.seed * 1_000_003 + number

    def missing(self, stores: Stores, judge: JudgeConfig) -> bool:
        """Return whether any answer or verdict is missing in the stores."""
        wanted = self.wanted()
        found = stores.samples.get(wanted)
        judged = _kept_verdicts(stores, found, identity(judge))
        return len(found) < len(wanted) or len(judged) < len(found)

    def write(self, store: RecordStore[Sample], run_id: str) -> int:
        """Let the model write what is missing, each on disk at once; return how many these are."""
        wanted = self.wanted()
        found = store.get(wanted)
        rest = [sample for key, sample in wanted.items() if key not in found]
        with store.writing() as put:
            for sample in track(self._written(rest), "answers", len(rest)):
                put(replace(sample, run_id=run_id))
        return len(rest)

    def _written(self, samples: Sequence[Sample]) -> Any:
        """Yield samples as they are written; answers of one seed together."""
        for number in sorted({sample.number for sample in samples}):
            some = [sample for sample in samples if sample.number == number]
            generation = GenerationConfig(
                arm=self.pairs.arm,
                max_new_tokens=self.pairs.max_new_tokens,
                batch_size=self.pairs.batch_size,
                temperature=self.pairs.temperature,
                seed=self._seed_of(number),
            )
            prompts = [self.ids[sample.instruction_id] for sample in some]
            for place, made in responses(self.backbone, prompts, generation):
                yield replace(some[place], text=made.text, new_tokens=made.new_tokens, cut=made.cut)

    def judged(self, stores: Stores, config: JudgeConfig, run_id: str) -> dict[str, list[Judged]]:
        """Return all answers with the verdicts on them, by instruction id, in the order drawn.

        The judge is asked for the verdicts that are missing, some at a time, and each is on disk
        before the next are asked for. A verdict that failed is not kept, and so asked for again.
        """
        judge, name = make_judge(config), identity(config)
        samples = stores.samples.get(self.wanted())
        open_rows = {key: self._unseen(sample) for key, sample in samples.items()}
        known = _kept_verdicts(stores, samples, name)
        rest = [key for key in samples if key not in known]
        step = max(config.batch_size, config.endpoint.concurrency)
        parts = [rest[start : start + step] for start in range(0, len(rest), step)]
        with stores.verdicts.writing() as put:
            for part in track(parts, "verdicts", len(parts)):
                rows = with_verdicts([open_rows[key] for key in part], judge)
                for key, row in zip(part, rows, strict=True):
                    known[key] = SampleVerdict(
                        key, name, row.label, row.because, row.content, row.helpful, run_id
                    )
                    if row.label != "judge_error":
                        put(known[key])
        found: dict[str, list[Judged]] = {key: [] for key in self.rows}
        for key, sample in sorted(samples.items(), key=lambda item: item[1].number):
            row, verdict = open_rows[key], known[key]
            found[sample.instruction_id].append(
                replace(
                    row,
                    label=verdict.label,
                    because=verdict.because,
                    content=verdict.content,
                    helpful=verdict.helpful,
                    reflection_concludes=concludes(row.reflection),
                    reflection_leaks=leaks(row.reflection),
                )
            )
        return found

    def _unseen(self, sample: Sample) -> Judged:
        think_format = self.backbone.think_format
        begun = think_format.begin if self.pairs.arm == "forced" else ""
        reflection, answer = think_format.split(begun + sample.text)
        row = Judged.unseen(
            prompt_of(self.rows[sample.instruction_id]),
            answer,
            reflection=reflection,
            new_tokens=sample.new_tokens,
            cut=sample.cut,
        )
        return replace(row, repeat=sample.number)

    def run_ids(self, stores: Stores) -> list[str]:
        """Return the MLflow runs that wrote the samples."""
        found = stores.samples.get(self.wanted()).values()
        return sorted({sample.run_id for sample in found if sample.run_id})


def _kept_verdicts(stores: Stores, samples: Iterable[str], judge: str) -> dict[str, SampleVerdict]:
    """Return the verdicts of a judge that are stored, by the sample's key."""
    found = stores.verdicts.get(_hash(key, judge) for key in samples)
    return {one.sample: one for one in found.values()}


def prompt_of(example: Example) -> Prompt:
    """Return a row's prompt as judges take it."""
    return Prompt(example.prompt, example.kind, example.source, "", context=example.context)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(cast(Any, parts), sort_keys=True).encode()).hexdigest()
