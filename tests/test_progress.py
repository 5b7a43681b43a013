"""Progress where nobody watches: lines in a log, the first soon, then twice a minute."""

from __future__ import annotations

import pytest

from tbr_lightning import progress


def test_a_log_has_a_line_soon_and_then_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.bar("train", 100) as shown:
        for _ in range(100):
            clock[0] += 1
            shown.advance(note="loss 1.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"train: {n} of 100, 1/s, 0:0{left // 60}:{left % 60:02} left, loss 1.5"
        for n, left in ((5, 95), (35, 65), (65, 35), (95, 5))
    ]


def test_slow_items_are_told_by_the_seconds_that_each_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.bar("train", 3) as shown:
        clock[0] += 40
        shown.advance()
    assert capsys.readouterr().err == "train: 1 of 3, 40 s each, 0:01:20 left\n"


def test_what_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(range(9), "x", 9)) == list(range(9))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (90, "90 s"), (330, "6 minutes"), (9000, "2.5 hours"), (7.2e6, "2,000 hours")],
)
def test_a_time_is_told_in_the_unit_that_a_person_would_take(seconds: float, told: str) -> None:
    assert progress.duration(seconds) == told
