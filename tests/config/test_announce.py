"""The first line of a command, which comes before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tbr_lightning.config.announce import first_line
from tbr_lightning.config.compose import compose_verb

CHEAP = ["tracking.uri=sqlite:///x.db"]


@pytest.mark.parametrize(
    ("verb", "words", "says"),
    [
        ("train", ["seed=7"], "train: tiny, reflection external, seed 7; logged to sqlite:///x.db"),
        ("train", ["dry_run=true"], "train: a dry run of tiny, reflection external, seed 0"),
        ("train", ["model=hub", "model.path=/x/y"], "train: /x/y, reflection external"),
        ("evaluate", ["model=[a,b]"], "evaluate: a and b on smoke, test half; logged to"),
        ("promote", ["model=models:/m-1", "name=n"], "models:/m-1 against the champion of n"),
        ("serve", ["beside=previous", "port=81"], "at http://127.0.0.1:81 with previous beside it"),
        ("export", ["model=models:/n/3", "to=gguf"], "export: models:/n/3 to gguf"),
        ("sweep", [], "sweep: the study smoke"),
        ("demo", ["demo.seeds=2"], "demo: 8 arms of tiny, seeds: 2; logged to"),
    ],
)
def test_it_says_what_runs_where_it_is_logged_and_on_what(
    verb: str, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    told = first_line(verb, compose_verb(verb, [*CHEAP, *words]).config)
    assert told is not None and says in told
    assert told.endswith("nothing is trained or logged" if "dry" in told else "; on the CPU")


def test_a_password_is_not_shown_and_other_ranks_are_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = compose_verb("train", ["tracking.uri=https://me:secret@host/x"]).config
    told = first_line("train", config)
    assert told is not None and "secret" not in told
    monkeypatch.setenv("RANK", "1")
    assert first_line("train", config) is None


def test_nothing_heavy_is_imported_before_it(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tbr_lightning import cli\n"
        "def stop(*_): sys.exit(bool({'torch', 'mlflow', 'lightning'} & set(sys.modules)))\n"
        "cli.signal.signal = stop  # what comes next\n"
        "cli.main('train')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.startswith("train: tiny, reflection")) == (0, True)
