"""The ledger alone: appending, chaining, who is second, what is broken, wrong URLs."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.registry.entry import (
    BEGIN,
    Entry,
    Move,
    NewEntry,
    aliases_after,
    broken_link,
    canonical,
    models_after,
    spoken,
    weights_after,
    weights_of,
)
from tbr_lightning.registry.ledger import ConflictError, Ledger, ledger_url, unsigned

from ..support import made

FIRST = NewEntry("baseline", "1", {"champion": (None, "1")}, "first", ("r1",), {"1": "d1"})
SECOND = NewEntry("promote", "2", {"champion": ("1", "2"), "previous": (None, "1")}, "«better»")
THIRD = NewEntry(
    "rollback", "1", {"champion": ("2", "1"), "previous": ("1", "2")}, "worse after all"
)


def opened(folder: Path, name: str = "ledger.db", *, write: bool = True) -> Ledger:
    return Ledger(f"sqlite:///{folder}/{name}", made.keys(folder), write=write)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return opened(tmp_path)


def filled(ledger: Ledger) -> Ledger:
    head = None
    for draft in (FIRST, SECOND, THIRD):
        head = ledger.append("m", draft, head)
    return ledger


def test_what_is_appended_is_read_again_and_chained(ledger: Ledger) -> None:
    first, second, third = filled(ledger).entries("m")
    assert (first.seq, first.prev_hash, first.evidence) == (1, BEGIN, ["r1"])
    assert (second.why, second.prev_hash) == ("«better»", first.hash)
    assert third.hash == third.digest()
    assert broken_link([first, second, third]) is None
    assert aliases_after([first, second]) == {"champion": "2", "previous": "1"}
    assert aliases_after([first, second, third]) == {"champion": "1", "previous": "2"}
    assert weights_after([first, second, third]) == {"1": "d1"}
    assert ledger.entries("other") == []


def test_the_hash_is_of_the_entrys_json_as_every_version_writes_it() -> None:
    entry = Entry(
        model="m",
        seq=1,
        at="2026-01-02T03:04:05.678+00:00",
        who="me@here",
        action="promote",
        version="2",
        moves={"champion": (None, "2")},
        why="«better»",
        evidence=["r1"],
        weights={"2": "d"},
        prev_hash=BEGIN,
        hash="no matter",
        signature="no matter",
    )
    written = (
        '{"action":"promote","at":"2026-01-02T03:04:05.678+00:00","evidence":["r1"],"model":"m",'
        '"moves":{"champion":[null,"2"]},"prev_hash":"' + 64 * "0" + '","seq":1,"version":"2",'
        r'"weights":{"2":"d"},"who":"me@here","why":"\u00abbetter\u00bb"}'
    )
    assert entry.digest() == hashlib.sha256(written.encode("ascii")).hexdigest()
    assert entry.statement() == b"tbr ledger entry no matter"
    assert entry.mark == "1 no matter"
    assert entry.name == "entry 1 (promote by me@here, 2026-01-02T03:04:05.678+00:00)"
    assert canonical(entry.moves) == '{"champion":[null,"2"]}'


def test_versions_and_models_after_the_entries() -> None:
    def entry(action: str, weights: dict[str, str], moves: dict[str, Move]) -> Entry:
        return Entry("m", 1, "", "", action, "", moves, "", [], weights, "")

    first = entry("baseline", weights_of("1", "d1", "m-1"), {"champion": (None, "1")})
    second = entry("promote", weights_of("2", "d2", "m-2"), {"champion": ("1", None)})
    assert weights_after([first, second]) == {
        "1": "d1", "1/model": "m-1", "2": "d2", "2/model": "m-2"
    }  # fmt: skip
    assert models_after([first, second]) == {"1": "m-1", "2": "m-2"}
    assert aliases_after([first]) == {"champion": "1"} and aliases_after([first, second]) == {}
    anew = entry("anew", weights_of("1", "d3", "m-3"), {})
    assert models_after([first, second, anew]) == {"1": "m-3"}
    assert (spoken(None), spoken("3")) == ("none", "version 3")


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("model", "other"),
        ("at", "2020-01-01T00:00:00+00:00"),
        ("who", "nobody@nowhere"),
        ("action", "promote"),
        ("version", "9"),
        ("moves", {}),
        ("why", "other"),
        ("evidence", []),
        ("weights", {"1": "other"}),
        ("prev_hash", "1" * 64),
    ],
)
def test_every_field_is_under_the_hash(ledger: Ledger, field: str, other: object) -> None:
    first, *_ = filled(ledger).entries("m")
    assert getattr(first, field) != other
    changed = replace(first, **{field: other})
    assert changed.digest() != first.hash
    assert broken_link([changed]) is not None


def test_a_digest_from_before_the_registry_was_made_anew_counts_no_longer(ledger: Ledger) -> None:
    head = ledger.append("m", FIRST, None)
    ledger.append("m", NewEntry("anew", "", {"champion": ("1", None)}, "anew"), head)
    assert weights_after(ledger.entries("m")) == {}


def test_who_appends_after_an_entry_that_is_not_the_last_is_told(ledger: Ledger) -> None:
    first = ledger.append("m", FIRST, None)
    ledger.append("m", SECOND, first)
    with pytest.raises(ConflictError):
        ledger.append("m", SECOND, first)
    assert len(ledger.entries("m")) == 2


def test_the_table_has_the_form_that_other_databases_and_versions_know(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Widths count where PostgreSQL keeps the ledger; a column of any kind is never empty."""
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        columns = db.execute("PRAGMA table_info(tbr_ledger)").fetchall()
    assert [(name, kind, place) for _, name, kind, _, _, place in columns] == [
        ("model", "VARCHAR(255)", 1),
        ("seq", "INTEGER", 2),
        ("at", "VARCHAR(40)", 0),
        ("who", "TEXT", 0),
        ("action", "VARCHAR(40)", 0),
        ("version", "VARCHAR(20)", 0),
        ("moves", "JSON", 0),
        ("why", "TEXT", 0),
        ("evidence", "JSON", 0),
        ("weights", "JSON", 0),
        ("prev_hash", "VARCHAR(64)", 0),
        ("hash", "VARCHAR(64)", 0),
        ("signature", "TEXT", 0),
    ]
    assert all(required for _, _, _, required, _, _ in columns)
    assert [default for *_, default, _ in columns if default is not None] == ["''"]


