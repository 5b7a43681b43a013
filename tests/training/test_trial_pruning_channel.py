"""Questions and answers between a run and whoever may end it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from tbr_lightning.kinds import KINDS
from tbr_lightning.tracking.run import Run
from tbr_lightning.training.trial_pruning_channel import PruningChannel
from tbr_lightning.tuning import trial


def test_a_question_waits_for_its_answer(tmp_path: Path) -> None:
    channel, heard = PruningChannel(tmp_path, "m"), []

    def answer() -> None:
        while len(heard) < 2:
            for number, values in PruningChannel(tmp_path, "").reports(len(heard)):
                heard.append(values)
                channel.answer(number, stop=number == 1)
            time.sleep(0.01)

    thread = threading.Thread(target=answer)
    thread.start()
    assert channel.ask({5: 0.25}) is False
    assert not channel.pruned
    assert channel.ask({10: 0.5, 11: 1.5}) is True
    thread.join()
    assert heard == [{5: 0.25}, {10: 0.5, 11: 1.5}]
    assert channel.pruned
    channel.clear()
    assert not channel.pruned
    assert list(channel.reports()) == []


def test_without_an_answer_the_run_goes_on(tmp_path: Path) -> None:
    assert PruningChannel(tmp_path, "m", patience=0.1).ask({1: 0.0}) is False


def test_half_a_line_is_no_question_yet(tmp_path: Path) -> None:
    (tmp_path / "reports.jsonl").write_text("[0, [[1, 0.5]]]\n[1, [[2, 0.")
    assert list(PruningChannel(tmp_path, "m").reports()) == [(0, {1: 0.5})]


def test_prompts_stand_in_the_same_order_in_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(name: str, kind: str, label: str) -> list[object]:
        return [name, name, kind, "b", "c", "", None, "a", label, "", None, 1]

    columns = "id prompt kind benchmark category reference reflection answer label because right"
    rows = [
        row("z", "look_alike", "full_refusal"),
        row("a", "look_alike", "full_compliance"),
        row("m", "look_alike", "unparsed"),
        row("k", "harmful", "full_refusal"),
    ]
    table = json.dumps({"columns": [*columns.split(), "new_tokens"], "data": rows})
    monkeypatch.setattr(Run, "text", lambda run, file: table)
    assert "look_alike" in KINDS
    assert trial.answers_as_numbers("run", "false_refusal_rate") == [0.0, 0.5, 1.0]
