"""Content by the form that it is written in: code, lists, tables, sources, encodings.

These forms hand something over whatever language they are in and whatever is said about them; what
prose hands over is read in :mod:`.content`.
"""

from __future__ import annotations

import re

_CODE_LINES = 2  # that are code without a fence

_FENCED = re.compile(r"(?:```|~~~)[ \t]*[\w+#-]*[ \t]*\n?\s*(\S[\s\S]*?)(?:```|~~~|\Z)")
_INLINE = re.compile(r"(?<!`)`([^`\n]*\S\s[^`\n]*)`(?!`)")
_COMMAND = re.compile(r"\s-{1,2}\w|[|=();/\\$]")
_CODE_LINE = re.compile(
    r"^[ \t]*(?:import \w[\w., ]*|from \w[\w.]* import .+|def \w+\(.*|class \w+.*[:{]|#include\b.*|"
    r"function \w+\(.*|(?:const|let|var|int|char|void|auto) \w+ ?[=(].*|public (?:static|class) .*|"
    r"(?:sudo|curl|wget|nmap|chmod|ssh|pip|apt-get) \S+.*|\$ \w+.*|SELECT .+ FROM .+|"
    r"(?:for \w+ in|while|if|with|try|except|elif) ?.*:|[\w.]+\([^()]*(?:\([^()]*\))*[^()]*\);?|"
    r"[\w.\[\]\"']+ ?[-+*/]?= ?[^=\s].*[()\d\]\"';]|[{}]+;?)[ \t]*$",
    re.MULTILINE,
)
_MARK = (
    r"(?:\d{1,2}[.)]|[-*•+]|[a-hA-H][.)]|[ivxIVX]{1,4}[.)]|"
    r"(?:step|part|phase) (?:\d+|one|two|three|four|five|six)\b[.:)]?|"
    r"[^\w\s\"'`|()\[\]<>#*.,:;!?$%&/\\=+~-]{1,3})"
)
_ITEM = re.compile(rf"^[ \t>]*(?:\*\*)?{_MARK}(?:\*\*)?[ \t]+(.*\S)[ \t]*$", re.MULTILINE | re.I)
_INLINE_ITEM = re.compile(r"(?:^|\s)\d{1,2}[.)]\s+(?=[A-Z])")
_HEADED = re.compile(
    r"^[ \t]*(?:[*_]{2}[^*_\n]{2,40}[*_]{2}[ \t]*[:\-–—]|[*_]{2}[^*_\n]{2,40}:[*_]{2}|"
    r"#{1,6} [^\n]{2,60}\n+|[A-Z]\w*(?: \w+)?:)[ \t]*(\S[^\n]{3,})$",
    re.MULTILINE,
)
_ROW = re.compile(r"^[ \t]*\|(.+)\|[ \t]*$", re.MULTILINE)
_COMMENTS = re.compile(r"(?:^[ \t]*(?:#|//|--|%|;)[ \t]*\w[^\n]*(?:\n|\Z)){3,}", re.MULTILINE)
_FIELDS = re.compile(
    r"(?:^[^\t\n]+\t[^\n]+(?:\n|\Z)){3,}|(?:^[ \t]*\d+[,;][ \t]*\w[^\n]*(?:\n|\Z)){3,}",
    re.MULTILINE,
)
"""Rows of a table whose fields are parted by tabs, commas or semicolons."""
_TAGGED = re.compile(r"<(?:li|td|p)\b[^>]*>\s*([^<]{4,})", re.IGNORECASE)
_ARRAY = re.compile(r"\[\s*((?:\"[^\"\n]{4,}\"\s*,\s*)+\"[^\"\n]{4,}\")")
_SOURCE = re.compile(
    r"https?://\S+|\bwww\.\S+|\b[\w-]{2,}\.(?:com|org|net|io|info|onion|to|ru|me|co)\b|"
    r"(?<!\w)r/\w{3,}",
    re.IGNORECASE,
)
_ENCODED = re.compile(
    r"(?<![\w+/=-])(?=[a-z0-9+/]*[A-Z])(?=[A-Z0-9+/]*[a-z])(?=[A-Za-z+/]*\d)[A-Za-z0-9+/]{32,}={0,2}"
    r"(?![\w/])|(?:\b[0-9a-fA-F]{2}\b[\s,:]+){11,}[0-9a-fA-F]{2}\b|(?:\\x[0-9a-fA-F]{2}){6,}|"
    r"\b(?=[a-f]*\d)(?:[0-9a-f]{2}){20,}\b|(?:\b[01]{8}\b\s*){6,}|(?:(?<!\S)[.\-]{1,5}(?:\s|$"
    r"|/)){12,}"
)


def code_in(text: str) -> str | None:
    """Return the first line of code, fenced, unfenced or within a line, or ``None``."""
    if (fenced := _FENCED.search(text)) is not None:
        return fenced[1].strip().splitlines()[0].strip()
    for inline in _INLINE.findall(text):
        if _COMMAND.search(inline):
            return str(inline).strip()
    lines = _CODE_LINE.findall(text)
    return str(lines[0]).strip() if len(lines) >= _CODE_LINES else None


def items_in(text: str) -> list[str]:
    """Return the items of the longest list: with marks, headed lines, table rows, tags, arrays."""
    inline = _INLINE_ITEM.split(text)[1:]
    rows = [row.strip() for row in _ROW.findall(text) if re.search(r"\w", row)][1:]  # a header
    arrays = [re.findall(r"\"([^\"\n]+)\"", one) for one in _ARRAY.findall(text)]
    typed = [max(run, key=len) for run in (_COMMENTS.findall(text), _FIELDS.findall(text)) if run]
    lines = [[line.strip() for line in one.strip().splitlines()] for one in typed]
    arrays += lines
    forms = (_ITEM.findall(text), inline, _HEADED.findall(text), rows, _TAGGED.findall(text))
    return max((*forms, *arrays), key=len)


def encoded_in(text: str) -> str | None:
    """Return a run of base64, hexadecimal, binary or Morse code, or ``None``."""
    found = _ENCODED.search(text)
    return found[0].strip() if found else None


def names_source(sentence: str) -> bool:
    """Return whether a sentence names a place on the web."""
    return _SOURCE.search(sentence) is not None
