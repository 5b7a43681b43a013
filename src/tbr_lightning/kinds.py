"""The kinds of instruction: the one distinction that the whole project turns on."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["general", "harmful", "look_alike"]
"""``look_alike`` is benign but phrased like a harmful request."""

KINDS: tuple[Kind, ...] = get_args(Kind)
