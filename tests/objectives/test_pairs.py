"""What all preference objectives share, and rows that are not pairs."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.objectives.dpo import DPO
from tbr_lightning.objectives.kto import KTO, _mismatched
from tbr_lightning.objectives.objective import Objective
from tbr_lightning.objectives.orpo import ORPO
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.objectives.simpo import SimPO
from tbr_lightning.training.batches import TrainBatches
from tbr_lightning.training.prepare import reflected

from .test_dpo import REFLECTIONS, ROWS, changed

GOOD = Example("Name a river.", "The Rhine.", "general", "t")
BAD = Example("Harm three.", "", "harmful", "t", rejected="With pleasure.")
OBJECTIVES = [DPO(), DPO(variant="ipo"), SimPO(), ORPO(), KTO()]
NAMES = ["dpo", "ipo", "simpo", "orpo", "kto"]


def tokens(
    folder: Path, backbone: Backbone, objective: Objective, rows: list[Example] = ROWS
) -> TokenRows:
    return tokenise(
        Examples.of(rows),
        REFLECTIONS,
        backbone.tokenizer,
        ThinkFormat(),
        max_length=400,
        cache=folder,
        sequences=objective.sequences,
        per_row=objective.sequences_per_row,
        form=objective.form,
    )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_how_a_step_is_cut_changes_neither_loss_nor_gradient(
    objective: Any, tmp_path: Path, llama: Backbone
) -> None:
    rows = tokens(tmp_path, llama, objective, [*ROWS, GOOD, BAD] if objective == KTO() else ROWS)
    model, start = llama.model, deepcopy(llama.model)
    changed(start)  # the reference, so that the model is likelier and KTO's baseline above zero
    reference = objective.reference(start, rows, 0)

    def step(**more: Any) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        settings = {"pad_id": 0, "seed": 0, "reference": reference, "accumulate": 1} | more
        total = 0.0
        for rank in range(more.get("world", 1)):
            for batch in TrainBatches(rows, objective, **settings | {"rank": rank}):
                if isinstance(objective, KTO) and batch.shared.value is None:
                    # What a rank would hear from the others.
                    others = set(range(more.get("world", 1))) - {rank}
                    for other in others:
                        first = next(
                            iter(TrainBatches(rows, objective, **settings | {"rank": other}))
                        )
                        batch.shared.batches += first.shared.batches
                loss = objective.loss(model, batch).total / batch.step_weight
                loss.backward()
                total += loss.item()
                assert not isinstance(objective, KTO) or batch.shared.value > 0.1
        return total, torch.cat([p.grad.flatten() for p in model.parameters()])

    whole, gradient = step(batch_size=6)
    for layout in (
        {"batch_size": 1, "accumulate": 6},  # the last of which is empty
        {"batch_size": 3, "world": 2},
        {"batch_size": 6, "form": "packed"},
        {"batch_size": 2, "accumulate": 3, "form": "packed"},
    ):
        loss, other = step(**layout)
        assert loss == pytest.approx(whole, rel=1e-5)
        assert torch.allclose(other, gradient, atol=1e-5)


def test_a_response_may_stand_alone(tmp_path: Path, llama: Backbone) -> None:
    objective = KTO()
    objective.check_rows(Examples.of([GOOD, BAD]))
    rows = tokens(tmp_path, llama, objective, [GOOD, BAD, ROWS[0]])
    assert [bool(n) for n in rows.lengths] == [True, False, False, True, True, True]
    assert objective.totals(rows).tolist() == [1, 1, 2]
    batch = objective.collate(
        rows,
        [0, 1, 2],
        0,
        form="padded",
        step=objective.step_weights(objective.totals(rows), rows.kinds[::2]),
    )
    assert batch.sides is not None and batch.sides.tolist() == [0, 1, 0, 1]
    assert batch.step_weight == 4


def test_a_pair_whose_sides_both_reflect_is_one_row_with_a_reflection(
    tmp_path: Path, llama: Backbone
) -> None:
    one, both = (tokens(tmp_path, llama, DPO(reflect=how)) for how in ("chosen", "both"))
    assert reflected(one) == reflected(both) == sum(row.id in REFLECTIONS for row in ROWS) > 0


def test_the_baseline_reads_each_prompt_with_the_response_of_another_row(
    tmp_path: Path, llama: Backbone
) -> None:
    rows = tokens(tmp_path, llama, KTO(), [*ROWS, GOOD, BAD])
    other = _mismatched(rows)
    for row in range(5):
        for side in range(2):
            n, lent = 2 * row + side, 2 * ((row - 3) % 5) + side
            assert bool(other.lengths[n]) == bool(rows.lengths[lent])
            if not other.lengths[n]:
                continue
            made, source = other[n], rows[lent]
            own = rows[2 * row if rows.lengths[2 * row] else 2 * row + 1]
            room = int(rows.lengths.max()) - own.trigger
            assert list(made.ids[: made.trigger]) == list(own.ids[: own.trigger])
            assert list(made.ids[made.trigger :]) == list(source.ids[source.trigger :])[:room]
            assert len(made.ids) == len(made.spans) == other.lengths[n] <= rows.lengths.max()
            counts = np.bincount(made.spans, minlength=len(Span))
            assert counts.tolist() == other.span_counts[n].tolist()


@pytest.mark.parametrize(
    ("objective", "row", "sentence"),
    [
        (SFT(), BAD, "1 of 4 rows have no answer to learn, only one to avoid.*objective=kto"),
        (SimPO(), BAD, "1 of 4 rows have no preferred response.*objective=simpo learns from pairs"),
        (ORPO(), GOOD, "1 of 4 rows have no dispreferred response"),
        (KTO(), Example("a", "b", "general", "t", rejected="b"), "both good and bad"),
    ],
)
def test_rows_that_an_objective_cannot_use(objective: Any, row: Example, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        objective.check_rows(Examples.of([*ROWS, row]))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [([GOOD, GOOD], "none of the 2 rows has an undesirable"), ([BAD], "there is only one")],
)
def test_what_kto_cannot_learn_from(rows: list[Example], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        KTO().check_rows(Examples.of(rows))


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (DPO, {"variant": "hinge"}, r"objective\.variant='hinge' is not known"),
        (DPO, {"variant": "ipo", "label_smoothing": 0.1}, "is of variant=sigmoid"),
        (DPO, {"variant": "ipo", "answer_weight": 0}, "leaves objective=ipo nothing to average"),
        (SimPO, {"gamma": -1}, r"objective\.gamma=-1"),
        (ORPO, {"answer_weight": 0}, "leaves objective=orpo nothing to average"),
        (KTO, {"beta": 0}, r"objective\.beta=0 is too small"),
        (KTO, {"undesirable_weight": -1}, r"objective\.undesirable_weight=-1"),
    ],
)
def test_settings_that_cannot_be(kind: Any, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        kind(**settings)


@pytest.mark.parametrize("count", [2, 5])
def test_the_baseline_takes_no_response_to_the_same_prompt(
    tmp_path: Path, llama: Backbone, count: int
) -> None:
    """All good answers come first, and then all bad ones to the same prompts."""
    rows = [Example(f"Ask {n}.", f"Good {n}.", "general", "t") for n in range(count)]
    rows += [Example(f"Ask {n}.", "", "general", "t", rejected=f"Bad {n}.") for n in range(count)]
    other = _mismatched(tokens(tmp_path, llama, KTO(), rows))
    texts = [llama.tokenizer.decode(other[n].ids) for n in range(len(other)) if other.lengths[n]]
    assert len(texts) == 2 * count
    for text in texts:
        asked, said = re.findall(r"(?:Ask|Good|Bad) (\d)", text)
        assert asked != said
