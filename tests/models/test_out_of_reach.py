"""A hub that does not answer is found out at once, in place of a minute of retries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from tbr_lightning.locate import out_of_reach


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], list[str]]:
    """Let the hub answer, or raise; return what it was asked for."""

    def answering(error: BaseException | None) -> list[str]:
        names: list[str] = []

        def model_info(self: HfApi, name: str, **more: Any) -> None:
            names.append(name)
            assert 0 < more["timeout"] <= 10
            if error is not None:
                raise error

        monkeypatch.setattr(HfApi, "model_info", model_info)
        return names

    return answering


def test_only_silence_is_out_of_reach(asked: Callable[[BaseException | None], list[str]]) -> None:
    asked(None)
    assert not out_of_reach("owner/model", None)
    refused = HfHubHTTPError.__new__(HfHubHTTPError)  # it answered: there is no such model
    refused.response = object()  # type: ignore[assignment]
    asked(refused)
    assert not out_of_reach("owner/model", None)
    asked(ConnectionError("no route"))
    assert out_of_reach("owner/model", None)


def test_a_folder_needs_no_hub(
    asked: Callable[[BaseException | None], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = asked(ConnectionError("no route"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert not out_of_reach("weights", None)
    assert not out_of_reach(str(tmp_path), None)
    assert names == []
