"""Pointing at a place in a text: its line, and a caret below."""

from __future__ import annotations

import unicodedata

WIDTH = 76
"""Longest shown part of a line, in columns of a terminal."""
TAB = "    "
CUT = "..."


def point_at(source: str, position: int) -> str:
    """The line that holds the character `position`, and a line with a caret under that character.

    A position at or past the end points behind the last character. Tabs are shown as four spaces,
    other control characters as ``?``; wide characters count two columns and combining ones none. Of a
    line longer than `WIDTH` columns the part around the place is shown.
    """
    position = min(max(position, 0), len(source))
    start = source.rfind("\n", 0, position) + 1
    end = source.find("\n", position)
    line = source[start : len(source) if end < 0 else end].removesuffix("\r")
    at = min(position - start, len(line))
    before, after = [_shown(char) for char in line[:at]], [_shown(char) for char in line[at:]]
    left = _fitting(before[::-1], WIDTH // 2)[::-1]
    right = _fitting(after, WIDTH - sum(map(_width, left)))
    if len(right) == len(after):
        left = _fitting(before[::-1], WIDTH - sum(map(_width, right)))[::-1]
    head = (CUT if len(left) < len(before) else "") + "".join(left)
    tail = "".join(right) + (CUT if len(right) < len(after) else "")
    return f"{head}{tail}\n{' ' * _width(head)}^"


def line_and_column(source: str, position: int) -> tuple[int, int]:
    """Line and column of the character `position`, both counted from 1."""
    return source.count("\n", 0, position) + 1, position - source.rfind("\n", 0, position)


def _fitting(pieces: list[str], columns: int) -> list[str]:
    """As many of the first pieces as fit into `columns`."""
    for index, piece in enumerate(pieces):
        columns -= _width(piece)
        if columns < 0:
            return pieces[:index]
    return pieces


def _shown(char: str) -> str:
    if char == "\t":
        return TAB
    return "?" if unicodedata.category(char) in ("Cc", "Cs") else char


def _width(text: str) -> int:
    """Columns that a terminal takes for `text`."""
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def with_caret(message: str, source: str, position: int) -> str:
    """An error's message, and below it the place in `source` that it speaks of."""
    shown = "\n".join(f"    {line}" for line in point_at(source, position).splitlines())
    return f"{message}\n{shown}\n"
