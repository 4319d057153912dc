"""Short notations for long lists of words."""

from __future__ import annotations


def comma_words(text: str) -> tuple[str, ...]:
    """`a, b c, d` as a tuple."""
    return tuple(part.strip() for part in text.split(","))


def spaced_words(text: str) -> tuple[str, ...]:
    """`a b c` as a tuple."""
    return tuple(text.split())


def pairs(text: str) -> dict[str, str]:
    """`a=b, c=d` as a mapping."""
    entries = (part.split("=") for part in comma_words(text))
    return {key: value for key, value in entries}
