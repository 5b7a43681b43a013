"""Which run goes on, and what is told when it cannot."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError
from tbr_lightning.training.resume import Interrupted, RunFolder, interrupted_run

from .conftest import config_of

IDS = ["a" * 32, "b" * 32, "c" * 32, "d" * 32]


def started(number: int, *words: str, age: float = 0) -> RunFolder:
    """Write what a run leaves that was started with these words ``age`` seconds ago."""
    folder = RunFolder(Path(".tbr/runs") / IDS[number])
    folder.begin(config_of(*words))
    folder.release()
    at = (folder.path / "config.yaml").stat().st_mtime - age
    os.utime(folder.path / "config.yaml", (at, at))
    return folder


def resumed(*words: str, run: str = "latest") -> Interrupted | None:
    return interrupted_run(config_of(*words, f"resume={run}"))


def id_of(found: Interrupted | None) -> str | None:
    return found and found.run_id


def test_latest_alone_starts_nothing() -> None:
    with pytest.raises(UserError, match="has no interrupted run"):
        resumed()
    assert resumed("seed=1") is None


def test_latest_is_the_newest_interrupted_run() -> None:
    started(0, age=30)
    started(1, age=10)
    started(2, age=20)
    assert id_of(resumed()) == IDS[1]


def test_latest_passes_over_what_is_finished_or_under_way() -> None:
    started(0, age=30)
    started(1, age=20).finish("models:/m-1")
    under_way = started(2, age=10)
    under_way.claim()
    assert id_of(resumed()) == IDS[0]
    under_way.release()
    assert id_of(resumed()) == IDS[2]


def test_latest_was_started_with_all_that_is_given_now() -> None:
    started(0, "seed=1", "trainer.epochs=3", age=30)
    started(1, "seed=2", age=20)
    started(2, age=10)
    assert id_of(resumed()) == IDS[2]
    assert id_of(resumed("seed=2")) == IDS[1]
    assert id_of(resumed("trainer.epochs=3", "seed=1")) == IDS[0]
    assert resumed("seed=3") is None


def test_where_it_is_tracked_may_have_moved_since() -> None:
    """What is not taken from the saved config is not compared either."""
    started(0, "tracking.uri=sqlite:///old.db", "seed=1")
    for words in ((), ("tracking.uri=sqlite:///new.db",), ("tracking=server",)):
        found = resumed("seed=1", *words)
        assert id_of(found) == IDS[0], words
        now = config_of(*words).tracking
        assert found is not None
        assert found.config.tracking == now
        assert id_of(resumed(*words, run=IDS[0])) == IDS[0]


def test_a_run_that_cannot_go_on_is_told_in_one_sentence() -> None:
    started(0, "seed=1").finish("models:/m-1")
    under_way = started(1)
    under_way.claim()
    started(2, "model=mistral", "data=microworld")
    for words, run, says in (
        ((), "e" * 32, "has no such run"),
        ((), "newest", "has no such run"),
        ((), IDS[0], "is finished: its model is models:/m-1"),
        ((), IDS[1], "still under way"),
        (("model=llama2_7b", "data=microworld"), IDS[2], "was not started with model=llama2_7b"),
    ):
        with pytest.raises(UserError) as caught:
            resumed(*words, run=run)
        assert says in str(caught.value)
        assert f"resume={run}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_run_id_goes_on_with_its_own_config() -> None:
    started(0, "seed=7", "trainer.epochs=9", "optimizer.lr=0.5")
    found = resumed(run=IDS[0])
    assert found is not None
    assert (found.config.seed, found.config.trainer.epochs) == (7, 9)
    assert found.config.optimizer.lr == 0.5


@pytest.mark.parametrize(
    "words",
    [
        ("data.general=7", "data.validation=0.1", "+tags={a.b: c}"),
        ("data=files", "data.general=x.json", "data.columns.instruction=ask"),
        ("model=mistral", "data=safety_mix", "data.harmful_source=y.json", "adapter=lora"),
        ("model=mistral", "adapter=lora", "adapter.target_modules=[q_proj,v_proj]"),
        ("trainer=deepspeed_zero3_offload", "trainer.threads=2"),
    ],
)
def test_a_config_comes_back_as_it_was(words: tuple[str, ...]) -> None:
    folder = started(0, *words)
    config = config_of(*words)
    back = folder.config(config)
    assert isinstance(back, TrainConfig)
    assert asdict(back) == asdict(config)
    assert type(back.data) is type(config.data)


@pytest.mark.parametrize("how", ["tracking.uri", "environment"])
def test_no_password_is_saved(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://me:secret@host/db"
    if how == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = [f"tracking.uri={uri}"] if how == "tracking.uri" else []
    folder = started(0, "seed=1", *words)
    for file in folder.path.iterdir():
        assert "secret" not in file.read_text()
    assert id_of(resumed("seed=1", *words)) == IDS[0]


@pytest.mark.parametrize("cut", ["config.yaml", "run.json"])
def test_a_run_that_died_while_it_began_is_passed_over(cut: str) -> None:
    started(0, age=30)
    dead = started(1)
    (dead.path / cut).write_text("")
    assert id_of(resumed()) == IDS[0]
    (dead.path / cut).unlink()
    assert id_of(resumed()) == IDS[0]
    with pytest.raises(UserError, match=f"resume={IDS[1]}"):
        resumed(run=IDS[1])


def test_a_config_of_another_version_is_told_and_passed_over() -> None:
    started(0, age=30)
    old = started(1)
    file = old.path / "config.yaml"
    file.write_text(file.read_text() + "colour: blue\n")
    assert id_of(resumed()) == IDS[0]
    with pytest.raises(UserError, match="another version") as caught:
        resumed(run=IDS[1])
    assert "\n" not in str(caught.value)


def test_a_run_goes_on_only_with_what_it_began_with() -> None:
    Path("g.json").write_text("[1]")
    Path("files").mkdir()  # as the data is called
    words = ("data=files", "data.general=g.json")
    started(0, *words)
    assert id_of(resumed(*words)) == IDS[0]
    Path("files/x").write_text("another")
    assert id_of(resumed(*words)) == IDS[0]
    Path("g.json").write_text("[2]")
    for run in ("latest", IDS[0]):
        with pytest.raises(UserError, match=rf"{IDS[0]}: data.general='.*g.json' has changed"):
            resumed(*words, run=run)
    Path("g.json").unlink()
    with pytest.raises(UserError, match="has changed"):
        resumed(*words)


def test_the_files_of_a_base_model_count() -> None:
    Path("base").mkdir()
    Path("base/config.json").write_text("{}")
    words = ("model=mistral", "model.path=base", "data=files", "data.general=g.json")
    Path("g.json").write_text("[1]")
    started(0, *words)
    Path("base/config.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"model\.path='.*base' has changed"):
        resumed(*words)
