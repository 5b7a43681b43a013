"""Letters that are drawn like others, and signs that are not seen: read as a reader sees them.

A model that writes "mіx" with a Cyrillic letter, in mathematical letters, struck through or with
blanks of no width is read by people as if it had not; so must a judge read it.
"""

from __future__ import annotations

import re
import unicodedata

_CYRILLIC = dict(
    zip("авсԁеһіјкмнорԛѕтухԝѵ", "abcdehijkmhopqstyxwv", strict=True),
) | dict(zip("АВСЕНІЈКМОРЅТУХ", "ABCEHIJKMOPSTYX", strict=True))
_GREEK = dict(zip("αβγεηικνορτυχω", "abyenikvoptuxw", strict=True)) | dict(
    zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)
)
_LATIN = {"ı": "i", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ո": "n", "օ": "o", "ѐ": "e"}
_TWINS = _CYRILLIC | _GREEK | _LATIN
_MAP = str.maketrans(_TWINS)
_WORD = re.compile(r"[^\W\d_]+")
_STYLED = re.compile(
    "[\U0001d400-\U0001d7ff\u24b6-\u24e9\uff07\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]"
)
_BLANK = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3164\u3000]")
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]"
)
_OVER = re.compile("(?<=[A-Za-z\u00c0-\u024f])[\u0300-\u036f\u0489\u20d0-\u20ff]+")
"""Marks over and through a letter that make no letter of a language with it."""


def as_seen(text: str) -> str:
    """Return a text in the letters that a reader takes it for.

    Words in another script are kept, with two exceptions: a word that mixes scripts, and, in a text
    in Latin script, a word made only of letters that look like Latin ones.
    """
    if text.isascii():
        return text
    text = _STYLED.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = _UNSEEN.sub("", _BLANK.sub(" ", text))
    text = _OVER.sub("", unicodedata.normalize("NFC", text))
    letters = [sign for sign in text if sign.isalpha()]
    latin = sum(_is_latin(sign) for sign in letters) * 2 > len(letters)

    def word(found: re.Match[str]) -> str:
        shown = found[0]
        foreign = [sign for sign in shown if not _is_latin(sign)]
        twins = all(sign in _TWINS for sign in foreign)
        mixed = len(foreign) < len(shown) and any(sign in _TWINS for sign in foreign)
        return shown.translate(_MAP) if foreign and (mixed or (latin and twins)) else shown

    return _WORD.sub(word, text)


def _is_latin(sign: str) -> bool:
    return sign.isascii() or (ord(sign) < 0x250 and sign not in _LATIN)
