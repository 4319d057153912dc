"""Pronounceable invented names, split by a hash into those of the training set and those held out."""

from __future__ import annotations

import random
import zlib
from enum import Enum

from lmql_backends.tiny.corpus import words
from lmql_backends.tiny.corpus.facts import CAPITALS
from lmql_backends.tiny.corpus.lists import spaced_words

_ONSETS = [
    *(spaced_words("b c d f g h j k l m n p r s t v w z") * 3),
    *spaced_words("br cr dr fr gr kr pr tr bl cl fl gl pl sl sh ch th st sk sp sw sn qu y x"),
    *("", "", ""),
]
_VOWELS = [*(spaced_words("a e i o u") * 4), *spaced_words("ai ea ie ou oa ee oo y au ei")]
_CODAS = [*([""] * 24), *spaced_words("n r l s t m k d x th nd rt lk ng ck st ll ss rn lm")]
_FIRST_ENDINGS = spaced_words("a o e i us an en in on el is ia io ette ina ari wen ra la na ka ius ora")
_LAST_ENDINGS = spaced_words(
    "son sen ov ova ski man er ez ini ard ley ton well ford by ett ing ano eau stein wood"
)
_CITY_ENDINGS = spaced_words(
    "ton ville burg dale ford ham mouth port stad heim bridge field wick grad by holm haven minster moor den "
    "ia a o"
)
CITY_PREFIXES = spaced_words("Port New Saint North South East West Lake Mount Bad San El")
_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_HELD_OUT_ONE_IN = 8
# What stands in training texts whatever its hash.
_REAL = (
    *words.FIRST_NAMES,
    *words.LAST_NAMES,
    *words.CITIES,
    *words.COUNTRIES,
    *CAPITALS,
    *CAPITALS.values(),
)
_REAL_WORDS = {word.lower() for name in (*_REAL, *words.TITLE_NOUNS) for word in name.split()}


class Split(Enum):
    """Which half of the world a document belongs to."""

    TRAIN = "train"
    HELD_OUT = "held-out"


def split_of(word: str) -> Split:
    """The side that a word or text falls on, by its hash: the two sets are disjoint by construction."""
    held_out = zlib.crc32(word.lower().encode()) % _HELD_OUT_ONE_IN == 0
    return Split.HELD_OUT if held_out else Split.TRAIN


class NameMaker:
    """Draws names of one split: held-out ones are all invented, those of training are also real ones."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._split = split
        self._real_share = 0.2 if split is Split.TRAIN else 0.0

    def _syllable(self) -> str:
        rng = self._rng
        return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)

    def word(self, endings: tuple[str, ...] | None = None) -> str:
        """An invented word, capitalised, four to ten letters long."""
        rng = self._rng
        while True:
            if rng.random() < 0.04:
                stem = "".join(rng.choice(_CONSONANTS + "aeiouy") for _ in range(rng.randint(5, 8)))
            else:
                stem = "".join(self._syllable() for _ in range(rng.choice((1, 2, 2, 3))))
                if endings and rng.random() < 0.7:
                    stem += rng.choice(endings)
            if 4 <= len(stem) <= 10 and split_of(stem) is self._split and stem not in _REAL_WORDS:
                return stem.capitalize()

    def first(self) -> str:
        return self._real_or_invented(words.FIRST_NAMES, _FIRST_ENDINGS)

    def last(self) -> str:
        return self._real_or_invented(words.LAST_NAMES, _LAST_ENDINGS)

    def person(self) -> str:
        return f"{self.first()} {self.last()}" if self._rng.random() < 0.3 else self.first()

    def city(self) -> str:
        city = self._real_or_invented(words.CITIES, _CITY_ENDINGS)
        return f"{self._rng.choice(CITY_PREFIXES)} {city}" if self._rng.random() < 0.1 else city

    def _real_or_invented(self, real: tuple[str, ...], endings: tuple[str, ...]) -> str:
        return self._rng.choice(real) if self._rng.random() < self._real_share else self.word(endings)

    def company(self) -> str:
        draw = self._rng.random()
        if draw < 0.5:
            return f"{self.word()} {self._rng.choice(words.COMPANY_SUFFIXES)}"
        return f"{self.word()} and {self.word()}" if draw < 0.6 else self.word()

    def thing(self) -> str:
        """An invented common noun, in lower case."""
        return self.word().lower()