def test_of_many_at_once_one_succeeds(tmp_path: Path) -> None:
    def attempt(_: int) -> bool:
        try:
            opened(tmp_path).append("m", FIRST, None)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert len(opened(tmp_path).entries("m")) == 1


def test_one_holds_the_others_off_and_all_can_read(tmp_path: Path, ledger: Ledger) -> None:
    filled(ledger)
    with ledger.alone("m"):
        assert len(ledger.entries("m")) == 3
        other = sqlite3.connect(tmp_path / "ledger.db", timeout=0.1)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE tbr_ledger SET why='other' WHERE seq=2", r"entry 2 \(promote by .* was changed"),
        ("UPDATE tbr_ledger SET who='eve' WHERE seq=1", r"entry 1 \(baseline by eve"),
        ("DELETE FROM tbr_ledger WHERE seq=2", "entry 2 is missing"),
        ("DELETE FROM tbr_ledger WHERE seq=1", "entry 1 is missing"),
    ],
)
def test_the_first_broken_link_is_named(
    tmp_path: Path, ledger: Ledger, change: str, says: str
) -> None:
    filled(ledger)
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute(change)
    told = broken_link(ledger.entries("m"))
    assert told is not None
    assert re.search(says, told)


def test_an_entry_with_a_hash_of_its_own_breaks_the_next(tmp_path: Path, ledger: Ledger) -> None:
    _, second, _ = filled(ledger).entries("m")
    forged = replace(second, why="forged")
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("UPDATE tbr_ledger SET why='forged', hash=? WHERE seq=2", [forged.digest()])
    assert "does not follow entry 2" in str(broken_link(ledger.entries("m")))


def test_a_move_from_where_the_alias_was_not_is_a_broken_link(ledger: Ledger) -> None:
    first = ledger.append("m", FIRST, None)
    ledger.append("m", NewEntry("promote", "3", {"champion": ("2", "3")}, "?"), first)
    assert "moves champion from version 2, but entry 1 left it at version 1" in str(
        broken_link(ledger.entries("m"))
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u@h/d", "mysql is not a supported database"),
        ("ledger.db", "is not a supported database"),
        ("sqlite://", "names no file"),
        ("sqlite:////absent/folder/ledger.db", "does not exist"),
        ("postgresql://eve:secret@127.0.0.1:PORT/x", "tracking.ledger=postgresql"),
    ],
)
def test_a_wrong_url_is_told_without_its_password(
    tmp_path: Path, url: str, says: str, closed_port: int
) -> None:
    with pytest.raises(UserError, match=says) as told:
        Ledger(url.replace("PORT", str(closed_port)), made.keys(tmp_path))
    assert "secret" not in str(told.value)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but long enough to be read as one" * 9)
    with pytest.raises(UserError, match="cannot be used: file is not a database"):
        opened(tmp_path)


def test_reading_makes_no_file(tmp_path: Path) -> None:
    assert opened(tmp_path, "none.db", write=False).entries("m") == []
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("uri", "ledger", "url"),
    [
        ("sqlite:///mlflow.db", None, "sqlite:///ledger.db"),
        ("sqlite:////data/x/mlflow.db", None, "sqlite:////data/x/ledger.db"),
        ("postgresql://h/d", None, "postgresql://h/d"),
        ("http://server:5000", None, "sqlite:///ledger.db"),
        ("sqlite:///mlflow.db", "postgresql://h/d", "postgresql://h/d"),
    ],
)
def test_the_ledger_is_beside_the_store_unless_it_is_named(
    uri: str, ledger: str | None, url: str
) -> None:
    assert ledger_url(TrackingConfig(uri=uri, ledger=ledger)) == url


