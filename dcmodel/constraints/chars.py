"""Sets of characters as ranges of code points: exact below U+0080, and wide enough above."""

from __future__ import annotations

from collections.abc import Iterable

Chars = tuple[tuple[int, int], ...]
"""Ranges of code points, both ends included, ascending and apart."""

LAST = 0x10FFFF
NONE: Chars = ()
ANY: Chars = ((0, LAST),)
BEYOND_ASCII: Chars = ((0x80, LAST),)
SPECIAL: Chars = ((LAST + 1, LAST + 1),)
"""What stands for a special token, which is no character."""
DIGITS: Chars = ((48, 57), *BEYOND_ASCII)
WORD: Chars = ((48, 57), (65, 90), (95, 95), (97, 122), *BEYOND_ASCII)
SPACES: Chars = ((9, 13), (32, 32), *BEYOND_ASCII)


def union(sets: Iterable[Chars]) -> Chars:
    """Characters of any of the sets."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(part for chars in sets for part in chars):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def meet(one: Chars, other: Chars) -> bool:
    """Whether the sets share a character."""
    at = 0
    for low, high in one:
        while at < len(other) and other[at][1] < low:
            at += 1
        if at < len(other) and other[at][0] <= high:
            return True
    return False


def char_range(low: str, high: str) -> Chars:
    """From one character to another."""
    return ((ord(low), ord(high)),) if low <= high else NONE


def complement(chars: Chars) -> Chars:
    """All other characters."""
    gaps, start = [], 0
    for low, high in chars:
        if start < low:
            gaps.append((start, low - 1))
        start = high + 1
    return (*gaps, (start, LAST)) if start <= LAST else tuple(gaps)


def all_but(chars: Chars) -> Chars:
    """All other characters; those beyond ASCII stay, since the set may hold too many of them."""
    return union((complement(chars), BEYOND_ASCII))


def ignoring_case(chars: Chars) -> Chars:
    """With the other case of each letter, and everything beyond ASCII where letters have odd twins."""
    turned = []
    for low, high in chars:
        for start, end, shift in ((65, 90, 32), (97, 122, -32)):
            first, last = max(low, start), min(high, end)
            if first <= last:
                turned.append((first + shift, last + shift))
        # Beyond ASCII, a letter's twin may be within.
        if high >= 0x80:
            turned.append((0, LAST))
    return union((chars, tuple(turned), BEYOND_ASCII)) if turned else chars


def ascii_count(chars: Chars) -> int:
    """How many of the characters are below U+0080."""
    return sum(min(high, 0x7F) - low + 1 for low, high in chars if low < 0x80)
