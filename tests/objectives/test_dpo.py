"""The preference loss against one written out row by row, and through the real entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.objectives.dpo import DPO
from tbr_lightning.objectives.kto import KTO
from tbr_lightning.training.batches import TrainBatches
from tbr_lightning.training.fit import Job, _reference

from ..training.conftest import TINY, config_of, tiny_model

ROWS = [
    Example("Harm one.", "No.", "harmful", "t", rejected="Yes, like this and that."),
    Example("Help me.", "Here is how.", "general", "t", rejected="I cannot."),
    Example("Harm two, at length.", "I will not.", "harmful", "t", rejected="Sure."),
]
REFLECTIONS = {row.id: "It hurts. So it is harmful." for row in ROWS if row.kind == "harmful"}


def pairs(folder: Path, backbone: Backbone, objective: DPO, limit: int = 400) -> TokenRows:
    return tokenise(
        Examples.of(ROWS),
        REFLECTIONS,
        backbone.tokenizer,
        ThinkFormat(),
        max_length=limit,
        cache=folder,
        sequences=objective.sequences,
        per_row=objective.sequences_per_row,
        form=objective.form,
    )


def log_probability(model: Any, row: Any, reflection: float = 1.0) -> torch.Tensor:
    ids, spans = torch.tensor(row.ids).long(), torch.tensor(row.spans)[1:]
    found = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    each = found.gather(1, ids[1:, None])[:, 0]
    return (each * ((spans == Span.REFLECTION) * reflection + (spans == Span.ANSWER) * 1.0)).sum()


def changed(model: Any) -> None:
    with torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


@pytest.mark.parametrize(
    "objective",
    [
        DPO(),
        DPO(beta=0.5, label_smoothing=0.1, reflect="both"),
        DPO(reflect="none"),
        DPO(reflection_weight=0.25),
    ],
    ids=["default", "smoothed, both reflect", "none reflects", "reflection weighs less"],
)
@pytest.mark.parametrize("form", ["padded", "packed"])
def test_loss_and_gradient_are_those_written_out(
    objective: DPO, form: str, tmp_path: Path, llama: Backbone
) -> None:
    rows, model = pairs(tmp_path, llama, objective), llama.model
    reference = objective.reference(model, rows, 0)
    with torch.no_grad():
        plain = [float(log_probability(model, row, objective.reflection_weight)) for row in rows]
    assert reference.tolist() == pytest.approx(plain, rel=1e-4)
    changed(model)
    (batch,) = TrainBatches(
        rows,
        objective,
        batch_size=3,
        accumulate=1,
        pad_id=0,
        seed=0,
        form=form,
        reference=reference,
    )
    model.zero_grad()
    found = objective.loss(model, batch)
    (found.total / batch.step_weight).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    expected = torch.zeros(())
    margins, sides = [], [0.0, 0.0]
    for number in range(3):
        rewards = [
            objective.beta
            * (log_probability(model, rows[i], objective.reflection_weight) - plain[i])
            for i in (2 * number, 2 * number + 1)
        ]
        margin = rewards[0] - rewards[1]
        margins.append(margin.item())
        sides = [total + reward.item() for total, reward in zip(sides, rewards, strict=True)]
        smooth = objective.label_smoothing
        expected = expected - (1 - smooth) * functional.logsigmoid(margin)
        expected = expected - smooth * functional.logsigmoid(-margin)
    (expected / 3).backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient, wanted, atol=1e-5)
    parts = dict(zip(objective.parts, found.parts.tolist(), strict=True))
    assert parts["preferences/margin"] == pytest.approx([sum(margins), 3], rel=1e-3)
    assert parts["preferences/chosen_reward"] == pytest.approx([sides[0], 3], rel=1e-3)
    assert parts["preferences/rejected_reward"] == pytest.approx([sides[1], 3], rel=1e-3)
    assert parts["preferences/accuracy"] == [sum(margin > 0 for margin in margins), 3]


def test_before_the_first_step_nothing_is_preferred(tmp_path: Path, llama: Backbone) -> None:
    objective = DPO()
    rows = pairs(tmp_path, llama, objective)
    reference = objective.reference(llama.model, rows, 0)
    (batch,) = TrainBatches(
        rows, objective, batch_size=3, accumulate=1, pad_id=0, seed=0, reference=reference
    )
    loss = objective.loss(llama.model, batch).total.item() / batch.step_weight
    assert loss == pytest.approx(0.693147, abs=1e-4)


def test_micro_batches_and_ranks_add_up_to_the_step(tmp_path: Path, llama: Backbone) -> None:
    objective = DPO()
    rows = pairs(tmp_path, llama, objective)
    reference = objective.reference(llama.model, rows, 0)
    changed(llama.model)

    def total(**more: int) -> float:
        settings = {"pad_id": 0, "seed": 0, "reference": reference, "accumulate": 1} | more
        made = [
            batch
            for rank in range(more.get("world", 1))
            for batch in TrainBatches(rows, objective, **settings | {"rank": rank})
        ]
        with torch.no_grad():
            losses = [objective.loss(llama.model, b).total.item() / b.step_weight for b in made]
        assert sum(objective.loss(llama.model, b).parts[0, 1].item() for b in made) == 3
        return sum(losses)

    whole = total(batch_size=4)
    assert total(batch_size=1, accumulate=4) == pytest.approx(whole, rel=1e-5)
    assert total(batch_size=2, world=2) == pytest.approx(whole, rel=1e-5)


def test_which_response_reflects(tmp_path: Path, llama: Backbone) -> None:
    def reflecting(reflect: str) -> list[bool]:
        rows = pairs(tmp_path, llama, DPO(reflect=reflect))
        return [bool(count) for count in rows.span_counts[:, Span.REFLECTION]]

    assert reflecting("chosen") == [True, False, False, False, True, False]
    assert reflecting("both") == [True, True, False, False, True, True]
    assert not any(reflecting("none"))


def test_a_pair_of_which_one_is_too_long_is_left_out_whole(tmp_path: Path, llama: Backbone) -> None:
    objective = DPO(reflect="none")
    whole = pairs(tmp_path, llama, objective)
    longest = int(whole.lengths[0:2].max())
    assert longest == whole.lengths.max()
    rows = pairs(tmp_path, llama, objective, limit=longest - 1)
    assert (rows.data_rows, rows.left_out, len(rows)) == (2, 1, 4)
    assert rows.data_kinds() == {"general": 1, "harmful": 1}


@pytest.mark.parametrize(
    ("rejected", "sentence"),
    [(None, "1 of 2 rows have no dispreferred response"), ("No.", "prefer a response to itself")],
)
def test_rows_that_are_no_pairs_are_refused(rejected: str | None, sentence: str) -> None:
    rows = Examples.of([ROWS[0], Example("Bad.", "No.", "harmful", "mine", rejected=rejected)])
    with pytest.raises(UserError, match=sentence):
        DPO().check_rows(rows)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beta": 0}, r"objective\.beta=0 is too small"),
        ({"label_smoothing": 0.7}, r"objective\.label_smoothing=0\.7 is out of range"),
        ({"reflect": "some"}, r"objective\.reflect='some' is not known"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DPO(**settings)


@pytest.mark.parametrize("objective", [DPO(), DPO(variant="ipo"), KTO()], ids=["dpo", "ipo", "kto"])
def test_a_reference_that_is_not_of_the_start_is_known(
    objective: Any, tmp_path: Path, llama: Backbone
) -> None:
    rows = pairs(tmp_path, llama, objective)
    kept = objective.reference(llama.model, rows, 0)
    assert objective.is_of_start(llama.model, rows, 0, kept)
    assert not objective.is_of_start(llama.model, rows, 0, kept[:-1])
    changed(llama.model)
    assert not objective.is_of_start(llama.model, rows, 0, kept)


def test_a_run_refuses_a_reference_of_another_start(tmp_path: Path) -> None:
    words = (
        "objective=dpo",
        "trainer.max_steps=1",
        "trainer.batch_size=2",
        "trainer.batching=padded",
    )
    config = config_of(*TINY, *words)
    backbone = tiny_model(tmp_path)
    rows = pairs(tmp_path, backbone, config.objective)
    job = Job(config, "r", "test", tmp_path, rows.folder, None, tmp_path)
    found = _reference(job, backbone, backbone.model, rows)
    assert found is not None
    assert _reference(job, backbone, backbone.model, rows).tolist() == found.tolist()
    file = next(tmp_path.glob("reference-*.npy"))
    np.save(file, found - 5)
    with pytest.raises(
        UserError, match=r"resume=r: the reference log-probabilities in .* are not those of the"
    ):
        _reference(job, backbone, backbone.model, rows)
    file.write_bytes(b"no array")
    with pytest.raises(UserError, match=r"cannot be read .*: delete it"):
        _reference(job, backbone, backbone.model, rows)
