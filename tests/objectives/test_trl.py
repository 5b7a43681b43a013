"""Loss and gradient of every preference objective against TRL's trainers on the same batches."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat, TokenRow
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.objectives.dpo import DPO
from tbr_lightning.objectives.kto import KTO, _mismatched
from tbr_lightning.objectives.objective import Objective
from tbr_lightning.objectives.orpo import ORPO
from tbr_lightning.objectives.simpo import SimPO
from tbr_lightning.training.batches import TrainBatches

from .test_dpo import REFLECTIONS, ROWS, changed

pytestmark = pytest.mark.filterwarnings("ignore")

UNPAIRED = [
    *ROWS,
    Example("Name a river.", "The Rhine.", "general", "t"),
    Example("Harm three.", "", "harmful", "t", rejected="With pleasure."),
]
QUIET = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}


@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize(
    "objective",
    [
        DPO(beta=0.5),
        DPO(variant="ipo", beta=0.5, reflect="both"),
        SimPO(beta=2.0, gamma=0.7),
        SimPO(beta=1.0, gamma=0.3, label_smoothing=0.1, reflect="none"),
        ORPO(beta=0.4),
        KTO(beta=0.5, desirable_weight=0.8, undesirable_weight=1.3),
    ],
    ids=["dpo", "ipo", "simpo", "smoothed", "orpo", "kto"],
)
def test_loss_and_gradient_are_those_of_trl(
    objective: Any, form: str, tmp_path: Path, llama: Backbone
) -> None:
    rows: Any = tokenise(
        Examples.of(UNPAIRED if isinstance(objective, KTO) else ROWS),
        REFLECTIONS,
        llama.tokenizer,
        ThinkFormat(),
        max_length=400,
        cache=tmp_path,
        sequences=objective.sequences,
        per_row=2,
        form=objective.form,
    )
    if isinstance(objective, ORPO):  # TRL learns the prompt of the chosen response too; of one
        rows = _OneTokenPrompts(rows)  # token nothing is predicted
    tuned, start = llama.model, deepcopy(llama.model)
    changed(start)
    reference = objective.reference(start, rows, 0)
    theirs = deepcopy(tuned)
    expected = _trl(objective, theirs, start, llama.tokenizer, rows, tmp_path)
    expected.backward()
    (batch,) = TrainBatches(
        rows,
        objective,
        batch_size=rows.data_rows,
        accumulate=1,
        pad_id=0,
        seed=0,
        form=form,
        reference=reference,
    )
    found = objective.loss(tuned, batch).total / batch.step_weight
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    ours, wanted = _gradient(tuned), _gradient(theirs)
    assert float((ours - wanted).norm() / wanted.norm()) < 1e-4
    # At zero, where it is cut off, the baseline would not be compared.
    assert not isinstance(objective, KTO) or float(batch.shared.value) > 0.1


def _gradient(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def _trl(
    objective: Objective, model: Any, start: Any, tokenizer: Any, rows: Any, folder: Path
) -> torch.Tensor:
    """Return the loss that TRL's trainer computes of the same token ids."""
    # Seconds, which only the process that runs these tests should take.
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    texts = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2
    more: dict[str, Any] = {"output_dir": str(folder / "trl"), **QUIET}
    pairs = [(rows[2 * i], rows[2 * i + 1]) for i in range(rows.data_rows)]
    settings: Any
    trainer: Any
    if isinstance(objective, KTO):
        settings = KTOConfig(
            beta=objective.beta,
            desirable_weight=objective.desirable_weight,
            undesirable_weight=objective.undesirable_weight,
            per_device_train_batch_size=2,
            **more,
        )
        unpaired = [{"prompt": "a", "completion": "b", "label": label} for label in (True, False)]
        trainer = KTOTrainer(
            model=model,
            ref_model=start,
            args=settings,
            train_dataset=datasets.Dataset.from_list(unpaired),
            processing_class=tokenizer,
        )
        other = _mismatched(rows)
        examples = [
            _cut(rows[n], "completion_ids") | {"label": n % 2 == 0}
            for n in range(len(rows))
            if rows.lengths[n]
        ]
        lent = [_cut(other[n], "completion_ids") for n in range(len(rows)) if other.lengths[n]]
        # TRL joins a mismatched response to the prompt of a row; which is with which is no matter.
        inputs = trainer.data_collator([e | {"KL_completion_ids": [1]} for e in examples])
        joined = trainer.data_collator([one | {"label": True} for one in lent])
        for name in ("input_ids", "attention_mask", "completion_mask"):
            inputs[f"KL_{name}"] = joined[name]
        return trainer.compute_loss(model, inputs)
    data = datasets.Dataset.from_list(texts)
    if isinstance(objective, DPO):
        settings = DPOConfig(beta=objective.beta, loss_type=[objective.variant], **more)
        trainer = DPOTrainer(
            model=model,
            ref_model=start,
            args=settings,
            train_dataset=data,
            processing_class=tokenizer,
        )
        inputs = trainer.data_collator(
            [{**_cut(good, "chosen_ids"), **_cut(bad, "rejected_ids")} for good, bad in pairs]
        )
        return trainer.compute_loss(model, inputs)
    if isinstance(objective, SimPO):
        settings = CPOConfig(
            beta=objective.beta,
            loss_type="simpo",
            simpo_gamma=objective.gamma,
            label_smoothing=objective.label_smoothing,
            cpo_alpha=0.0,
            **more,
        )
        trainer = CPOTrainer(
            model=model, args=settings, train_dataset=data, processing_class=tokenizer
        )
    else:
        assert isinstance(objective, ORPO)
        settings = ORPOConfig(beta=objective.beta, **more)
        trainer = ORPOTrainer(
            model=model, args=settings, train_dataset=data, processing_class=tokenizer
        )
    batch: dict[str, torch.Tensor] = {}
    for side, sequences in zip(("chosen", "rejected"), zip(*pairs, strict=True), strict=True):
        batch |= _padded(side, sequences)
    model.train()
    return trainer.compute_loss(model, batch)


def _cut(row: TokenRow, name: str) -> dict[str, list[int]]:
    ids = [int(i) for i in row.ids]
    return {"prompt_ids": ids[: row.trigger], name: ids[row.trigger :]}


def _padded(side: str, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids, mask, labels = (np.full(shape, fill) for fill in (0, 0, -100))
    for line, row in enumerate(rows):
        ids[line, : len(row.ids)], mask[line, : len(row.ids)] = row.ids, 1
        labels[line, row.trigger : len(row.ids)] = row.ids[row.trigger :]
    named = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {f"{side}_{name}": torch.from_numpy(value) for name, value in named.items()}


@dataclass
class _OneTokenPrompts:
    """Tokenised rows of whose prompts only the last token is left."""

    rows: TokenRows

    def __post_init__(self) -> None:
        self.span_counts = self.rows.span_counts.copy()
        self.span_counts[:, Span.PROMPT] = 1
        self.lengths, self.kinds = self.span_counts.sum(axis=1), self.rows.kinds
        self.data_rows = self.rows.data_rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        row = self.rows[index]
        return TokenRow(row.ids[row.trigger - 1 :], row.spans[row.trigger - 1 :], row.kind)
