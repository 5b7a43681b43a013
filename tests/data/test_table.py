"""Rows on disk: mapped, hashed by content, never half there; and their split by hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbr_lightning.data.cache import built
from tbr_lightning.data.example import Example
from tbr_lightning.data.sources import FilesData
from tbr_lightning.data.split import split
from tbr_lightning.data.table import Examples, stored
from tbr_lightning.errors import UserError

ROWS = [
    Example(f"Say {n}.", str(n), "harmful" if n % 5 == 0 else "general", "t", rejected="x")
    for n in range(2500)
]


def kept(folder: Path, rows: list[Example]) -> Examples:
    return stored(folder, "key", lambda _: iter(rows))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = kept(tmp_path, ROWS)
    assert list(rows) == ROWS
    assert (rows[7], rows[-1], list(rows[3:9:2])) == (ROWS[7], ROWS[-1], ROWS[3:9:2])
    assert rows.ids() == [row.id for row in ROWS]
    assert rows.column("response")[:3] == ["0", "1", "2"]
    assert rows.counts() == {"general": 2000, "harmful": 500}
    with pytest.raises(IndexError):
        rows[len(ROWS)]


def test_the_file_is_mapped_rather_than_read(tmp_path: Path) -> None:
    rows = kept(tmp_path, ROWS)
    (file,) = rows.dataset.cache_files
    assert Path(file["filename"]) == tmp_path / "examples" / "key" / "rows.arrow"
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert file["filename"] in mapped.read_text()


def test_the_digest_is_of_the_rows_wherever_they_are(tmp_path: Path) -> None:
    rows = kept(tmp_path, ROWS)
    assert rows.digest == Examples.of(ROWS).digest
    part = rows.select([4, 2])
    assert list(part) == [ROWS[4], ROWS[2]]
    assert part.digest == Examples.of([ROWS[4], ROWS[2]]).digest != rows.digest
    assert part.ids() == [ROWS[4].id, ROWS[2].id]
    assert part.counts() == {"general": 2}


def test_rows_are_made_once_and_what_was_left_out_is_remembered(tmp_path: Path) -> None:
    def make(left_out: Counter[str]) -> Iterator[Example]:
        left_out["odd"] += 3
        yield ROWS[0]

    assert stored(tmp_path, "key", make).left_out == {"odd": 3}
    assert stored(tmp_path, "key", lambda _: 1 / 0).left_out == {"odd": 3}  # type: ignore


def test_a_process_that_stops_halfway_leaves_nothing_to_find(tmp_path: Path) -> None:
    def stops(_: Counter[str]) -> Iterator[Example]:
        yield from ROWS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, "key", stops)
    assert list((tmp_path / "examples").iterdir()) == []
    # Not even where it had no time to clean up: what it wrote has another name until it is whole.
    (tmp_path / "examples" / ".key-killed").mkdir()
    assert list(kept(tmp_path, ROWS[:3])) == ROWS[:3]


def test_the_faster_of_two_processes_wins(tmp_path: Path) -> None:
    def write(partial: Path) -> None:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "first").touch()
        (partial / "second").touch()

    folder = built(tmp_path / "made", write)
    assert [file.name for file in folder.iterdir()] == ["first"]
    assert [file.name for file in tmp_path.iterdir()] == ["made"]


@pytest.mark.slow
def test_a_row_keeps_its_side_when_others_come(tmp_path: Path) -> None:
    few, many = Examples.of(ROWS[:1000]), Examples.of(list(reversed(ROWS)))
    sides = [split(rows, 0.2) for rows in (few, many)]
    for training, validation in sides:
        assert not set(training.ids()) & set(validation.ids())
        assert len(validation) == pytest.approx(0.2 * (len(training) + len(validation)), rel=0.2)
    assert set(sides[0][1].ids()) == set(sides[1][1].ids()) & set(few.ids())
    assert set(sides[1][1].ids()) < set(split(many, 0.4)[1].ids())
    assert sides[1][0].ids() == [key for key in many.ids() if key in set(sides[1][0].ids())]


def test_which_rows_are_held_out_is_the_same_in_every_version() -> None:
    """The second half of an id decides: a part of [0, 1), and below the share it is held out."""
    rows = Examples.of([row for row in ROWS[:20] if row.kind == "general"])
    for share, held_out in ((0.2, "1 3 11 13 17 19"), (0.5, "1 3 6 11 12 13 17 18 19")):
        training, validation = split(rows, share)
        assert [row.response for row in validation] == held_out.split()
        assert len(training) == len(rows) - len(validation)
    assert rows[2].id.endswith("2cd1d9fb")  # of "Say 3."
    above, below = split(rows, 0x2CD1D9FB / 2**32)  # its own part leaves it out
    assert [row.response for row in below] == ["1", "11", "17", "19"]
    assert "3" in [row.response for row in above]


def test_an_empty_side_is_told() -> None:
    rows = Examples.of(ROWS[:3])
    whole, none = split(rows, 0.0)
    assert (whole, len(none)) == (rows, 0)
    with pytest.raises(UserError, match="no validation row of 3"):
        split(rows, 1e-9)
    with pytest.raises(UserError, match="no training row of 3"):
        split(rows, 0.999999999)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_a_share_that_is_none_is_told(share: float) -> None:
    with pytest.raises(UserError, match=r"data\.validation"):
        FilesData(general="x.json", validation=share)
