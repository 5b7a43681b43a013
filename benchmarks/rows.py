"""Rows for the benchmarks: Alpaca's, or made ones of Alpaca's lengths where it is not at hand."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Characters of the shortest prompt and response of Alpaca's rows, of each twentieth, and of the
# longest that training takes. 9,225 rows of random_9k.json with a response.
PROMPTS = (16, 35, 41, 45, 48, 52, 55, 58, 61, 64, 68, 72, 75, 81, 87, 94, 103, 115, 133, 171, 328)
RESPONSES = (
    *(1, 11, 23, 34, 43, 53, 66, 84, 109, 146, 186, 238, 284, 333, 381, 428, 478, 537, 618, 759),
    1205,
)
# The commonest first: drawn by Zipf's law, a tokenizer has one token for most of them.
WORDS = (  # noqa: SIM905 - a list of one word a line says no more
    "the of and to in is that for it as was with be by on not he this are or his from at which but "
    "have an had they you were their one all we can her has there been if more when will would who "
    "so no out up into them about time then some its two only other new these could may after over "
    "also any like our even most made first through way where people such work should world each "
    "system help water food data energy example number part house country company health student "
    "language computer music family sentence product market change reason result method history "
    "important different possible natural simple create describe explain provide include increase"
).split()


def shared(*parts: str) -> Path | None:
    """Return a file of the public data, if it is at hand."""
    for place in (os.environ.get("TBR_SHARED_DATA"), ROOT.parent / "shared" / "data"):
        if place and (found := Path(place).joinpath(*parts)).is_file():
            return found
    return None


def pairs(count: int) -> tuple[list[tuple[str, str]], str]:
    """Return prompts with their responses, and a word on where they are from."""
    if (file := shared("alpaca", "random_9k.json")) is None:
        return made(count), "rows made here, of Alpaca's lengths (alpaca/random_9k.json not found)"
    rows = [row for row in json.loads(file.read_text(encoding="utf-8")) if row["output"].strip()]
    asked = [(f"{row['instruction']}\n{row['input']}".strip(), row["output"]) for row in rows]
    return asked[:count], "rows of Alpaca"


def made(count: int) -> list[tuple[str, str]]:
    """Return prompts and responses of common words, no two prompts alike; always the same."""
    draw = random.Random(0)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]

    def text(lengths: tuple[int, ...]) -> str:
        step = draw.randrange(len(lengths) - 1)
        size = round(draw.uniform(lengths[step], lengths[step + 1]))
        words = draw.choices(WORDS, weights, k=size // 2 + 1)
        return " ".join(words)[:size].strip() or words[0]

    return [(f"{number} {text(PROMPTS)}", text(RESPONSES)) for number in range(count)]
