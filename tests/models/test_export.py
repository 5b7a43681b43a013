"""What is exported loads again as the same model: by us, by transformers and by MLflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tbr_lightning.config.schema import AdapterConfig, TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.adapters import merged, with_adapter
from tbr_lightning.models.backbone import Backbone, load_folder
from tbr_lightning.models.export import export, load_adapter, merge_into, weights_digest
from tbr_lightning.models.hf_folder import hf_folder
from tbr_lightning.models.logged import find_model, log_model
from tbr_lightning.tracking.open_run import start_run

IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


@pytest.fixture
def tuned(backbone: Backbone, tmp_path: Path) -> Backbone:
    """A model with an adapter that changes it, on a base in a folder of its own."""
    backbone.model.save_pretrained(tmp_path / "base")
    backbone.tokenizer.save_pretrained(tmp_path / "base")
    base = load_folder(tmp_path / "base", backbone.think_format, origin="base", thinks=False)
    model = with_adapter(base.model, AdapterConfig(name="lora", r=2))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return replace(base, model=model)


def tensors(folder: Path) -> set[str]:
    return {
        name
        for file in folder.glob("*.safetensors")
        for name in safe_open(file, framework="pt").keys()  # noqa: SIM118
    }


def test_an_adapter_is_exported_alone_and_loads_onto_its_base(
    tuned: Backbone, tmp_path: Path
) -> None:
    expected, out = logits(tuned.model), tmp_path / "out"
    made = export(tuned, out, dtype="float32", form="adapter")
    assert torch.allclose(logits(made.model), expected, atol=1e-5)
    assert tensors(out)
    assert all("lora_" in name for name in tensors(out))
    assert (made.origin, made.folder) == (tuned.origin, tuned.folder)
    loaded = load_adapter(out)
    assert torch.allclose(logits(loaded.model), expected, atol=1e-5)
    assert loaded.think_format == tuned.think_format
    assert loaded.tokenizer.response_template == made.tokenizer.response_template


def test_an_adapter_whose_base_has_gone_is_told(tuned: Backbone, tmp_path: Path) -> None:
    export(tuned, tmp_path / "out", dtype="float32", form="adapter")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"is an adapter of .*base, which is not on this machine"):
        load_adapter(tmp_path / "out")
    assert load_adapter(tmp_path / "out", base=tmp_path / "moved")


def test_merging_gives_what_the_adapter_gives_on_its_base(tuned: Backbone, tmp_path: Path) -> None:
    expected = logits(tuned.model)
    export(tuned, tmp_path / "adapter", dtype="float32", form="adapter")
    merge_into(tmp_path / "adapter", tmp_path / "merged")
    whole = load_folder(tmp_path / "merged", origin="m", thinks=True)
    assert torch.allclose(logits(whole.model), expected, atol=1e-4)
    assert whole.think_format == tuned.think_format
    assert not [name for name in tensors(tmp_path / "merged") if "lora_" in name]
    assert whole.model.generation_config.max_new_tokens == tuned.think_format.max_new_tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_export_is_a_whole_model(tuned: Backbone, tmp_path: Path, dtype: str) -> None:
    expected = logits(tuned.model)
    made = export(tuned, tmp_path / "out", dtype=dtype)
    assert not hasattr(made.model, "peft_config")
    assert made.model.dtype == getattr(torch, dtype)
    off = (logits(made.model) - expected).norm() / expected.norm()
    assert off < (1e-4 if dtype == "float32" else 0.1)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(plain), logits(made.model))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert {str(file.get_tensor(n).dtype) for n in file.keys()} == {f"torch.{dtype}"}  # noqa: SIM118


def test_an_export_that_differs_is_refused(
    tuned: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: Any, **__: Any) -> Backbone:
        return load_folder(tmp_path / "base", tuned.think_format, origin="base", thinks=False)

    monkeypatch.setattr("tbr_lightning.models.export.load_adapter", other)
    with pytest.raises(RuntimeError, match="differs from the trained one"):
        export(tuned, tmp_path / "out", dtype="float32", form="adapter")


def test_an_empty_adapter_tensor_is_never_saved(tuned: Backbone, tmp_path: Path) -> None:
    layer = tuned.model.base_model.model.model.layers[0].mlp.up_proj.lora_A["default"]
    layer.weight = torch.nn.Parameter(torch.empty(0))
    with pytest.raises(RuntimeError, match=r"lora_A.*it has no elements"):
        export(tuned, tmp_path / "out", dtype="float32", form="adapter")
    assert not (tmp_path / "out").exists()


def test_the_digest_follows_the_weights(tuned: Backbone, tmp_path: Path) -> None:
    first = weights_digest(tmp_path / "base")
    assert first == weights_digest(tmp_path / "base")
    export(tuned, tmp_path / "out", dtype="float32")
    assert weights_digest(tmp_path / "out") != first


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_a_logged_model_loads_in_mlflow_transformers_and_evaluate(
    tuned: Backbone, store: Path, form: str
) -> None:
    expected = logits(tuned.model)
    made = export(tuned, store / "out", dtype="float32", form=form)
    tracking = TrackingConfig(
        uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "a"), experiment="x"
    )
    with start_run("train", "x", tuned.think_format, tracking):
        uri = log_model(made, "x", {"tbr.form": form})
    found = find_model(uri)
    assert found.tags["tbr.form"] == form
    folder = hf_folder(found, store / "models")
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder)), expected, atol=1e-4)
    assert load_folder(folder, origin="m", thinks=True).think_format == tuned.think_format
    assert AutoTokenizer.from_pretrained(folder).chat_template == made.tokenizer.chat_template
    assert hf_folder(found, store / "models") == folder
    kept = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(store / "got")))
    weights = [file for file in kept.rglob("*.safetensors") if tensors(file.parent)]
    alone = all("lora_" in name for file in weights for name in tensors(file.parent))
    assert alone == (form == "adapter")
    chat = mlflow.pyfunc.load_model(uri)
    answer = chat.predict({"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 3})
    assert isinstance(answer[0]["choices"][0]["message"]["content"], str)
    again = mlflow.transformers.load_model(uri, return_type="components")
    assert torch.allclose(logits(again["model"]), expected, atol=1e-4)
    assert json.dumps(again["tokenizer"].chat_template) == json.dumps(made.tokenizer.chat_template)


def test_a_slightly_wrong_export_is_refused() -> None:
    from tbr_lightning.models.export import _compare

    trained = torch.linspace(-5, 5, 40).reshape(1, 4, 10)
    _compare(trained, trained + 1e-6, torch.float32)
    with pytest.raises(RuntimeError, match="differs from the trained one"):
        _compare(trained, 1.02 * trained, torch.float32)
    with pytest.raises(RuntimeError, match="differs from the trained one"):
        _compare(trained, 1.3 * trained, torch.bfloat16)


def test_what_serves_the_export_pads_on_the_left_and_knows_the_end(
    tuned: Backbone, tmp_path: Path
) -> None:
    export(tuned, tmp_path / "out", dtype="float32", form="merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.padding_side == "left"
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    ends = settings["eos_token_id"]
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])
    assert settings["pad_token_id"] == tokenizer.pad_token_id is not None
    assert settings.get("bos_token_id") == tokenizer.bos_token_id
    assert settings["do_sample"] is False
    assert settings["max_new_tokens"] == tuned.think_format.max_new_tokens


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_merging_an_adapter_on_one_end_of_a_tied_model_changes_that_end_alone(
    backbone: Backbone, tmp_path: Path, target: str
) -> None:
    backbone.model.save_pretrained(tmp_path / "base")
    backbone.tokenizer.save_pretrained(tmp_path / "base")
    assert backbone.model.config.tie_word_embeddings
    config = AdapterConfig(name="lora", export="adapter", target_modules=[target])
    model = with_adapter(backbone.model, config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn_like(weight)
    tuned = replace(backbone, model=model.eval(), folder=tmp_path / "base")
    expected = logits(tuned.model)
    export(tuned, tmp_path / "adapter", dtype="float32", form="adapter")
    merge_into(tmp_path / "adapter", tmp_path / "merged")
    whole = load_folder(tmp_path / "merged", origin="m", thinks=True).model
    assert torch.allclose(logits(whole), expected, atol=1e-3)
    assert torch.allclose(logits(merged(tuned.model)), expected, atol=1e-3)
