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
        ({"reflection.teacher": "external"}, {}, "tiny, reflection external, seed 3"),
        ({"reflection.teacher": "none"}, {}, "tiny, without reflection, seed 3"),
        # Arms of the demo: those that are their reflections need no other name.
        ({"reflection.teacher": "external"}, "external", "tiny, reflection external, seed 3"),
        ({"reflection.teacher": "none"}, "none", "tiny, without reflection, seed 3"),
        ({"reflection.teacher": "none"}, "general", "tiny, arm general, seed 3"),
        ({"reflection.teacher": "external"}, "every", "tiny, arm every, seed 3"),
    ],
)
def test_a_model_is_named_by_base_reflections_and_seed(
    params: dict[str, str], tags: dict[str, str] | str, name: str
) -> None:
    tags = {"tbr.demo_arm": tags} if isinstance(tags, str) else tags
    run = SimpleNamespace(data=SimpleNamespace(params={**TUNED, **params}))
    with patch.object(logged, "MlflowClient", return_value=SimpleNamespace(get_run=lambda _: run)):
        assert called(LoggedModel(ID, "r", tags)) == name


def test_a_model_that_no_training_run_logged_has_a_short_id() -> None:
    run = SimpleNamespace(data=SimpleNamespace(params={}))
    with patch.object(logged, "MlflowClient", return_value=SimpleNamespace(get_run=lambda _: run)):
        assert called(LoggedModel(ID, "r", {})) == "m-01234567"
