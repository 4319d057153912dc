"""The characters of a class as a regex spells it: what stands between ``[`` and ``]``, or an escape."""

from __future__ import annotations

from dcmodel.constraints import chars
from dcmodel.constraints.chars import ANY, Chars

ESCAPES = {"d": chars.DIGITS, "w": chars.WORD, "s": chars.SPACES}
NEGATED_ESCAPES = {"D": chars.DIGITS, "W": chars.WORD, "S": chars.SPACES}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def escape_chars(letter: str) -> Chars:
    """Of ``\\d`` and the like; all characters where the letter is not known."""
    if letter in NEGATED_ESCAPES:
        return chars.all_but(NEGATED_ESCAPES[letter])
    return ESCAPES.get(letter, ANY)


def class_chars(body: str, *, negated: bool) -> Chars | None:
    """Of a class: exactly those below U+0080, and at least those above; None where it is not plain."""
    try:
        found = chars.union(_members(body))
    except (IndexError, ValueError):
        return None
    return chars.all_but(found) if negated else found


def _members(body: str) -> list[Chars]:
    """Raises `ValueError` for what is not plain: nested classes, set operations, properties."""
    if "[" in body.replace("\\[", "") or any(mark in body for mark in ("&&", "--", "~~")):
        raise ValueError(body)
    members: list[Chars] = []
    at = 0
    while at < len(body):
        item, at = _item(body, at)
        if isinstance(item, tuple):
            members.append(item)
        elif body[at : at + 1] == "-" and at + 1 < len(body):
            end, at = _item(body, at + 1)
            if isinstance(end, tuple) or end < item:
                raise ValueError(body)
            members.append(chars.char_range(item, end))
        else:
            members.append(chars.char_range(item, item))
    return members


def _item(body: str, at: int) -> tuple[str | Chars, int]:
    """A character or an escaped class, and where the next one begins."""
    if body[at] != "\\":
        return body[at], at + 1
    letter = body[at + 1]
    at += 2
    if letter in "dwsDWS":
        return escape_chars(letter), at
    if letter in CONTROLS:
        return CONTROLS[letter], at
    if letter in HEX_DIGITS:
        if body[at : at + 1] == "{":
            end = body.index("}", at)
            return chr(int(body[at + 1 : end], 16)), end + 1
        width = HEX_DIGITS[letter]
        return chr(int(body[at : at + width], 16)), at + width
    if letter.isalnum():
        raise ValueError(body)
    return letter, at
