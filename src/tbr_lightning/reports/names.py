"""What models are called and how they look: the same in every figure, table and page.

A name is ``ARM (BASE, seed N)``, with a role before it and additions behind it, as in ``champion
v1: plain refusals (tiny, seed 0) with system prompt``. Figures whose models share base and seed
show the arms alone and say the rest once.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

COLOURS = ("#0072B2", "#AA1166", "#998800", "#222222", "#7799AA", "#4422BB", "#7A2A00", "#AA7777")
"""Of models, apart for colour-blind readers too. Green and orange say right and wrong."""

MARKERS = "osD^v<>P"
"""Beside the colours, so that a print in grey can be read."""

PLAIN, GENERAL, UNTUNED = "plain refusals", "general rows only", "untuned"
ASKED = "asked to reflect"
WAYS = {
    "prompted": ASKED,
    "forced": "made to reflect",
    "suppressed": "kept from reflecting",
}
"""How a model is asked, by ``generation.arm``."""

KNOWN = (
    PLAIN,
    "external reflections",
    "internal reflections",
    "filler reflections",
    "external reflections on every row",
    GENERAL,
    UNTUNED,
    f"{UNTUNED}, {ASKED}",
)
"""Arms whose look never depends on what else a figure shows."""

_TEACHERS = {"none": PLAIN, "external": KNOWN[1], "internal": KNOWN[2], "filler": KNOWN[3]}
"""Arms by the teacher's name, which is what a study's choices are called."""

_NAMED = re.compile(r"(?P<arm>[^()]+?) \((?P<of>[^()]+)\)(?P<rest>.*)", re.DOTALL)
_ROLE = re.compile(r"(champion|candidate|control|trial)( v?\d+)?: ")
_LOOKS = len(COLOURS) * len(MARKERS)
_NOTHING = ("", "0", "None", "none", "null")


@dataclass(frozen=True)
class Look:
    """Colour and marker of a model.

    Attributes:
        colour: Hexadecimal colour.
        marker: Marker of matplotlib.
    """

    colour: str
    marker: str


def arm_of(params: Mapping[str, str]) -> str:
    """Return what a training did, in words, from the params of its run."""
    teacher = params.get("reflection.teacher", "none")
    kinds = params.get("reflection.kinds", "")
    if teacher in _NOTHING:
        plain = params.get("data.harmful", "?") not in _NOTHING
        arm = PLAIN if plain else GENERAL
    else:
        arm = f"{teacher} reflections" + (" on every row" if "general" in kinds else "")
    count = params.get("data.look_alikes", "0")
    reasoned = "reasoned " if "look_alike" in kinds and arm not in (PLAIN, GENERAL) else ""
    if count not in _NOTHING:
        arm += f", {count} {reasoned}look-alikes"
    elif any(params.get(key, "") not in _NOTHING for key in _LOOK_ALIKES):
        arm += f", {reasoned}look-alikes"
    objective = params.get("objective._target_", "").rpartition(".")[2]
    return arm if objective in ("", "SFT") else f"{arm}, {objective}"


_LOOK_ALIKES = ("data.look_alike", "data.look_alike_source")


def with_role(role: str, name: str) -> str:
    """Return a name with what the model is there for: ``champion v1: NAME``."""
    return f"{role}: {name}"


def without_role(name: str) -> str:
    """Return a name without what the model is there for."""
    return _ROLE.sub("", name, count=1)


def arm_in(name: str) -> str:
    """Return what a name says of the arm: without role, base and seed, but with additions."""
    plain = without_role(name)
    part = _NAMED.fullmatch(plain)
    return plain if part is None else part["arm"] + part["rest"]


def untuned(base: str) -> str:
    """Return the name of a model as it comes."""
    return f"{UNTUNED} ({base})"


def base_of(name: str, hub_id: str | None, path: str | None) -> str:
    """Return what a base model is called: of ``model=hub`` its id, or its file or folder."""
    if name != "hub":
        return name
    if path and path not in _NOTHING:  # it comes before the id
        return PurePath(path).stem
    return hub_id if hub_id and hub_id not in _NOTHING else name


def over_seeds(name: str) -> str:
    """Return a model's name without its seed, for what is the mean over several."""
    return re.sub(r", seed \d+\)", ")", name, count=1)


def shared(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """Return the short form of each name, and what was left out since all have it in common.

    A model that is not tuned has no seed, and may stand beside others. Names that do not differ
    without it, and a single name, stay as they are.
    """
    every = list(names)
    parts = [_NAMED.fullmatch(name) for name in every]
    of = sorted({part["of"] for part in parts if part is not None}, key=len)
    one = len({base.partition(", seed ")[0] for base in of}) == 1 and len(of) < 3
    one = one and (len(of) == 1 or ", seed " not in of[0])
    short = [part["arm"] + part["rest"] if part is not None else "" for part in parts]
    if len(every) < 2 or None in parts or not one or len(set(short)) < len(every):
        return {name: name for name in every}, ""
    return dict(zip(every, short, strict=True)), of[-1]


def in_common(of: str) -> str:
    """Return in words what :func:`shared` left out; empty for nothing."""
    return f"base model of all: {of}" if of else ""


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return colour and marker of each name; no two of a figure look the same.

    An arm that this project knows always has the same look. Any other has one that its name
    decides, or where that is taken the next one in a colour that few others have.
    """
    every = list(dict.fromkeys(names))
    found: dict[str, int] = {}
    for name in sorted(every, key=lambda one: _teacher_or_arm(one) not in KNOWN):
        used = Counter(slot % len(COLOURS) for slot in found.values())
        rarest = min(used[place] for place in range(len(COLOURS)))
        start = _preferred(name)
        slots = [(start + step) % _LOOKS for step in range(_LOOKS)]
        free = [slot for slot in slots if slot not in found.values()]
        if start in free and _teacher_or_arm(name) in KNOWN:
            found[name] = start
        else:
            rare = (slot for slot in free if used[slot % len(COLOURS)] == rarest)
            found[name] = next(rare, start)
    return {name: _look(found[name]) for name in every}


def _teacher_or_arm(name: str) -> str:
    arm = arm_in(name)
    return _TEACHERS.get(arm, arm)


def _preferred(name: str) -> int:
    """Return the number of the look that a name would have by itself."""
    arm = _teacher_or_arm(name)
    return KNOWN.index(arm) if arm in KNOWN else zlib.crc32(arm.encode()) % _LOOKS


def _look(slot: int) -> Look:
    # The marker moves on with each round of colours: 64 looks, no two the same.
    rounds, place = divmod(slot, len(COLOURS))
    return Look(COLOURS[place], MARKERS[(place + rounds) % len(MARKERS)])


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
