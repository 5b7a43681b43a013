"""What all preference objectives share, and rows that are not pairs."""

from __future__ import annotations

import math
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
from tbr_lightning.objectives.pairs import Scores
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


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SimPO, {"gamma": 0}),
        (DPO, {"label_smoothing": 0.5}),
        (DPO, {"answer_weight": 0}),
        (KTO, {"desirable_weight": 0, "undesirable_weight": 0}),
        (SFT, {"trigger_weight": 0}),
        (SFT, {"normalise": "by_kind", "safety_weight": 0, "general_weight": 0.5}),
    ],
)
def test_settings_at_the_edge_of_what_can_be(kind: Any, settings: dict[str, Any]) -> None:
    made = kind(**settings)
    assert {name: getattr(made, name) for name in settings} == settings


def scored(*means: float) -> Scores:
    return Scores(torch.tensor(means, dtype=torch.float64).log(), torch.ones(len(means)).double())


def test_the_odds_of_likely_responses() -> None:
    """Of 0.8 against 0.5 the odds are 4 to 1; so both parts of the loss are -log 0.8."""
    nothing: Any = None
    loss, rewards = ORPO(beta=0.25).pair_losses(scored(0.8, 0.5), nothing)
    assert loss.tolist() == pytest.approx([-1.25 * math.log(0.8)])
    assert rewards[0].tolist() == pytest.approx([0.25 * math.log(0.8), 0.25 * math.log(0.5)])
    # Of what is certain the odds would be infinite.
    certain, _ = ORPO().pair_losses(scored(1.0, 0.5), nothing)
    assert certain.tolist() == pytest.approx([0], abs=1e-5)


def test_a_margin_of_means_by_hand() -> None:
    """Means 0.8 and 0.4 are apart by log 2, and so the reward of twice that by log 4."""
    nothing: Any = None
    loss, rewards = SimPO(beta=2.0, gamma=0).pair_losses(scored(0.8, 0.4), nothing)
    assert loss.tolist() == pytest.approx([-math.log(0.8)])
    assert rewards[0].tolist() == pytest.approx([2 * math.log(0.8), 2 * math.log(0.4)])
    held, _ = SimPO(beta=2.0, gamma=math.log(4)).pair_losses(scored(0.8, 0.4), nothing)
    assert held.tolist() == pytest.approx([math.log(2)])


def test_rewards_of_either_kind_of_response_are_counted(tmp_path: Path, llama: Backbone) -> None:
    objective = KTO(beta=0.5)
    rows = tokens(tmp_path, llama, objective, [GOOD, BAD, ROWS[0]])
    reference = objective.reference(llama.model, rows, 0)
    changed(llama.model)
    moved = objective.reference(llama.model, rows, 0)
    gained = 0.5 * (moved - reference)[:, 0]
    (batch,) = TrainBatches(
        rows, objective, batch_size=3, accumulate=1, pad_id=0, seed=0, reference=reference
    )
    parts = dict(
        zip(objective.parts, objective.loss(llama.model, batch).parts.tolist(), strict=True)
    )
    # Of the first row the second place is empty, and of the second the first.
    assert parts["preferences/chosen_reward"] == pytest.approx([gained[0] + gained[4], 2], rel=1e-3)
    assert parts["preferences/rejected_reward"] == pytest.approx(
        [gained[3] + gained[5], 2], rel=1e-3
    )
    assert parts["preferences/baseline"] == [batch.shared.value.item(), 1]


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
