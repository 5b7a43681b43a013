"""Bad input of ``train`` ends with exit code 2 and one sentence, before anything is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tbr_lightning import cli

OFFLINE = ("reflection=none", "data=microworld")
TINY = ("model.init=random", "model.scale=tiny", *OFFLINE)

cpu_only = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["optimizer.learning=1"],
            ["'optimizer.learning' is not a key", "did you mean 'optimizer.lr'"],
        ),
        (["trainer.zerostage=1"], ["did you mean 'trainer.zero_stage'"]),
        (["adaptor=lora"], ["'adaptor'", "did you mean 'adapter'"]),
        (["adapter=lorra"], ["adapter=lorra", "did you mean 'lora'"]),
        (["trainer=dpp"], ["trainer=dpp", "did you mean 'ddp'"]),
        (["trainer.zero_stage=4"], ["trainer.zero_stage=4", "use 1, 2 or 3"]),
        (["adapter=lora", "adapter.dropout=1.5"], ["adapter.dropout=1.5", "from 0 to 0.99"]),
        (["adapter=lora", "adapter.r=0"], ["adapter.r=0", "at least 1"]),
        (["data.validation=1"], ["data.validation=1", "nothing to train on"]),
        (["data.validation=-0.1"], ["data.validation=-0.1", "from 0 to 1"]),
        (["trainer.batching=pack"], ["trainer.batching='pack'", "did you mean 'packed'"]),
        (["trainer.precision=bf16"], ["trainer.precision='bf16'"]),
        (["trainer.accumulate=0"], ["trainer.accumulate=0", "at least 1"]),
        (["trainer.devices=2"], ["trainer.devices=2", "use trainer=ddp"]),
        (["objective.trigger_weight=-1"], ["objective.trigger_weight=-1", "at least 0"]),
        (["dry_run=true", "resume=latest"], ["dry_run=true", "leave resume out"]),
        (["resume=" + "0" * 32], ["resume=" + "0" * 32, "has no such run"]),
        (["resume=lates"], ["resume=lates", "give latest or the id"]),
        (["data.general=0", "data.harmful=0"], ["data=microworld has no training rows"]),
        (["data.harmful=100000"], ["lower data.general, data.harmful or data.look_alikes"]),
        (
            ["model=llama2_7b", *TINY, "model.max_length=4096"],
            ["model.max_length=4096", "context of llama2_7b (2048 tokens)"],
        ),
        (
            [
                "model=llama2_7b",
                *TINY,
                "model.architecture.model_type=falcon",
                "trainer.batching=packed",
            ],
            ["trainer.batching=packed: llama2_7b"],
        ),
        (
            ["data=files", "data.general=absent.json", "reflection=none"],
            ["data.general='absent.json'"],
        ),
        (["data=files", "reflection=none"], ["data.general and data.harmful are not set"]),
        (
            ["model=mistral", *OFFLINE, "model.path=./nowhere", "dry_run=true"],
            ["model.path='./nowhere': there is no such folder"],
        ),
        (
            ["model=mistral", *OFFLINE, "model.path=nowhere.gguf", "dry_run=true"],
            ["model.path='nowhere.gguf': there is no such file"],
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    words: list[str], says: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = refused(words, capsys)
    for part in says:
        assert part in told
    assert not (tmp_path / "mlflow.db").exists()


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run ``train`` and return the one sentence with which it refuses."""
    assert cli.main("train", words) == cli.USAGE_ERROR
    told = capsys.readouterr().err.strip()
    if told.startswith(
        ("train: a dry run of", "train: the run", "train: tiny", "train: mistral", "train: llama")
    ):
        told = told.partition("\n")[2]  # after the first line, on what would run
    if told.startswith("train: curves, while it runs: "):  # found out when it trains
        told = told.partition("\n")[2]
    assert "Traceback" not in told
    assert "\n" not in told
    return told


