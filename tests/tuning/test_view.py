"""What a person sees of a study under way."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from tbr_lightning.tuning.space import active
from tbr_lightning.tuning.storage import open_study
from tbr_lightning.tuning.study import read_study
from tbr_lightning.tuning.view import View

STUDY = """
space: {a: {low: 0, high: 9}}
objectives: {r: minimize, s: maximize}
constraints: ["s >= 0.1"]
trials: 8
"""


def test_lines_counts_front_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study("s", "s.yaml", STUDY)
    opened = open_study(study, f"sqlite:///{tmp_path}/s.db")
    view = View(study, opened, budget=8, workers=2)
    assert view.eta({}) is None

    def tell(values: list[float] | None, state: TrialState | None = None, **more: object) -> None:
        trial = opened.study.ask(active(study.space, {}))
        for key, value in {"seconds": 10.0, "constraints": [0.0], **more}.items():
            trial.set_user_attr(key, value)
        opened.study.tell(trial, values, state=state)
        view.told(trial.number)

    with view.showing():
        tell([0.5, 0.9], intervals={"r": [0.4, 0.6]}, runs=[{"reused": True}])
        tell([0.6, 0.8])
        tell([0.1, 0.05], constraints=[0.05])
        tell([0.2, 0.3])
        tell(None, TrialState.FAIL, reason="out of memory")
        opened.study.ask(active(study.space, {}))
        view.tick({5: 4.0}, True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/8] trial 0: r 0.500 [0.400, 0.600], s 0.900  (a=")
    assert lines[0].endswith("taken from earlier runs")
    assert lines[2].endswith("breaks a constraint")
    assert "trial 4 failed: out of memory" in lines[4]
    view.look()
    assert view.counts == {"COMPLETE": 4, "FAIL": 1, "RUNNING": 1}
    assert [trial.number for trial in view.front] == [3, 0]
    # 3 trials of 10 s are left and 6 s of the one under way, by two at a time.
    assert view.eta({5: 4.0}) == pytest.approx((3 * 10 + 6) / 2)
