"""Adapters that somebody else's PEFT made: each is a model, on a base that is found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.respond import load_model
from tbr_lightning.locate import BaseReference, missing_weights, reference_to
from tbr_lightning.models.backbone import Backbone, load_backbone, load_folder
from tbr_lightning.models.bases import folder_of_base
from tbr_lightning.models.config_facts import published_config
from tbr_lightning.models.export import export, load_adapter
from tbr_lightning.models.tokenizers import load_tokenizer

IDS = torch.arange(3, 40)[None]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def foreign(base: Path, folder: Path, *, named: str | None = None, **settings: Any) -> torch.Tensor:
    """Save an adapter as PEFT alone does, and return the logits of base and adapter together."""
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], **settings}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(folder)
    if named is not None:
        change(folder, base_model_name_or_path=named)
    return logits(adapted)


def change(folder: Path, **settings: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture
def base(backbone: Backbone, tmp_path: Path) -> Path:
    backbone.model.save_pretrained(tmp_path / "base")
    backbone.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def evaluated(folder: Path, cache: Path) -> Backbone:
    return load_model(f"{folder}", PathsConfig(str(cache / "c"), str(cache / "r"))).backbone


def trained(path: Path | str, cache: Path, *words: str) -> Backbone:
    config = compose_verb("train", ["model=hub", f"model.path='{path}'", *words]).config
    assert not missing_weights(config.model)
    return load_backbone(
        config.model, data="files", rows=(), cache=cache, seed=0, adapter=config.adapter
    )


def refused(path: Path | str) -> str:
    """Return the sentence of train, which is that of evaluate."""
    config = compose_verb("train", ["model=hub", f"model.path='{path}'"]).config
    (sentence,) = missing_weights(config.model)
    with pytest.raises(UserError) as told:
        load_model(f"{path}", PathsConfig("c", "r"))
    said = f"model='{path}'"
    assert str(told.value).replace(said, "@") == sentence.replace(f"model.path='{path}'", "@")
    assert "\n" not in sentence
    return sentence


def test_it_is_the_same_model_to_train_and_evaluate(base: Path, tmp_path: Path) -> None:
    expected = foreign(base, tmp_path / "adapter")
    assert not torch.allclose(expected, logits(AutoModelForCausalLM.from_pretrained(base)))
    for made in (
        evaluated(tmp_path / "adapter", tmp_path),
        trained(tmp_path / "adapter", tmp_path),
    ):
        assert torch.allclose(logits(made.model), expected, atol=1e-4)
        assert not hasattr(made.model, "peft_config")
        assert made.folder is None
        assert len(made.tokenizer) == len(load_folder(base, origin="b", thinks=False).tokenizer)


def test_the_dry_run_reads_config_and_tokenizer_of_the_base(base: Path, tmp_path: Path) -> None:
    foreign(base, tmp_path / "adapter")
    config = compose_verb("train", ["model=hub", f"model.path={tmp_path}/adapter"]).config.model
    found = published_config(config)
    assert found is not None
    assert found.hidden_size == AutoModelForCausalLM.from_pretrained(base).config.hidden_size
    assert load_tokenizer(config, data="files", rows=())[0].eos_token == "</s>"


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_one_end_of_a_tied_model_is_changed_alone(base: Path, tmp_path: Path, target: str) -> None:
    assert json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    expected = foreign(base, tmp_path / "adapter", target_modules=[target])
    made = evaluated(tmp_path / "adapter", tmp_path)
    assert torch.allclose(logits(made.model), expected, atol=1e-3)
    out = export(made, tmp_path / "out", dtype="float32")  # which compares what it has reloaded
    assert torch.allclose(logits(out.model), expected, atol=1e-3)


def test_a_larger_vocabulary_comes_with_the_adapter(base: Path, tmp_path: Path) -> None:
    reader = load_folder(base, origin="b", thinks=False).tokenizer
    reader.add_tokens(["<new>"])
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(reader), mean_resizing=False)
    model.config.tie_word_embeddings = True
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    adapted = get_peft_model(model, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    change(tmp_path / "adapter", base_model_name_or_path=str(base))
    reader.save_pretrained(tmp_path / "adapter")
    made = evaluated(tmp_path / "adapter", tmp_path)
    assert made.model.get_input_embeddings().weight.shape[0] == len(reader) == len(made.tokenizer)
    assert torch.allclose(logits(made.model), logits(adapted), atol=1e-4)


def test_another_base_does_not_fit(base: Path, tmp_path: Path) -> None:
    foreign(base, tmp_path / "adapter")
    other = load_backbone(
        compose_verb(
            "train",
            ["model.init=random", "model.tokenizer=bytes", "model.architecture.hidden_size=64"],
        ).config.model,
        data="files",
        rows=(),
        cache=tmp_path,
        seed=0,
    )
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    change(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(UserError, match="does not fit its base"):
        evaluated(tmp_path / "adapter", tmp_path)


def test_a_quantised_base_is_refused_for_an_adapter_on_an_adapter(
    base: Path, tmp_path: Path
) -> None:
    foreign(base, tmp_path / "adapter")
    with pytest.raises(UserError, match="adapter=qlora puts a new adapter on a quantised base"):
        trained(tmp_path / "adapter", tmp_path, "adapter=qlora")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (shutil.rmtree, ["there is no such folder"]),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(
                folder / "adapter_model.bin"
            ),
            ["no .safetensors file", "safe_serialization=True"],
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), ["cannot be read"]),
        (
            lambda folder: change(folder, base_model_name_or_path=None),
            ["names no base", "base_model_name_or_path"],
        ),
        (
            lambda folder: change(folder, base_model_name_or_path="/gone/away"),
            ["adapter of /gone/away", "not on this machine"],
        ),
        (lambda folder: change(folder, task_type="SEQ_CLS"), ["SEQ_CLS", "CAUSAL_LM"]),
        (lambda folder: change(folder, peft_type="PROMPT_TUNING"), ["PROMPT_TUNING", "merged"]),
        (
            lambda folder: change(folder, base_model_name_or_path=str(folder)),
            ["which is an adapter itself"],
        ),
    ],
)
def test_a_broken_adapter_gets_the_same_sentence_in_train_and_evaluate(
    base: Path, tmp_path: Path, break_it: Any, says: list[str]
) -> None:
    foreign(base, tmp_path / "adapter")
    break_it(tmp_path / "adapter")
    told = refused(tmp_path / "adapter")
    for part in says:
        assert part in told


def test_a_base_without_safetensors_is_named(base: Path, tmp_path: Path) -> None:
    foreign(base, tmp_path / "adapter")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "the base of" in refused(tmp_path / "adapter")


def _on_hub(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a base into the hub's cache as ``some/base``."""
    folder = home / "models--some--base"
    shutil.copytree(base, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.HF_HUB_CACHE"):
        monkeypatch.setattr(name, str(home), raising=False)
    for module in ("huggingface_hub._snapshot_download", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.constants.HF_HUB_CACHE", str(home), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder / "snapshots" / COMMIT


def test_a_base_of_the_hub_is_found_by_id_and_commit_once_its_path_is_gone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = _on_hub(base, tmp_path / "hub", monkeypatch)
    assert reference_to(snapshot) == BaseReference("some/base", COMMIT)
    elsewhere = str(snapshot).replace(str(tmp_path), "/another/machine")
    expected = foreign(base, tmp_path / "adapter", named=elsewhere)
    shutil.rmtree(base)
    made = evaluated(tmp_path / "adapter", tmp_path)
    assert torch.allclose(logits(made.model), expected, atol=1e-4)
    assert folder_of_base(Path(elsewhere), tmp_path / "adapter") == snapshot
    # An adapter that was trained here on the hub's snapshot names it so that others find it.
    whole = load_folder(snapshot, origin="some/base", thinks=False)
    tuned = get_peft_model(whole.model, LoraConfig(task_type="CAUSAL_LM", r=2))
    from dataclasses import replace

    export(replace(whole, model=tuned), tmp_path / "out", dtype="float32", form="adapter")
    kept = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (kept["base_model_name_or_path"], kept["revision"]) == ("some/base", COMMIT)
    again = load_adapter(tmp_path / "out", base=Path("/another/machine"))
    assert torch.allclose(logits(again.model), logits(tuned), atol=1e-5)


def test_a_base_that_is_nowhere_is_told(base: Path, tmp_path: Path) -> None:
    foreign(base, tmp_path / "adapter", named="/gone")
    with pytest.raises(UserError, match="base is not at /away, and no hub id is known"):
        folder_of_base(Path("/away"), tmp_path / "adapter")
