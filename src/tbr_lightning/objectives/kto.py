"""Kahneman-Tversky optimisation: responses that are good or bad by themselves, in pairs or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, TokenRow
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError, above, at_least, one_of
from tbr_lightning.objectives.batch import Batch, StepWeights
from tbr_lightning.objectives.objective import Floats, Loss, Objective, chunks_of, require
from tbr_lightning.objectives.pairs import reference_sums, sequence_scores, sums_agree

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Baseline:
    """The mismatched sequences of an optimizer step on one rank, and their estimate.

    Attributes:
        batches: One batch for each micro-batch of the step.
        value: Estimate over all micro-batches and ranks; ``None`` until it is first needed.
    """

    batches: list[Batch]
    value: Tensor | None = None


@dataclass
class KTO(Objective):
    """Raises the value of desirable responses and lowers that of undesirable ones.

    A row has a response, a dispreferred one, or both; each is a sequence of its own. Value is
    relative to a baseline, the divergence from the starting weights, estimated on each prompt with
    the response of another row. It is one number for an optimizer step, over all micro-batches and
    ranks, so it does not depend on how a step is divided.

    Source:
        Ethayarajh et al., KTO: Model Alignment as Prospect Theoretic Optimization, ICML 2024,
        equations 7 and 8. The choice of the other row is ours: it is about half of the data away,
        so the divergence under the starting weights is computed once.
    """

    _target_: str = "tbr_lightning.objectives.kto.KTO"
    beta: float = 0.1  # how strongly the model is held to its reference
    desirable_weight: float = 1.0  # weight of each desirable response
    undesirable_weight: float = 1.0  # weight of each undesirable response
    reflect: str = "chosen"  # chosen | both | none: which responses carry the row's reflection

    def __post_init__(self) -> None:
        super().__post_init__()
        above("objective.beta", self.beta, 0)
        for name in ("desirable_weight", "undesirable_weight"):
            at_least(f"objective.{name}", getattr(self, name), 0)
        one_of("objective.reflect", self.reflect, ("chosen", "both", "none"))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the logged numbers: the reward of either kind of response, and the baseline."""
        return ("preferences/chosen_reward", "preferences/rejected_reward", "preferences/baseline")

    @property
    def sequences_per_row(self) -> int:
        """Two: the desirable response, then the undesirable one; a row may lack either."""
        return 2

    @property
    def uses_rejected(self) -> bool:
        """True: it learns from dispreferred responses."""
        return True

    @property
    def form(self) -> str:
        """Name of its sequences, which also shows which responses reflect."""
        return f"sides/{self.reflect}"

    def check_rows(self, examples: Examples) -> None:
        """Raise :class:`UserError` unless rows are good or bad, of both kinds, and at least two."""
        require(
            examples,
            {
                "have no response": lambda row: not (row.response or row.rejected or "").strip(),
                "call a response both good and bad": lambda row: row.rejected == row.response,
            },
            "objective=kto learns from responses that are the one or the other: fix or remove them",
        )
        if not any(row.rejected for row in examples):
            raise UserError(
                f"none of the {len(examples)} rows has an undesirable response: objective=kto "
                "learns from both kinds: give rows with rejected or label=false, or use "
                "objective=sft"
            )
        if len(examples) < 2:
            raise UserError(
                "objective=kto estimates its baseline with the response of another row, but there "
                "is only one: give more"
            )

    def sequences(
        self, example: Example, reflection: str | None
    ) -> Sequence[tuple[str | None, str | None]]:
        """Return the desirable sequence and the undesirable one."""
        chosen = reflection if self.reflect in ("chosen", "both") else None
        rejected = reflection if self.reflect == "both" else None
        return [(chosen, example.response or None), (rejected, example.rejected or None)]

    def reference(self, model: Any, rows: TokenRows, pad_id: int) -> Floats:
        """Return log-probabilities under the starting weights, shape ``(sequences, 2)``.

        The first is of the sequence itself, the second of the prompt with another row's response.
        """
        own = reference_sums(self, model, rows, pad_id)
        return np.stack([own, reference_sums(self, model, _mismatched(rows), pad_id)], axis=1)

    def is_of_start(self, model: Any, rows: TokenRows, pad_id: int, kept: Floats) -> bool:
        """Return whether a stored reference belongs to these rows under these weights."""
        return kept.ndim == 2 and sums_agree(self, model, rows, pad_id, kept[:, 0])

    def totals(self, rows: TokenRows) -> Floats:
        """Return the number of responses of each row."""
        return (self.sequence_totals(rows) > 0).astype(np.float64).reshape(-1, 2).sum(axis=1)

    def shared(
        self,
        rows: TokenRows,
        step: Sequence[Sequence[int]],
        pad_id: int,
        *,
        form: str,
        rank: int,
        world: int,
        reference: Floats | None,
    ) -> Baseline:
        """Return the mismatched sequences of a rank's micro-batches."""
        assert reference is not None
        other = _mismatched(rows)
        supervised = self.supervised(other)
        batches = []
        for start in range(0, len(step), world):
            together = step[start : start + world]
            micro = together[rank]
            batches.append(
                self.collate(
                    other,
                    micro or step[0][:1],
                    pad_id,
                    form=form,
                    step=StepWeights(1.0),
                    scale=1.0 if micro else 0.0,
                    chunks=chunks_of(supervised, together),
                    reference=reference[:, 1],
                )
            )
        return Baseline(batches)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the weighted sum of one minus the value of each response."""
        import torch

        baseline = self._baseline(model, batch)
        scores = sequence_scores(model, batch)
        assert batch.reference is not None and batch.sides is not None
        gained = scores.sums - batch.reference[:, 0].to(scores.sums.dtype)
        good = batch.sides == 0
        value = torch.sigmoid(self.beta * torch.where(good, gained - baseline, baseline - gained))
        weights = torch.where(good, self.desirable_weight, self.undesirable_weight) * batch.scale
        rewards = (self.beta * gained).detach().double()
        parts = [
            torch.stack([rewards[which].sum(), which.sum().double()]) * batch.scale
            for which in (good, ~good)
        ]
        parts.append(torch.stack([baseline.double(), torch.ones_like(baseline).double()]))
        return Loss((weights * (1 - value)).sum(), torch.stack(parts))

    def _baseline(self, model: Any, batch: Batch) -> Tensor:
        """Return the divergence of the model from its start, in nats per response, at least 0."""
        import torch
        from torch import distributed

        shared = cast(Baseline, batch.shared)
        if shared.value is None:
            found = torch.zeros(2, dtype=torch.float64, device=batch.input_ids.device)
            for other in shared.batches:
                there = other.to(batch.input_ids.device)
                with torch.no_grad():
                    sums = sequence_scores(model, there).sums.double()
                assert there.reference is not None
                gained = (sums - there.reference) * other.scale
                found += torch.stack([gained.sum(), torch.ones_like(gained).sum() * other.scale])
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(found)
            shared.value = (found[0] / found[1]).clamp(min=0).to(torch.float32)
        return shared.value


def _mismatched(rows: TokenRows) -> TokenRows:
    """Return each prompt with the responses of the row about half of the data away."""
    return cast(TokenRows, _Mismatched(rows))


@dataclass
class _Mismatched:
    """A view of tokenised rows with exchanged responses, cut at the length of the longest row."""

    rows: TokenRows
    lengths: Any = field(init=False)
    span_counts: Any = field(init=False)
    kinds: Any = field(init=False)

    def __post_init__(self) -> None:
        rows, each = self.rows, self.rows.per_row
        places = np.arange(len(rows)).reshape(-1, each)
        # A prompt occurs in each sequence that the row has; the longest is that of one it has.
        prompts = rows.span_counts[:, Span.PROMPT].reshape(-1, each)
        self._prompts = np.repeat(places[:, 0] + prompts.argmax(axis=1), each)
        # One more than half: where all good answers come before all bad ones to the same prompts,
        # the row half of the data away has the same prompt.
        away = rows.data_rows // 2 + (rows.data_rows > 3)
        self._responses = np.roll(places, away, axis=0).ravel()
        counts = rows.span_counts[self._responses].copy()
        present = rows.lengths[self._responses] > 0
        counts[:, Span.PROMPT] = rows.span_counts[self._prompts, Span.PROMPT] * present
        room = int(rows.lengths.max()) - counts[:, Span.PROMPT]
        counts[:, Span.REFLECTION] = np.minimum(counts[:, Span.REFLECTION], room)
        counts[:, Span.ANSWER] = np.minimum(
            counts[:, Span.ANSWER], room - counts[:, Span.REFLECTION]
        )
        self.span_counts, self.lengths = counts, counts.sum(axis=1)
        self.kinds = rows.kinds[self._prompts]

    @property
    def data_rows(self) -> int:
        return self.rows.data_rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        prompt, response = self.rows[self._prompts[index]], self.rows[self._responses[index]]
        ids = np.concatenate([prompt.ids[: prompt.trigger], response.ids[response.trigger :]])
        counts = self.span_counts[index]
        spans = np.repeat(np.arange(len(Span), dtype=np.uint8), counts)
        return TokenRow(ids=ids[: counts.sum()], spans=spans, kind=int(self.kinds[index]))