@cpu_only
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trainer=gpu"], "no NVIDIA driver: use trainer=cpu"),
        (["trainer=fsdp"], "no NVIDIA driver: use trainer=ddp"),
        (["adapter=qlora"], "adapter=qlora needs an NVIDIA GPU"),
        (["trainer.liger=true"], "trainer.liger=true needs an NVIDIA GPU"),
    ],
)
def test_what_needs_a_gpu_is_told_without_one(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused([*OFFLINE, *words], capsys)


def test_bytes_cannot_feed_pretrained_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").touch()
    words = [*OFFLINE, "model.path=m", "model.tokenizer=bytes"]
    assert "model.tokenizer=bytes cannot feed pretrained weights" in refused(words, capsys)


def rows(file: Path, count: int, **more: str) -> str:
    columns = [{"instruction": f"Say {i}.", "output": "Yes.", **more} for i in range(count)]
    file.write_text(json.dumps(columns))
    return str(file)


FILES = ("model=tiny", "model.scale=tiny", "model.init=random", "data=files", "reflection=none")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["data.columns.instruction=ask"],
            ["data.columns.instruction='ask'", "rows.json:1", "name one of"],
        ),
        (
            ["data.columns.response=reply"],
            ["data.columns.response='reply'", "rows.json:1", "name one of"],
        ),
        (["data.validation=0.0001"], ["leaves no validation row of 9", "raise it"]),
        (["data.validation=0.9999"], ["leaves no training row of 9", "lower it"]),
        (["model.max_length=16"], ["model.max_length=16: all 9 rows are longer"]),
        (
            ["objective.answer_weight=0"],
            ["objective.answer_weight=0", "leave no token of these rows to learn"],
        ),
        (
            ["adapter=lora", "adapter.target_modules=[nonesuch]"],
            ["adapter.target_modules=['nonesuch']", "use all-linear"],
        ),
    ],
)
def test_mistakes_about_rows_are_told(
    words: list[str], says: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = refused([*FILES, f"data.general={rows(tmp_path / 'rows.json', 9)}", *words], capsys)
    for part in says:
        assert part in told


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "9 of 9 rows have no dispreferred response, the first is 'Say 0.'"),
        ({"rejected": " "}, "9 of 9 rows have no dispreferred response"),
        ({"rejected": "Yes."}, "9 of 9 rows prefer a response to itself"),
    ],
)
@pytest.mark.parametrize("objective", ["dpo", "ipo", "simpo", "orpo"])
def test_rows_that_are_no_pairs_are_told_before_a_run_is_opened(
    objective: str,
    more: dict[str, str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    words = [f"data.general={rows(tmp_path / 'rows.json', 9, **more)}", f"objective={objective}"]
    told = refused([*FILES, *words], capsys)
    assert says in told and f"objective={objective} learns from pairs" in told
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "none of the 9 rows has an undesirable response: objective=kto learns from both"),
        ({"rejected": "Yes."}, "9 of 9 rows call a response both good and bad, the first is"),
    ],
)
def test_what_kto_cannot_learn_from_is_told_before_a_run_is_opened(
    more: dict[str, str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [f"data.general={rows(tmp_path / 'rows.json', 9, **more)}", "objective=kto"]
    assert says in refused([*FILES, *words], capsys)
    assert not (tmp_path / "mlflow.db").exists()


GRPO = ("model=tiny", "data=microworld", "reflection=none", "objective=grpo")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trainer=ddp", "trainer.devices=2"], "trainer.strategy=ddp with objective=grpo"),
        (["trainer=deepspeed_zero2"], "trainer.strategy=deepspeed with objective=grpo"),
        (["reflection=external"], "reflection=external with objective=grpo: the model writes"),
        (["data.validation=0.1"], "data.validation=0.1 with objective=grpo"),
        (["data.pairs=sampled"], "GRPO does not use dispreferred ones"),
        (["trainer.eval_every=5"], "trainer.eval_every=5 with objective=grpo"),
        (["trainer.batching=packed"], "trainer.batching=packed with objective=grpo"),
        (["trainer.batch_size=12"], "cannot be cut into groups of objective.generations=8"),
        (["objective.beta=0.1"], "objective.beta=0.1 needs the model as it started"),
        (["objective.temperature=0"], "objective.temperature=0 would draw the same answer"),
        (["objective.generations=1"], "objective.generations=1 is too small"),
        (["objective.reflect=[harm]"], "objective.reflect='harm' is not known"),
        (["objective.loss_type=ppo"], "objective.loss_type='ppo' is not known"),
    ],
)
def test_what_trl_does_not_do_here_is_told(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert says in refused([*GRPO, *words], capsys)
    assert not (tmp_path / "mlflow.db").exists()


def test_without_trl_its_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert "pip install 'tbr-lightning[rl]'" in refused([*GRPO], capsys)
