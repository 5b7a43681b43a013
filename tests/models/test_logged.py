"""What a logged model is called where people read of it."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import pytest

from tbr_lightning.models import logged
from tbr_lightning.models.logged import LoggedModel, called

ID = "m-" + "0123456789abcdef" * 2
TUNED = {"model.name": "tiny", "seed": "3"}


@pytest.mark.parametrize(
    ("params", "tags", "name"),
    [
        ({"reflection.teacher": "external"}, {}, "external reflections (tiny, seed 3)"),
        ({"reflection.teacher": "none"}, {}, "plain refusals (tiny, seed 3)"),
        (
            {"reflection.teacher": "none", "model.name": "hub", "model.path": "/x/smol.gguf"},
            {},
            "plain refusals (smol, seed 3)",
        ),
        (
            {"reflection.teacher": "none", "model.name": "hub", "model.hub_id": "Qwen/Qwen3-4B"},
            {},
            "plain refusals (Qwen/Qwen3-4B, seed 3)",
        ),
        # In the demo and in an arena it is the same model.
        (
            {"reflection.teacher": "none", "data.harmful": "0"},
            {"tbr.demo_arm": "general"},
            "general rows only (tiny, seed 3)",
        ),
    ],
)
def test_a_model_is_named_by_what_was_done_to_it_its_base_and_its_seed(
    params: dict[str, str], tags: dict[str, str], name: str
) -> None:
    run = SimpleNamespace(data=SimpleNamespace(params={**TUNED, **params}))
    with patch.object(logged, "MlflowClient", return_value=SimpleNamespace(get_run=lambda _: run)):
        assert called(LoggedModel(ID, "r", tags)) == name


def test_a_model_that_no_training_run_logged_has_a_short_id() -> None:
    run = SimpleNamespace(data=SimpleNamespace(params={}))
    with patch.object(logged, "MlflowClient", return_value=SimpleNamespace(get_run=lambda _: run)):
        assert called(LoggedModel(ID, "r", {})) == "m-01234567"
