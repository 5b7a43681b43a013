"""Progress where nobody watches: lines in a log, the first soon, then twice a minute."""

from __future__ import annotations

import threading

import pytest

from tbr_lightning import progress


@pytest.mark.parametrize(
    ("done", "seconds", "told"),
    [
        (35, 35, "train: 35 of 100, 1/s, 0:01:05 left, loss 1.5"),
        (1, 40, "train: 1 of 100, 40 s each, 1:06:00 left, loss 1.5"),
        (0, 30, "train: 0 of 100 after 30 s"),
    ],
)
def test_a_line_has_count_pace_and_time_left(
    monkeypatch: pytest.MonkeyPatch, done: int, seconds: float, told: str
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = progress.Bar("train", 100)
    clock[0] += seconds
    for _ in range(done):
        shown.advance(note="loss 1.5")
    assert shown.line() == told


def test_a_log_has_lines_while_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_FIRST", 0.01)
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    told = ""
    with progress.bar("train", 100):
        while told.count("train: 0 of 100 after 1 s\n") < 2:
            told += capsys.readouterr().err


def test_a_log_has_lines_where_no_bar_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    monkeypatch.setattr(progress, "_SLACK", 0.0)
    told = ""
    with progress.alive("train"):
        while told.count(" so far\n") < 2:
            told += capsys.readouterr().err
    capsys.readouterr()
    threading.Event().wait(0.05)
    assert capsys.readouterr().err == ""  # it ended


def test_no_line_is_added_to_those_of_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_FIRST", 0.01)
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    monkeypatch.setattr(progress, "_SLACK", 60.0)  # a bar's line always comes first
    told = ""
    with progress.alive("train"), progress.bar("steps", 100):
        while told.count("steps: 0 of 100") < 3:
            told += capsys.readouterr().err
    assert "so far" not in told


def test_what_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(range(9), "x", 9)) == list(range(9))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (90, "90 s"), (330, "6 minutes"), (9000, "2.5 hours"), (7.2e6, "2,000 hours")],
)
def test_a_time_is_told_in_the_unit_that_a_person_would_take(seconds: float, told: str) -> None:
    assert progress.duration(seconds) == told
