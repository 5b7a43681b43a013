"""What surrounds a command, its folder's name and a job's run, does not become part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.tracking.open_run import start_run


def test_a_surrounding_run_is_ignored_and_never_changes(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = TrackingConfig(uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "a"))
    with start_run("train", "first", tracking, tracking) as first:
        pass
    before = mlflow.get_run(first.id).to_dictionary()
    for surrounding in (first.id, "0" * 32):
        monkeypatch.setenv("MLFLOW_RUN_ID", surrounding)
        with (
            pytest.raises(ValueError, match="lost"),
            start_run("train", "second", tracking, tracking) as second,
        ):
            raise ValueError("lost")
        assert second.id not in (first.id, surrounding)
        assert capsys.readouterr().err.count(f"MLFLOW_RUN_ID={surrounding} is ignored") == 1
    assert mlflow.get_run(first.id).to_dictionary() == before


@pytest.mark.parametrize("name", ["feature%2Fx", "was?"])
def test_a_folder_that_stores_cannot_take_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(UserError, match="holds % or"):
        compose_verb("train", ["model=tiny"])


@pytest.mark.parametrize("name", ["a b", "a#b", "été", "a=b", "[x]"])
def test_other_names_hold_their_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    config = compose_verb("train", ["model=tiny"]).config
    with start_run("train", "one", config, config.tracking) as opened:
        opened.log_text("x", "x.txt")
    assert (tmp_path / name / "mlflow.db").is_file()
    assert opened.text("x.txt") == "x"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_store_whose_making_was_interrupted_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_tables: Callable[[Path], None]
) -> None:
    monkeypatch.setattr("tbr_lightning.tracking.store._make_tables", make_tables)
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/new.db", artifacts=str(tmp_path / "a"))

    def interrupted(engine: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as within:
        within.setattr("mlflow.store.db.utils._upgrade_db", interrupted)
        with pytest.raises(KeyboardInterrupt), start_run("train", "x", tracking, tracking):
            pass
    assert not (tmp_path / "new.db").exists()
    with start_run("train", "y", tracking, tracking) as opened:
        opened.log_text("x", "x.txt")
    assert opened.text("x.txt") == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "new.db", "new.db.lock"]


def test_a_tracking_server_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    config = compose_verb("train", ["model=tiny"]).config
    with (
        pytest.raises(UserError, match=r"'\./mlruns', from the environment variable MLFLOW"),
        start_run("train", "x", config, config.tracking),
    ):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert compose_verb("train", ["model=tiny"]).config.tracking.uri == "sqlite:///mlflow.db"