def test_an_entry_is_signed_and_a_forged_one_is_told(tmp_path: Path, ledger: Ledger) -> None:
    entries = filled(ledger).entries("m")
    assert ledger.problem(entries) is None
    assert unsigned(entries) == 0
    forger = Ledger(f"sqlite:///{tmp_path}/ledger.db", made.keys(tmp_path / "forger"))
    last = forger.append(
        "m", NewEntry("promote", "9", {"champion": ("1", "9")}, "forged"), entries[-1]
    )
    told = str(ledger.problem(ledger.entries("m")))
    assert "entry 4 (promote by" in told and "not trusted here" in told
    # The sentence says what to do if the key is one's own.
    line = last.signature.partition(":")[0]
    assert f"add the line {line} to {made.keys(tmp_path).public}" in told
    with made.keys(tmp_path).public.open("a") as out:
        out.write(f"{line} the other machine\n")
    assert ledger.problem(ledger.entries("m")) is None


def test_an_entry_rewritten_with_fitting_hashes_is_not_as_it_was_signed(ledger: Ledger) -> None:
    first, *_ = filled(ledger).entries("m")
    forged = replace(first, why="forged")
    forged = replace(forged, hash=forged.digest())
    assert "is not as it was signed" in str(ledger.problem([forged]))
    assert "carries a signature that is none" in str(
        ledger.problem([replace(forged, signature="x")])
    )


def test_an_entry_without_signature_counts_only_before_the_signed_ones(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = filled(ledger).entries("m")
    old = [replace(one, signature="") for one in (first, second)]
    assert ledger.problem([*old, third]) is None
    assert unsigned([*old, third]) == 2
    told = str(ledger.problem([first, second, replace(third, signature="")]))
    assert "entry 3" in told and "carries no signature" in told
    # Who names a file of keys wants nothing that is not signed.
    monkeypatch.setenv("TBR_PUBLIC_KEYS", str(made.keys(tmp_path).public))
    assert "entry 1" in str(opened(tmp_path).problem([*old, third]))


def test_a_ledger_of_an_earlier_version_is_read_and_goes_on(tmp_path: Path) -> None:
    ledger = filled(opened(tmp_path))
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("ALTER TABLE tbr_ledger DROP COLUMN signature")
    entries = opened(tmp_path, write=False).entries("m")
    assert [entry.signature for entry in entries] == ["", "", ""]
    assert ledger.problem(entries) is None
    again = opened(tmp_path)
    again.append("m", NewEntry("accept", "1", {}, "mine"), entries[-1])
    assert [bool(entry.signature) for entry in again.entries("m")] == [False, False, False, True]


def test_who_is_second_to_add_the_column_of_signatures_goes_on(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, asked = Ledger._columns, list[int]()

    def before_the_other(self: Ledger) -> set[str]:
        asked.append(1)
        return columns(self) - ({"signature"} if len(asked) == 1 else set())

    monkeypatch.setattr(Ledger, "_columns", before_the_other)
    assert filled(opened(tmp_path)).entries("m")
    assert len(asked) > 1


def test_a_ledger_that_cannot_hold_signatures_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("CREATE VIEW tbr_ledger AS SELECT 'm' AS model, 1 AS seq")
    with pytest.raises(UserError, match="cannot be used"):
        opened(tmp_path)


def test_a_key_is_made_once_for_its_owner_alone_and_a_public_one_is_enough_to_check(
    tmp_path: Path, ledger: Ledger
) -> None:
    keys = made.keys(tmp_path)
    entries = filled(ledger).entries("m")
    assert keys.private.stat().st_mode & 0o777 == 0o600
    keys.private.unlink()
    assert ledger.problem(entries) is None
    assert not keys.private.exists()  # checking makes none
    keys.public.write_text("# nobody\n")
    assert "not trusted here" in str(ledger.problem(entries))
    keys.public.write_text("nonsense\n")
    with pytest.raises(UserError, match="is not 64 hexadecimal digits"):
        ledger.problem(entries)


def test_an_entry_that_is_copied_under_another_name_is_told(tmp_path: Path, ledger: Ledger) -> None:
    """A decision on one registered model is none on another, though a trusted key signed it."""
    filled(ledger)
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        names = [row[1] for row in db.execute("PRAGMA table_info(tbr_ledger)") if row[1] != "model"]
        columns = ", ".join(names)
        db.execute(
            f"INSERT INTO tbr_ledger (model, {columns}) SELECT 'other', {columns} FROM tbr_ledger"
        )
    assert ledger.problem(ledger.entries("m")) is None
    assert "was changed after it was written" in str(ledger.problem(ledger.entries("other")))
