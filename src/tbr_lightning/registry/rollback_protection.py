"""The newest ledger entry that this installation wrote, to detect a ledger put back to before.

An earlier state was true once: chain and signatures hold, and the tracker's tag agrees where it was
put back as well. What this installation has itself written is beside its file of public keys,
where neither the ledger's database nor the tracker reaches.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tbr_lightning.data.cache import write_whole
from tbr_lightning.registry.entry import Entry
from tbr_lightning.tracking.signing import Keys


def remember(keys: Keys, ledger: str, entry: Entry) -> None:
    """Write down the newest entry; a failure is only reported, since the ledger has it already.

    Args:
        keys: Keys beside whose file it is kept.
        ledger: Address of the ledger, without user and password.
        entry: Entry that was just appended.
    """
    file = _file(keys, ledger, entry.model)
    seen = {"ledger": ledger, "model": entry.model, "seq": entry.seq, "hash": entry.hash}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(seen))
    except OSError as error:
        print(
            f"{file} cannot be written ({error.strerror}): the entry stands, and a ledger that is "
            "put back to a state before it would not be noticed here",
            file=sys.stderr,
        )


def put_back(keys: Keys, ledger: str, model: str, entries: Sequence[Entry]) -> str | None:
    """Return a sentence if a ledger lacks an entry that was written from here, else ``None``.

    Args:
        keys: As in :func:`remember`.
        ledger: As in :func:`remember`.
        model: Name of the registered model.
        entries: Entries of the ledger, the oldest first.
    """
    file = _file(keys, ledger, model)
    try:
        seen = json.loads(file.read_text(encoding="utf-8"))
        number, written = int(seen["seq"]), str(seen["hash"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file}, which says up to where the ledger was seen, cannot be read ({error})"
    if len(entries) >= number and entries[number - 1].hash == written:
        return None
    end = (
        f"ends at entry {len(entries)}" if len(entries) < number else f"has another entry {number}"
    )
    return (
        f"the ledger {end}, and entry {number} ({written[:16]}…) was written from here: it was put "
        f"back to an earlier state, or is another ledger (what was seen of it stands in {file})"
    )


def _file(keys: Keys, ledger: str, model: str) -> Path:
    name = hashlib.sha256(json.dumps([ledger, model]).encode()).hexdigest()[:32]
    return keys.public.with_name(f"{keys.public.name}.seen") / f"{name}.json"
