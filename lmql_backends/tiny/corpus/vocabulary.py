"""Texts for learning merges: common words as they stand in JSON and in prose, without and with a blank."""

from __future__ import annotations

from collections.abc import Iterator

from lmql_backends.tiny.corpus import words
from lmql_backends.tiny.corpus.templates import KEYS

_REPEATS = 400


def word_texts() -> Iterator[str]:
    """Each word of the lists that become values, and each key, often enough to be whole in both places."""
    lists = (
        words.PRODUCTS,
        words.JOBS,
        words.COLOURS,
        words.MATERIALS,
        words.HOBBIES,
        words.WEATHER,
        words.TAGS,
    )
    values = {
        word for entry in (*lists, *words.CATEGORIES.values()) for text in entry for word in text.split()
    }
    keys = {part for names in KEYS.values() for name in names for part in name.split("_")}
    for word in sorted(values | keys):
        for _ in range(_REPEATS):
            yield f'"{word}", a {word}'
