"""Damaged files: each store says which file it is, and what to do; none ends in a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.data.cache import built
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.store import ResponseStore
from tbr_lightning.models.generation import Generated
from tbr_lightning.reflection.store import reflection_store
from tbr_lightning.registry.entry import NewEntry
from tbr_lightning.registry.ledger import Ledger

from .support import made


@dataclass(frozen=True)
class Kept:
    """A store: what writes it, the file, and what reads and writes it again."""

    make: Callable[[Path], None]
    file: str
    use: Callable[[Path], object]


def _responses(folder: Path) -> object:
    store = ResponseStore(folder / "responses.db", "w")
    keys = [f"k{number}" for number in range(30)]
    list(store.keep(iter([(n, Generated("x" * 3000, 1, False)) for n in range(30)]), keys))
    return store.get(keys)


def _reflections(folder: Path) -> object:
    store = reflection_store(folder / "reflections.db")
    with store.writing():
        pass
    return store.get(["k"])


def _ledger(folder: Path) -> object:
    ledger = Ledger(f"sqlite:///{folder}/ledger.db", made.keys(folder))
    entries = ledger.entries("m")
    ledger.append("m", NewEntry("challenge", "1", {}, "w"), entries[-1] if entries else None)
    return ledger.problem(ledger.entries("m"))


def _sign(folder: Path) -> object:
    return made.keys(folder).sign(b"x")


def _connect(folder: Path) -> object:
    from tbr_lightning.tracking.store import connect

    return connect(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", experiment="x"))


def _tokens(folder: Path) -> object:
    def write(into: Path) -> None:
        (into / "ids.bin").write_bytes(bytes(range(256)) * 40)

    return built(folder / "key", write)


STORES = {
    "responses": Kept(_responses, "responses.db", _responses),
    "reflections": Kept(_reflections, "reflections.db", _reflections),
    "ledger": Kept(_ledger, "ledger.db", _ledger),
    "private key": Kept(_sign, "evidence.key", _sign),
    "public keys": Kept(_sign, "evidence.key.pub", _sign),
    "tokens": Kept(_tokens, "key/ids.bin", _tokens),
    "hashes of tokens": Kept(_tokens, "key/.digests.json", _tokens),
}


def _zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _garbage(file: Path) -> None:
    file.write_bytes(b"\xff\xfe not what was here \x00" * 200)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [_zeroed, _cut, _garbage, _folder])
@pytest.mark.parametrize("name", STORES)
def test_a_damaged_file_is_named_with_what_deleting_it_costs(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    store = STORES[name]
    store.make(tmp_path)
    for log in tmp_path.glob("*-wal"):
        log.unlink()
    damage(tmp_path / store.file)
    with pytest.raises(UserError) as told:
        store.use(tmp_path)
    assert Path(store.file).name.removeprefix(".digests.json") in str(told.value)
    assert any(word in str(told.value) for word in ("delete", "restore", "write one public key"))


@pytest.mark.parametrize("damage", [_zeroed, _garbage, _folder])
def test_a_damaged_tracking_store_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\x00" * 9)
    damage(tmp_path / "mlflow.db")
    with pytest.raises(UserError, match=r"mlflow\.db"):
        _connect(tmp_path)


def test_a_cache_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    _tokens(tmp_path)
    _garbage(tmp_path / "key" / "ids.bin")
    shutil.rmtree(tmp_path / "key")
    assert _tokens(tmp_path) == tmp_path / "key"
    assert _tokens(tmp_path) == tmp_path / "key"


def test_stores_of_answers_are_their_owners_alone(tmp_path: Path) -> None:
    _responses(tmp_path)
    _reflections(tmp_path)
    for name in ("responses.db", "reflections.db"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
