"""What vLLM is asked for, with a stand-in for the package: no machine of ours has both."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbr_lightning.models.decoding import Rules
from tbr_lightning.models.vllm_engine import decode_by_vllm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_the_type_that_the_evaluation_states(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    made: list[dict[str, Any]] = []

    class LLM:
        def __init__(self, **words: Any) -> None:
            made.append(words)

        def generate(self, part: list[Any], *_: Any, **__: Any) -> list[Any]:
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1, 2])]) for _ in part]

    monkeypatch.setitem(
        sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=lambda **words: words)
    )
    model = SimpleNamespace(to=lambda _: None, dtype=dtype)
    backbone: Any = SimpleNamespace(model=model, folder="x")
    assert list(decode_by_vllm(backbone, [[5]], Rules(4, (2,), 0))) == [(0, [1, 2])]
    assert made[0]["dtype"] == str(dtype).removeprefix("torch.")
